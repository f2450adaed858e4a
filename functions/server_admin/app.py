"""The Lambda handler of the function `server_admin`."""

from homeserver.web.routing import lambda_handler_for
from server_admin.routes import router

lambda_handler = lambda_handler_for(router)
