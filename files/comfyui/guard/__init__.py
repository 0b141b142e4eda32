"""Ends ComfyUI before its port opens unless a stranger is really refused.

ComfyUI skips a custom node whose import fails and serves on, so a broken ComfyUI-Login means no login at
all. The check stands in aiohttp's on_startup: it runs after every node was loaded and before a site listens,
whichever of the two nodes came first. It asks the middlewares themselves, since a login page without its
middleware protects nothing.
"""

import logging
import os
import sys
from functools import partial

from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from server import PromptServer

EXIT_STATUS = 78  # EX_CONFIG
NODE_CLASS_MAPPINGS: dict[str, type] = {}


async def status_for_stranger(app: web.Application, path: str) -> int:
    """The HTTP status of a GET without a token, by the middlewares alone; 200 when they let it through."""

    async def reached(request: web.Request) -> web.Response:
        return web.Response()

    handler = reached
    for middleware in reversed(app.middlewares):
        handler = partial(middleware, handler=handler)
    try:
        return (await handler(make_mocked_request("GET", path, app=app))).status
    except web.HTTPException as answer:
        return answer.status


async def open_door(app: web.Application) -> str | None:
    """Why a stranger would come in, or None."""
    if not any(resource.canonical == "/login" for resource in app.router.resources()):
        return "ComfyUI-Login is not loaded (see 'Cannot import' above; an empty key file is one cause)"
    if await status_for_stranger(app, "/system_stats") != 401:
        return "ComfyUI-Login is half loaded, nothing asks for the token (see 'Cannot import' above)"
    if await status_for_stranger(app, "/system_stats?token=") != 401:
        return "no password is set, login/PASSWORD is missing or empty"
    return None


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
