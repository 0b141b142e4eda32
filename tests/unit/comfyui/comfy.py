"""A small ComfyUI, a login with ComfyUI-Login's holes, and the guard node, loaded as ComfyUI loads it."""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import bcrypt
from aiohttp import web
from aiohttp_session import get_session, setup
from aiohttp_session.cookie_storage import EncryptedCookieStorage
from cryptography.fernet import Fernet

GUARD = Path(__file__).parents[3] / "files" / "comfyui" / "guard"
PASSWORD = "right password"  # noqa: S105
TOKEN = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()


def _alone(name: str) -> Any:
    """One module of the guard that needs nothing of ComfyUI."""
    spec = importlib.util.spec_from_file_location(f"gpuhost_guard_{name}", GUARD / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look there
    spec.loader.exec_module(module)
    return module


attempts = _alone("attempts")
Inserted = Callable[[web.Application], None]


class Ended(Exception):
    """The guard ended the process."""


@dataclass
class Comfy:
    """One server. `reached`: (method, path) of what came through to a handler, or to a middleware of another node."""

    folder: Path
    upload_mib: float = 1
    app: web.Application = field(default_factory=lambda: web.Application(client_max_size=1 << 20))
    reached: list[tuple[str, str]] = field(default_factory=list)
    port: int = 0
    guard: Any = None

    def __post_init__(self) -> None:
        for path, text in {"ComfyUI/login/PASSWORD": f"{TOKEN}\ngenai\n", "ComfyUI/folder_paths.py": ""}.items():
            (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / path).write_text(text)
        (self.folder / "auth/ComfyUI-Login").mkdir(parents=True)
        self.new_key()

    @property
    def key_file(self) -> Path:
        return self.folder / "auth/ComfyUI-Login/.secret-key.txt"

    def new_key(self) -> None:
        self.key_file.write_text(f"{Fernet.generate_key().decode()},2026-01-01T00:00:00")

    def add_login(self) -> None:
        """ComfyUI-Login: its session, its page, its check with what it lets through."""
        app = self.app
        setup(app, EncryptedCookieStorage(self.key_file.read_text().partition(",")[0]))

        async def page(request: web.Request) -> web.Response:
            return web.Response(text="Login")

        async def log_in(request: web.Request) -> web.Response:
            self.reached.append((request.method, request.path))
            data = await request.post()
            if not bcrypt.checkpw(str(data["password"]).encode(), TOKEN.encode()):
                return web.Response(status=302, headers={"Location": "/login?wrong_password=1"})
            (await get_session(request))["logged_in"] = True
            return web.Response(status=302, headers={"Location": "/"})

        @web.middleware
        async def check(request: web.Request, handler: Any) -> web.StreamResponse:
            if request.path == "/login" or request.path.endswith((".css", ".css.map", ".js", ".ico")):
                return await handler(request)
            if (await get_session(request)).get("logged_in"):
                return await handler(request)
            if header := request.headers.get("Authorization"):
                kind, given = header.split()
                if kind == "Bearer" and given == TOKEN:
                    return await handler(request)
            if request.query.get("token") == TOKEN:
                return await handler(request)
            return web.json_response({"error": "Authentication required."}, status=401)

        app.router.add_get("/login", page)
        app.router.add_post("/login", log_in)
        app.router.add_get("/old_css/style.css", page)
        app.middlewares.append(check)

    def add_routes(self) -> None:
        """Every route under its path and under /api, a sub-application, a web socket; as ComfyUI's."""

        async def answer(request: web.Request) -> web.Response:
            self.reached.append((request.method, request.path))
            return web.json_response({"bytes": len(await request.read())})

        async def form(request: web.Request) -> web.Response:
            self.reached.append((request.method, request.path))
            return web.json_response({"fields": len(await request.post())})

        async def socket(request: web.Request) -> web.WebSocketResponse:
            self.reached.append((request.method, request.path))
            made = web.WebSocketResponse()
            await made.prepare(request)
            await made.send_str("hello")
            await made.close()
            return made

        for start in ("", "/api"):
            for path in ("/", "/system_stats", "/userdata/{file}", "/userdata/{file}/move/{dest}", "/{name}.js"):
                self.app.router.add_route("*", start + path, answer)
            self.app.router.add_post(f"{start}/upload/image", form)
            self.app.router.add_get(f"{start}/ws", socket)
        internal = web.Application()
        internal.router.add_get("/logs", answer)
        self.app.add_subapp("/internal", internal)

    def add_guard(self) -> None:
        """Import the node as ComfyUI does, from beside ComfyUI-Login."""
        node = self.folder / "auth/gpuhost-guard"
        shutil.copytree(GUARD, node, dirs_exist_ok=True)
        comfyui: dict[str, Any] = {
            "folder_paths": SimpleNamespace(__file__=str(self.folder / "ComfyUI/folder_paths.py")),
            "server": SimpleNamespace(PromptServer=SimpleNamespace(instance=SimpleNamespace(app=self.app))),
            "comfy": ModuleType("comfy"),
            "comfy.cli_args": SimpleNamespace(args=SimpleNamespace(max_upload_size=self.upload_mib)),
        }
        name = str(node).replace(".", "_x_")
        spec = importlib.util.spec_from_file_location(name, node / "__init__.py")
        assert spec and spec.loader
        self.guard = importlib.util.module_from_spec(spec)
        sys.modules[name] = self.guard
        with mock.patch.dict(sys.modules, comfyui):
            spec.loader.exec_module(self.guard)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Comfy]:
        """From on_startup on, as ComfyUI does. Raises Ended when the guard ends the process."""
        runner = web.AppRunner(self.app, access_log=None, shutdown_timeout=1)
        try:
            with mock.patch("os._exit", side_effect=Ended):
                await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.port = runner.addresses[0][1]
            yield self
        finally:
            await runner.cleanup()

    async def ask(
        self,
        method: str,
        target: str,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        address: str = "127.0.0.1",
    ) -> tuple[int, dict[str, str], bytes]:
        """One request, its line as it stands: (status, headers in lower case, the body's first bytes)."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, local_addr=(address, 0))
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
        if not any(line.lower().startswith("host:") for line in lines):
            lines.append("Host: here")
        if body and not any(line.lower().startswith(("transfer-encoding:", "content-length:")) for line in lines):
            lines.append(f"Content-Length: {len(body)}")
        writer.write("\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape") + body)
        head = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        pairs = (line.split(": ", 1) for line in head[1:] if line)
        answered = {name.lower(): value for name, value in pairs}
        length = 0 if method == "HEAD" else int(answered.get("content-length", 0))
        text = await reader.readexactly(length)
        writer.close()
        return int(head[0].split()[1]), answered, text

    async def status(self, method: str, target: str, *headers: tuple[str, str], body: bytes = b"") -> int:
        return (await self.ask(method, target, headers, body))[0]

    async def log_in(self, password: str = PASSWORD, address: str = "127.0.0.1") -> tuple[int, dict[str, str]]:
        form = [("Content-Type", "application/x-www-form-urlencoded")]
        body = f"username=genai&password={password.replace(' ', '+')}".encode()
        status, headers, _ = await self.ask("POST", "/login", form, body, address)
        return status, headers


def guarded(folder: Path, last: Inserted = lambda app: None, first: Inserted = lambda app: None) -> Comfy:
    """With all nodes loaded and the routes added; `first` and `last`: other nodes, before the guard and after it."""
    comfy = Comfy(folder)
    first(comfy.app)
    comfy.add_guard()
    comfy.add_login()
    last(comfy.app)
    comfy.add_routes()
    return comfy


def while_serving(comfy: Comfy, asks: Callable[[Comfy], Awaitable[None]]) -> None:
    async def run() -> None:
        async with comfy.serving():
            await asks(comfy)

    asyncio.run(run())
