"""Lets in who has logged in, and nobody else.

It takes the place of the application's own handler, so it comes before the routing and every middleware, also before
one that another node inserts later. ComfyUI-Login's own check comes after it and stays what it is: it lets every path
through that ends in .js or .css, POST and all, and compares passwords in the event loop, as often as anybody asks.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
from collections.abc import Awaitable, Callable

import bcrypt
from aiohttp import web
from aiohttp_session import AbstractStorage

from .attempts import Attempts

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

LOGIN = ("POST", "/login")
# What a stranger may ask for, byte by byte: nothing is decoded, no slash and no dot is taken away. The style sheet is
# all that the login page needs.
OPEN = frozenset({("GET", "/login"), LOGIN, ("GET", "/old_css/style.css")})

LOGIN_BYTES_MAX = 4096
LOGIN_READ_S = 10.0
PASSWORD_BYTES_MAX = 72  # what bcrypt looks at


class Gate:
    """Stands before `inner`. `token`: what ComfyUI-Login takes as the API's token, the hash of the password;
    `sessions`: opens its cookies; `body_max`, `upload_max`: bytes of a request, and of one with files."""

    def __init__(
        self, inner: Handler, token: str, sessions: AbstractStorage, body_max: int, upload_max: int, attempts: Attempts
    ) -> None:
        if not token:
            raise ValueError("there is no password")
        self._inner = inner
        self._token = token.encode()
        self._sessions = sessions
        self._body_max = body_max
        self._upload_max = upload_max
        self._attempts = attempts
        self._checking = asyncio.Lock()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer in the application's place, or let it answer."""
        asked = (request.method, request.raw_path.partition("?")[0])
        known = await self._is_known(request)
        if not known and asked not in OPEN:
            return _turned_away(request)
        refused = self._too_large(request, asked, known)
        if refused is None and asked == LOGIN:
            refused = await self._refused_login(request)
        return refused or await self._inner(request)

    # -- who it is -----------------------------------------------------------------------------------------------------

    async def _is_known(self, request: web.Request) -> bool:
        """True with a cookie of a login, or the token; what of them cannot be read is none."""
        try:
            session = await self._sessions.load_session(request)
            if session.get("logged_in"):
                return True
            words = request.headers.get("Authorization", "").split()
            if words and len(words) != 2:  # ComfyUI-Login raises there
                return False
            sent = words[1] if words and words[0] == "Bearer" else None
            return self._is_token(sent) or self._is_token(request.query.get("token"))
        except ValueError:  # bytes in a cookie that are no text, for one
            return False

    def _is_token(self, sent: str | None) -> bool:
        return sent is not None and hmac.compare_digest(sent.encode(errors="surrogatepass"), self._token)

    # -- how much it sends ---------------------------------------------------------------------------------------------

    def _too_large(self, request: web.Request, asked: tuple[str, str], known: bool) -> web.Response | None:
        """A body without a length is refused to strangers; who is known meets ComfyUI's own limit there."""
        bytes_max = self._upload_max if request.content_type == "multipart/form-data" else self._body_max
        if asked == LOGIN or not known:
            if "Transfer-Encoding" in request.headers:
                return _refusal(411, "Say the length of the body.")
            if "Content-Encoding" in request.headers:
                return _refusal(415, "Send the body as it is.")
            bytes_max = LOGIN_BYTES_MAX
        if (request.content_length or 0) > bytes_max:
            return _refusal(413, f"A request may have {bytes_max} bytes here.")
        return None

    # -- logging in ----------------------------------------------------------------------------------------------------

    async def _refused_login(self, request: web.Request) -> web.Response | None:
        """None when the password is right: ComfyUI-Login's own handler then looks once more, and makes the session."""
        if _comes_from_another_site(request):  # a page elsewhere must not use up the operator's attempts
            return _refusal(403, "This form is on another site.")
        try:
            async with asyncio.timeout(LOGIN_READ_S):
                password = (await request.post()).get("password")
        except (ValueError, LookupError, AssertionError):  # aiohttp's words for a broken form
            password = None
        except TimeoutError:
            return _refusal(408, "The form did not arrive.")
        if not isinstance(password, str):
            return _refusal(400, "Send username and password as a form.")
        wait_s = self._attempts.wait_s(request.remote or "")
        if wait_s:
            return _refusal(429, "Too many attempts, try again later.", {"Retry-After": str(math.ceil(wait_s))})
        if await self._is_right(password):
            return None
        logging.warning("gpuhost-guard: a login from %s had a wrong password", request.remote)
        return web.Response(status=302, headers={"Location": "/login?wrong_password=1"})

    async def _is_right(self, password: str) -> bool:
        try:
            given = password.encode()
        except UnicodeEncodeError:
            return False
        if len(given) > PASSWORD_BYTES_MAX:
            return False
        async with self._checking:  # one at a time, and in a thread: it takes a quarter of a second of a core
            try:
                return await asyncio.to_thread(bcrypt.checkpw, given, self._token)
            except ValueError:
                return False


def _turned_away(request: web.Request) -> web.Response:
    """As ComfyUI-Login answers."""
    if request.method in ("GET", "HEAD") and "text/html" in request.headers.get("Accept", ""):
        return web.Response(status=302, headers={"Location": "/login"})
    return _refusal(401, "Authentication required.")


def _refusal(status: int, error: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"error": error}, status=status, headers=headers)


def _comes_from_another_site(request: web.Request) -> bool:
    """By the headers that a browser writes and a page cannot."""
    origin = request.headers.get("Origin")
    return origin is not None and origin.partition("://")[2].lower() != request.host.lower()
