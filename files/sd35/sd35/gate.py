"""What happens to a request before the application sees it: the token, and the size of its body. ASGI."""

from __future__ import annotations

import asyncio
import secrets

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sd35.refusals import Refusal

OPEN_PATHS = {"/health"}
BODY_BYTES = 2**16
BODY_S = 15.0


class Gate:
    """Whoever has not the token gets to the open paths only; whoever has it sends a small body, and soon."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        try:
            if scope["path"] not in OPEN_PATHS and not self._knows_token(scope):
                headers = {"WWW-Authenticate": "Bearer"}
                raise Refusal(401, "invalid_api_key", "a valid bearer token is needed", headers=headers)
            body = await _read(receive)
        except Refusal as refusal:
            await refusal.response()(scope, receive, send)
            return
        await self._app(scope, _again(body, receive), send)

    def _knows_token(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(given) != 1:
            return False
        scheme, _, token = given[0].partition(b" ")
        return scheme.lower() == b"bearer" and secrets.compare_digest(token.strip(b" "), self._token)


async def _read(receive: Receive) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            while True:
                message = await receive()
                body += message.get("body", b"")
                if len(body) > BODY_BYTES:
                    raise Refusal(413, "body_too_large", f"a request has at most {BODY_BYTES} bytes")
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise Refusal(408, "body_too_slow", f"the request was not there within {BODY_S:g} s") from None


def _again(body: bytes, receive: Receive) -> Receive:
    """The body as one message, then whatever comes: the client's going."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def read() -> Message:
        return first.pop() if first else await receive()

    return read
