"""The Lambda handler of the function `client_login_pages`."""

from client_login_pages.routes import router
from homeserver.web.routing import lambda_handler_for

lambda_handler = lambda_handler_for(router)
