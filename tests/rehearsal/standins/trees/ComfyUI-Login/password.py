# ruff: noqa: PTH103, PTH110, PTH118, PTH120, PTH123
# Paths are str here, as in the real one.
"""The login. State: <ComfyUI>/login/PASSWORD (line 1 a bcrypt hash, line 2 the user) and .secret-key.txt next to us."""

import base64
import logging
import os
from datetime import datetime, timedelta

import bcrypt
import folder_paths
import server
from aiohttp import web
from aiohttp_session import get_session, setup
from aiohttp_session.cookie_storage import EncryptedCookieStorage
from comfy.cli_args import args

KEY_FILE = os.path.join(os.path.dirname(__file__), ".secret-key.txt")
PASSWORD_FILE = os.path.join(os.path.dirname(folder_paths.__file__), "login", "PASSWORD")
KEY_AGE_LIMIT = timedelta(days=30)
OPEN_SUFFIXES = (".css", ".css.map", ".js", ".ico")

app = server.PromptServer.instance.app
routes = server.PromptServer.instance.routes
token = ""


def session_key() -> str:
    """The key in the file, or a new one when it is missing or old; an empty file is an error, as in the real one."""
    try:
        with open(KEY_FILE) as file:
            key, made = file.read().split(",")
        if datetime.now() - datetime.fromisoformat(made) <= KEY_AGE_LIMIT:
            return key
    except FileNotFoundError:
        pass
    key = base64.urlsafe_b64encode(os.urandom(32)).decode()
    with open(KEY_FILE, "w") as file:
        file.write(f"{key},{datetime.now().isoformat()}")
    return key


def load_token() -> None:
    """The token is line 1 of PASSWORD, the hash itself; it stays empty while there is no file."""
    global token
    try:
        with open(PASSWORD_FILE) as file:
            token = file.readline().strip()
            logging.info("For direct API calls, use token=%s", token)
    except FileNotFoundError:
        logging.error("Please set up your password before use.")


setup(app, EncryptedCookieStorage(session_key()))


@routes.get("/login")
async def get_login(request: web.Request) -> web.Response:
    if (await get_session(request)).get("logged_in"):
        raise web.HTTPFound("/")
    return web.Response(text="<!DOCTYPE html><title>Login</title>", content_type="text/html")


@routes.post("/login")
async def post_login(request: web.Request) -> web.Response:
    data = await request.post()
    name, password = data.get("username"), data.get("password").encode()  # no password: 500, as in the real one
    if os.path.exists(PASSWORD_FILE):
        with open(PASSWORD_FILE, "rb") as file:
            stored = file.read().split(b"\n")[0]
        if not bcrypt.checkpw(password, stored):
            return web.HTTPFound("/login?wrong_password=1")
    else:
        with open(PASSWORD_FILE, "wb") as file:
            file.write(bcrypt.hashpw(password, bcrypt.gensalt()) + b"\n" + name.encode())
    (await get_session(request))["logged_in"] = True
    return web.HTTPFound("/")


@routes.get("/logout")
async def get_logout(request: web.Request) -> web.Response:
    (await get_session(request))["logged_in"] = False
    return web.HTTPFound("/login")


os.makedirs(os.path.dirname(PASSWORD_FILE), exist_ok=True)
load_token()


@web.middleware
async def check_login_status(request: web.Request, handler: web.RequestHandler) -> web.StreamResponse:
    if request.path == "/login" or request.path.endswith(OPEN_SUFFIXES):
        return await handler(request)
    if token == "":
        load_token()
    if (await get_session(request)).get("logged_in"):
        return await handler(request)
    if args.enable_cors_header in (None, "*", request.headers.get("Origin")):
        if authorization := request.headers.get("Authorization"):
            kind, given = authorization.split()
            if kind == "Bearer" and given == token:
                return await handler(request)
        if request.query.get("token") == token:
            return await handler(request)
    if "text/html" in request.headers.get("Accept", ""):
        raise web.HTTPFound("/login")
    return web.json_response({"error": "Authentication required."}, status=401)


app.middlewares.append(check_login_status)
app.router.add_static("/old_css/", os.path.join(os.path.dirname(__file__), "old_css"))
