"""The Lambda handler."""

from client_legacy_events.routes import router
from homeserver.web.routing import lambda_handler_for

lambda_handler = lambda_handler_for(router)
