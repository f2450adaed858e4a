"""The doors through which the homeserver reaches the emulator: botocore's event, and the slim client's transport."""

import io
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import botocore
import botocore.session
from botocore.awsrequest import AWSResponse

from local.emulator import Emulator


class _Body(io.BytesIO):
    """The raw body of an answer, in the shape that botocore reads."""

    def stream(self, **_: Any) -> Any:
        yield self.read()


def hook_session(session: botocore.session.Session, emulator: Emulator) -> None:
    """Answer every request of this session's clients in the process. Must come before the first client."""

    def before_send(request: Any, event_name: str, **_: Any) -> AWSResponse:
        service = event_name.split(".")[1]
        body = request.body or b""
        if not isinstance(body, (bytes, bytearray)):
            body = body.read() if hasattr(body, "read") else str(body).encode()
        if service == "dynamodb":
            target = request.headers["X-Amz-Target"]
            target = target if isinstance(target, str) else target.decode()
            status, headers, answer = emulator.call_dynamodb(target, bytes(body))
        else:
            address = urlsplit(request.url)
            path = f"{address.path}?{address.query}" if address.query else address.path
            asked = {
                name.lower(): value if isinstance(value, str) else value.decode()
                for name, value in request.headers.items()
            }
            status, headers, answer = emulator.call(service, request.method, path, asked, bytes(body))
        response = AWSResponse(request.url, status, botocore.compat.HTTPHeaders.from_dict(headers), _Body(answer))
        response._content = answer
        return response

    def unsigned(**_: Any) -> Any:
        return botocore.UNSIGNED  # nobody checks a signature here, and making one costs

    session.register("before-send", before_send)
    session.register("choose-signer", unsigned)


def hook_slim_client(module: ModuleType, emulator: Emulator) -> None:
    """Answer the requests of the client without botocore: `transport(service, target, body) -> (status, body)`.

    `target` is DynamoDB's operation or Lambda's function; a function that fails raises the module's FunctionFailed.
    """

    def transport(service: str, target: str, body: bytes) -> tuple[int, bytes]:
        if service == "dynamodb":
            status, _, answer = emulator.call_dynamodb(target, body)
            return status, answer
        if service == "lambda":
            name = target.rsplit(":", 1)[-1]
            path = name if "/functions/" in name else f"/2015-03-31/functions/{name}/invocations"
            status, headers, answer = emulator.call("lambda", "POST", path, {}, body)
            if "X-Amz-Function-Error" in headers:
                raise module.FunctionFailed(answer.decode())
            return status, answer
        status, _, answer = emulator.call(service, "POST", "/", {"x-amz-target": target}, body)
        return status, answer

    module.transport = transport  # type: ignore[attr-defined]  # the slim client's door, a module-level name
