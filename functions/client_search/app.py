"""The Lambda handler of the function `client_search`."""

from client_search.routes import router
from homeserver.web.routing import lambda_handler_for

lambda_handler = lambda_handler_for(router)
