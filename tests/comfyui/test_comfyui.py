"""The guard before the real ComfyUI and the real ComfyUI-Login, at the commits of the catalogue, on the CPU.

`make comfyui-check`: not part of the suite, for torch and what ComfyUI needs are large. What runs is the command line
of templates/comfyui.yml.j2, on folders as the container has them.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import runpy
import shutil
import socket
import subprocess
import sys
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import bcrypt
import pytest

from tests.unit.comfyui.test_gate import HOLES

pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).parents[2]
SOURCES = Path(os.environ.get("COMFYUI_SOURCES", ROOT / "build/comfyui/sources"))  # ComfyUI, ComfyUI-Login
CATALOGUE: dict[str, Any] = runpy.run_path(str(ROOT / "group_data/all.py"))
ENTRY: dict[str, Any] = CATALOGUE["services"]["comfyui-qwen"]
PASSWORD = "right password"  # noqa: S105
TOKEN = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(12)).decode()
BEARER = {"Authorization": f"Bearer {TOKEN}"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
START_S = 240  # on a busy machine
REFUSED = 78  # what the guard ends with
PRIVATE = "the operator's own"
MOVE, STYLE = "/userdata/private.json/move/x.js", "/userdata/user.css"
# Of the real one; each under its path and under /api.
ROUTES = [
    *("/", "/ws", "/prompt", "/queue", "/history", "/free", "/interrupt", "/object_info", "/system_stats", "/settings"),
    *(
        "/users",
        "/userdata?dir=",
        "/v2/userdata",
        "/upload/image",
        "/upload/mask",
        "/view?filename=a.png",
        "/embeddings",
    ),
    *(
        "/models",
        "/models/checkpoints",
        "/experiment/models",
        "/internal/logs",
        "/internal/folder_paths",
        "/extensions",
    ),
    *("/internal/files/output", "/workflow_templates", "/templates/index.json", "/docs/", "/i18n", "/global_subgraphs"),
    *("/scripts/app.js", "/user.css", "/assets/index.js", "/favicon.ico", "/extensions/x.js", "/view_metadata/loras"),
]

Answer = tuple[int, str, dict[str, str]]


class Server:
    """One ComfyUI. `guard`: with our node."""

    def __init__(self, root: Path, guard: bool = True, password: str | None = f"{TOKEN}\nadmin\n") -> None:
        self.root, self.log = root, root / "log"
        for name in ("data/custom_nodes", "outputs", "nodes/auth", "nodes/extra"):
            (root / name).mkdir(parents=True)
        without = shutil.ignore_patterns(".git")
        shutil.copytree(SOURCES / "ComfyUI", root / "ComfyUI", ignore=without)
        shutil.copytree(SOURCES / "ComfyUI-Login", root / "nodes/auth/ComfyUI-Login", ignore=without)
        if guard:
            shutil.copytree(ROOT / "files/comfyui/guard", root / "nodes/auth/gpuhost-guard")
        (root / "ComfyUI/login").mkdir()
        if password is not None:
            (root / "ComfyUI/login/PASSWORD").write_text(password)
        nodes = {"base_path": str(root / "nodes"), "custom_nodes": "extra\nauth\n"}
        (root / "paths.yaml").write_text(json.dumps({"gpuhost_nodes": nodes}))  # JSON is YAML
        self.new_key()

    def new_key(self) -> None:
        """The key of the cookies, as it is seeded."""
        key = urlsafe_b64encode(os.urandom(32)).decode()
        (self.root / "nodes/auth/ComfyUI-Login/.secret-key.txt").write_text(f"{key},{datetime.now().isoformat()}")

    def start(self) -> bool:
        """True once its port is open, False when it ended before or takes too long."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        template = (ROOT / "templates/comfyui.yml.j2").read_text()
        folders = {
            "/app/ComfyUI": self.root / "ComfyUI",
            "/data": self.root / "data",
            "/outputs": self.root / "outputs",
        }
        folders |= {
            "/app/venv/bin/python": Path(sys.executable),
            "/config/extra_model_paths.yaml": self.root / "paths.yaml",
        }
        written = re.findall(r"^      - ([/-]\S+)$", template, re.MULTILINE)
        assert "--disable-auto-launch" in written
        command = [*written, *ENTRY["arguments"]]
        for inside, here in sorted(folders.items(), reverse=True):
            command = [re.sub(rf"(^|=|//){inside}(?=/|$)", rf"\g<1>{here}", word) for word in command]
        command = [word for word in command if not word.startswith("--listen")]
        environment = {**os.environ, **ENTRY["environment"], "HF_HUB_OFFLINE": "1", "HOME": str(self.root / "data")}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, "--cpu", "--listen=127.0.0.1", f"--port={self.port}"],
                cwd=self.root / "ComfyUI",
                env=environment,
                stdout=log,
                stderr=log,
            )
        ends = time.monotonic() + START_S
        while self.process.poll() is None and time.monotonic() < ends:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return True
            time.sleep(0.1)
        return False

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def ask(self, method: str, path: str, body: str | None = None, **headers: str) -> Answer:
        """One request, its path as it stands."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection._validate_path = lambda url: None  # type: ignore[attr-defined]
        try:
            connection.request(method, path, body, {name.replace("_", "-"): text for name, text in headers.items()})
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace"), dict(answer.headers)
        finally:
            connection.close()

    def status(self, method: str, path: str, body: str | None = None, **headers: str) -> int:
        return self.ask(method, path, body, **headers)[0]

    def log_in(self, password: str) -> Answer:
        return self.ask("POST", "/login", f"username=admin&password={password.replace(' ', '+')}", **FORM)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With the guard, and a file of the operator's."""
    made = Server(tmp_path_factory.mktemp("guarded"))
    assert made.start(), made.log.read_text()
    assert made.status("POST", "/userdata/private.json", PRIVATE, **BEARER) == 200
    yield made
    made.stop()


def test_it_is_the_version_of_the_catalogue(server: Server) -> None:
    status, text, _ = server.ask("GET", "/system_stats", **BEARER)
    assert (
        status == 200
        and f"v{json.loads(text)['system']['comfyui_version']}" == CATALOGUE["installs"]["comfyui"]["version"]
    )


def test_without_the_guard_the_holes_are_open(tmp_path: Path) -> None:
    """What ComfyUI-Login alone lets in: so the tests below can fail."""
    bare = Server(tmp_path / "bare", guard=False)
    assert bare.start(), bare.log.read_text()
    try:
        assert bare.status("GET", "/system_stats") == 401
        assert bare.status("POST", "/userdata/private.json", PRIVATE, **BEARER) == 200
        assert [bare.status("POST", path, "body") for path in (MOVE, STYLE)] == [200, 200]
        assert bare.ask("GET", "/userdata/x.js")[:2] == (200, PRIVATE)
        assert bare.status("GET", "/system_stats", Authorization="Bearer") == 500
        assert bare.log_in("wrong")[0] == 302 and bare.status("OPTIONS", "/system_stats") != 401
    finally:
        bare.stop()


def test_a_stranger_reaches_the_login_page_and_its_style_sheet(server: Server) -> None:
    assert {path: server.status("GET", path) for path in ("/login", "/old_css/style.css")} == {
        "/login": 200,
        "/old_css/style.css": 200,
    }
    asked = {(method, path) for method, path in HOLES if method != "BREW"}
    asked |= {
        (m, f"{at}{path}") for m in ("GET", "POST", "OPTIONS", "DELETE") for at in ("", "/api") for path in ROUTES
    }
    asked |= {(each["method"], each["path"]) for each in ENTRY["auth"]["locked_requests"]}
    asked |= {("POST", MOVE), ("POST", STYLE), ("GET", "/userdata/x.js")}
    told = {each: server.status(*each) for each in asked}
    assert {each: status for each, status in told.items() if status != 401} == {}
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec_WebSocket_Version": "13",
        "Sec_WebSocket_Key": "A" * 22 + "==",
    }
    assert server.status("GET", "/ws", **upgrade) == 401 and server.status("GET", "/ws", **upgrade, **BEARER) == 101
    for headers in (
        {"Authorization": "Bearer"},
        {"Cookie": "AIOHTTP_SESSION=forged"},
        {"Authorization": f"bearer {TOKEN}"},
    ):
        assert server.status("GET", "/system_stats", **headers) == 401
    assert server.ask("GET", "/userdata/private.json", **BEARER)[:2] == (200, PRIVATE)
    assert sorted(path.name for path in (server.root / "data/user/default").iterdir()) == ["private.json"]


def test_a_request_may_be_so_large(server: Server) -> None:
    """Refused by what it says of itself, before a byte of it is read."""
    files = {"Content_Type": "multipart/form-data; boundary=x"}
    for path, limit, more in (("/prompt", 32, {}), ("/upload/image", 100, files)):
        for mib, refused in ((limit, False), (limit + 1, True)):
            length = str((mib << 20) if not refused else (limit << 20) + 1)
            with socket.create_connection(("127.0.0.1", server.port), 5) as asking:
                lines = [
                    f"POST {path} HTTP/1.1",
                    "Host: x",
                    f"Authorization: Bearer {TOKEN}",
                    f"Content-Length: {length}",
                ]
                lines += [f"{name.replace('_', '-')}: {text}" for name, text in more.items()]
                asking.sendall("\r\n".join([*lines, "", ""]).encode())
                asking.settimeout(1)
                try:
                    said = asking.recv(64)
                except TimeoutError:
                    said = b""
            assert said.startswith(b"HTTP/1.1 413") == refused, (path, mib, said)
    assert server.status("POST", "/login", "password=" + "x" * 5000, **FORM) == 413


def test_a_cookie_ends_with_the_key_that_made_it(server: Server) -> None:
    status, _, headers = server.log_in(PASSWORD)
    assert status == 302 and headers["Location"] == "/"
    cookie = {"Cookie": headers["Set-Cookie"].partition(";")[0].replace('"', "")}
    assert server.status("GET", "/system_stats", **cookie) == 200
    server.stop()
    server.new_key()
    assert server.start(), server.log.read_text()
    assert server.status("GET", "/system_stats", **cookie) == 401


def test_attempts_to_log_in_have_a_limit_and_keep_nobody_waiting(server: Server) -> None:
    """bcrypt takes a quarter of a second of a core, each time."""
    with ThreadPoolExecutor(40) as pool:
        trying = [pool.submit(server.log_in, f"wrong {number}") for number in range(40)]
        waited_s = []
        while not all(each.done() for each in trying):
            began = time.monotonic()
            assert server.status("GET", "/login") == 200
            waited_s.append(time.monotonic() - began)
        answers = [each.result()[0] for each in trying]
    assert set(answers) == {302, 429} and answers.count(302) <= 12, answers
    assert max(waited_s) < 2, waited_s
    assert server.status("GET", "/system_stats", **BEARER) == 200


@pytest.mark.parametrize(
    ("password", "key", "cause"),
    [(None, True, "no password is set"), (f"{TOKEN}\n", False, "ComfyUI-Login is not loaded")],
    ids=["no password", "an empty key"],
)
def test_it_ends_rather_than_stand_open(tmp_path: Path, password: str | None, key: bool, cause: str) -> None:
    open_one = Server(tmp_path / "open", password=password)
    if not key:
        (open_one.root / "nodes/auth/ComfyUI-Login/.secret-key.txt").write_text("")
    try:
        assert not open_one.start()
        assert open_one.process.returncode == REFUSED
        assert f"gpuhost-guard: ended before the port opened: {cause}" in open_one.log.read_text()
    finally:
        open_one.stop()


def test_its_log_shows_no_token(server: Server) -> None:
    assert TOKEN not in server.log.read_text() and "[redacted]" in server.log.read_text()
