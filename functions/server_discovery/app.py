"""The Lambda handler of the function `server_discovery`.

It has the API's `$default` route too: whatever no other function serves ends here, and the inner router's answer to an
unknown path or method is the server's.
"""

from homeserver.web.routing import lambda_handler_for
from server_discovery.routes import router

lambda_handler = lambda_handler_for(router)
