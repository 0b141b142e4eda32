"""Ends ComfyUI before its port opens unless a stranger is really refused, and stands before everything from then on.

ComfyUI skips a custom node whose import fails and serves on, so a broken ComfyUI-Login means no login at
all. The check stands in aiohttp's on_startup: it runs after every node was loaded and before a site listens,
whichever of the two nodes came first. It asks the middlewares themselves, since a login page without its
middleware protects nothing; then it sets the gate (gate.py) before them, and asks that as well.

Settings: the environment's GPUHOST_MAX_BODY_MIB, for a request without files; ComfyUI's own --max-upload-size, for one
with files.
"""

import logging
import os
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import folder_paths
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from comfy.cli_args import args
from server import PromptServer

EXIT_STATUS = 78  # EX_CONFIG
NODE_CLASS_MAPPINGS: dict[str, type] = {}

LOGIN_NODE = Path(__file__).parent.with_name("ComfyUI-Login")
PASSWORD = Path(folder_paths.__file__).parent / "login" / "PASSWORD"
MIB = 1 << 20
MAX_BODY_MIB = "32"
# What ComfyUI-Login alone answers to anybody: refused, or the gate does not stand.
STRANGERS = [("GET", "/system_stats"), ("GET", "/scripts/app.js"), ("POST", "/userdata/x.js"), ("OPTIONS", "/")]


async def status_for_stranger(app: web.Application, path: str) -> int:
    """The HTTP status of a GET without a token, by the middlewares alone; 200 when they let it through."""

    async def reached(request: web.Request) -> web.Response:
        return web.Response()

    handler: Callable[[web.Request], Awaitable[web.StreamResponse]] = reached
    for middleware in reversed(app.middlewares):
        handler = partial(middleware, handler=handler)
    try:
        answer: web.StreamResponse = await handler(make_mocked_request("GET", path, app=app))
        return answer.status
    except web.HTTPException as ended:
        return ended.status


async def open_door(app: web.Application) -> str | None:
    """Why a stranger would come in, or None."""
    if not any(resource.canonical == "/login" for resource in app.router.resources()):
        return "ComfyUI-Login is not loaded (see 'Cannot import' above; an empty key file is one cause)"
    if await status_for_stranger(app, "/system_stats") != 401:
        return "ComfyUI-Login is half loaded, nothing asks for the token (see 'Cannot import' above)"
    if await status_for_stranger(app, "/system_stats?token=") != 401:
        return "no password is set, login/PASSWORD is missing or empty"
    await set_gate(app)
    return None


async def set_gate(app: web.Application) -> None:
    """Put the gate in the place of the application's handler. Raises when it does not stand there afterwards."""
    # Here and not above: were one of their packages missing, this node would not load, and nothing would end ComfyUI.
    from aiohttp_session.cookie_storage import EncryptedCookieStorage

    from . import attempts, gate

    key = (LOGIN_NODE / ".secret-key.txt").read_text().partition(",")[0]  # ComfyUI-Login has renewed it by now
    app._handle = gate.Gate(  # type: ignore[method-assign]  # aiohttp takes it for its server after on_startup
        app._handle,
        token=PASSWORD.read_text().partition("\n")[0].strip(),
        sessions=EncryptedCookieStorage(key),
        body_max=round(float(os.environ.get("GPUHOST_MAX_BODY_MIB", MAX_BODY_MIB)) * MIB),
        upload_max=round(args.max_upload_size * MIB),
        attempts=attempts.Attempts(attempts.OF_ONE, attempts.OF_ALL),
    ).handle
    for method, path in STRANGERS:
        status = (await app._handle(make_mocked_request(method, path, app=app))).status
        if status != 401:
            raise RuntimeError(f"{method} {path} without a login gets {status}")


async def end_if_open(app: web.Application) -> None:
    try:
        cause = await open_door(app)
    except Exception as error:
        cause = f"the login cannot be checked: {type(error).__name__}: {error}"
    if cause:
        logging.critical("gpuhost-guard: ended before the port opened: %s", cause)
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(EXIT_STATUS)  # not an exception: nothing may catch it, no thread may keep the process


PromptServer.instance.app.on_startup.append(end_if_open)
