"""The Lambda handler of the function `client_ephemeral`."""

from client_ephemeral.routes import router
from homeserver.web.routing import lambda_handler_for

lambda_handler = lambda_handler_for(router)
