"""The one botocore session that every AWS client of this process comes from.

One session is one place for credentials, for the endpoint of a test, and for the local run's hooks.
"""

import os
from functools import cache
from typing import Any

import botocore.session
from botocore.config import Config


@cache
def session() -> botocore.session.Session:
    """The process's session. Handlers registered on it before a client is made apply to that client."""
    return botocore.session.get_session()


@cache
def client(service: str) -> Any:
    """A low-level client, made at its first use and kept: creating one costs 5 to 65 ms of CPU."""
    return session().create_client(
        service,
        region_name=os.environ.get("AWS_REGION", os.environ.get("AWS_DEFAULT_REGION", "us-east-1")),
        endpoint_url=os.environ.get("AWS_ENDPOINT_URL") or None,
        config=Config(
            connect_timeout=2,
            read_timeout=10,
            retries={"mode": "standard", "total_max_attempts": 3},
            max_pool_connections=16,
            # Nothing reads request IDs out of validated models, and the checks cost CPU on each call.
            parameter_validation=False,
            # botocore builds its own anew for every call.
            user_agent="eigenserver",
        ),
    )


# Set by the local run, where a call is a function call: threads would only cost there.
calls_stay_in_process = False
