"""Who comes through the guard's gate, asked over real connections of a real aiohttp application."""

from __future__ import annotations

import asyncio
import importlib
import runpy
import threading
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, FormData, WSServerHandshakeError, web

from .comfy import GUARD, TOKEN, Comfy, Ended, guarded, while_serving

BEARER = ("Authorization", f"Bearer {TOKEN}")
HTML = ("Accept", "text/html,*/*")
FORM = ("Content-Type", "application/x-www-form-urlencoded")


@pytest.fixture
def comfy(tmp_path: Path) -> Comfy:
    return guarded(tmp_path)


# -- strangers ---------------------------------------------------------------------------------------------------------

HOLES = [
    ("GET", "/"),
    ("GET", "/system_stats"),
    ("GET", "/system_stats?token="),
    ("GET", "/system_stats?token=wrong"),
    ("GET", f"/system_stats?token={TOKEN[:-1]}"),
    ("GET", f"/system_stats?Token={TOKEN}"),
    ("GET", f"/system_stats?token=&token={TOKEN}"),
    ("POST", "/userdata/x.js"),
    ("POST", "/userdata/user.css"),
    ("POST", "/userdata/private.json/move/x.js"),
    ("POST", "/api/userdata/private.json/move/x.js"),
    ("GET", "/userdata/x.js"),
    ("DELETE", "/userdata/x.ico"),
    ("PUT", "/userdata/x.css.map"),
    ("GET", "/core.js"),
    ("OPTIONS", "/system_stats"),
    ("HEAD", "/login"),
    ("PUT", "/login"),
    ("OPTIONS", "/login"),
    ("POST", "/old_css/style.css"),
    ("GET", "/old_css/other.css"),
    ("GET", "/old_css/"),
    ("GET", "/internal/logs"),
    ("GET", "/nothing"),
    ("BREW", "/login"),
    ("GET", "/api/login"),
    ("POST", "/api/login"),
    # Other ways to write an open path.
    ("GET", "//login"),
    ("GET", "/login/"),
    ("GET", "/./login"),
    ("GET", "/x/../login"),
    ("GET", "/%6cogin"),
    ("GET", "/login%2f"),
    ("GET", "/login%00"),
    ("GET", "/login."),
    ("GET", "/LOGIN"),
    ("GET", "/login;x"),
    ("GET", "/login#x"),
    ("GET", "/system_stats#/login"),
    ("GET", "/login/../system_stats"),
    ("GET", "/login/..%2fsystem_stats"),
    ("GET", "/login%2f..%2fsystem_stats"),
    ("GET", "/old_css/style.css/../../system_stats"),
    ("GET", "/old_css//style.css"),
    ("GET", "/system_stats%2f.css"),
    ("GET", "http://here/login"),
    ("GET", "http://here/system_stats"),
    ("OPTIONS", "*"),
]


def test_a_stranger_reaches_nothing(comfy: Comfy) -> None:
    async def asks(comfy: Comfy) -> None:
        statuses = {each: await comfy.status(*each) for each in HOLES}
        assert {each: status for each, status in statuses.items() if status not in (400, 401)} == {}
        # 400: no HTTP at all.
        assert {each for each, status in statuses.items() if status == 400} <= {("BREW", "/login")}

    while_serving(comfy, asks)
    assert comfy.reached == []


def test_without_the_gate_the_holes_are_open(tmp_path: Path) -> None:
    """That the application of these tests has them, and the tests above can fail."""
    comfy = Comfy(tmp_path)
    comfy.add_login()
    comfy.add_routes()

    async def asks(comfy: Comfy) -> None:
        for method, path in (("POST", "/userdata/x.js"), ("POST", "/userdata/private.json/move/x.js")):
            assert await comfy.status(method, path) == 200
        assert await comfy.status("GET", "/system_stats") == 401
        assert await comfy.status("GET", "/system_stats", ("Authorization", "Bearer")) == 500

    while_serving(comfy, asks)
    assert comfy.reached == [("POST", "/userdata/x.js"), ("POST", "/userdata/private.json/move/x.js")]


SHIPPED = runpy.run_path(str(GUARD.parents[2] / "group_data" / "all.py"))["services"]["comfyui-qwen"]["auth"]
LOCKED = [(each["method"], each["path"], *each.get("headers", {}).items()) for each in SHIPPED["locked_requests"]]


@pytest.mark.parametrize("with_guard", [True, False])
def test_what_verify_asks_as_a_stranger_is_refused_by_the_gate_and_not_without_it(
    tmp_path: Path, with_guard: bool
) -> None:
    comfy = Comfy(tmp_path)
    if with_guard:
        comfy.add_guard()
    comfy.add_login()
    comfy.add_routes()
    if not with_guard:

        @web.middleware
        async def origin_only(request: web.Request, handler: Any) -> web.StreamResponse:
            return web.Response() if request.method == "OPTIONS" else await handler(request)

        comfy.app.middlewares.insert(0, origin_only)

    async def asks(comfy: Comfy) -> None:
        for method, path, *headers in LOCKED:
            refused = await comfy.status(method, path, *headers) == 401
            forged = any(name == "Cookie" for name, _ in headers)  # the login, too, refuses that
            assert refused is (with_guard or forged), (method, path)

    while_serving(comfy, asks)


@pytest.mark.parametrize(
    "header",
    [
        *(("Authorization", text) for text in ("", "Bearer", "Bearer  ", "x y z", "Basic eDp5", f"bearer {TOKEN}")),
        *(("Authorization", text) for text in (f"Bearer {TOKEN} x", f"Bearer {TOKEN[:-1]}", f"Bearer{TOKEN}")),
        ("Authorization", "Bearer \udcff"),
        ("Cookie", "AIOHTTP_SESSION=forged"),
        ("Cookie", "AIOHTTP_SESSION=\udcff"),
        ("Cookie", "AIOHTTP_SESSION="),
        ("Cookie", "=;;\x7f,"),
        ("X-Forwarded-For", "127.0.0.1"),
        ("X-Original-URL", "/login"),
        ("X-HTTP-Method-Override", "GET"),
    ],
)
def test_what_cannot_be_read_as_a_login_is_none(comfy: Comfy, header: tuple[str, str]) -> None:
    async def asks(comfy: Comfy) -> None:
        status, _, text = await comfy.ask("GET", "/system_stats", [header])
        # 400: no HTTP at all; the server says so before anybody is asked.
        assert (status, text) == (401, b'{"error": "Authentication required."}') or status == 400

    while_serving(comfy, asks)
    assert comfy.reached == []


def test_a_malformed_header_beside_the_token_is_no_login(comfy: Comfy) -> None:
    async def asks(comfy: Comfy) -> None:
        assert await comfy.status("GET", f"/system_stats?token={TOKEN}", ("Authorization", "Bearer")) == 401

    while_serving(comfy, asks)


def test_a_person_is_sent_to_the_login_page_and_a_program_is_refused(comfy: Comfy) -> None:
    async def asks(comfy: Comfy) -> None:
        status, headers, _ = await comfy.ask("GET", "/", [HTML])
        assert (status, headers["location"]) == (302, "/login")
        assert await comfy.status("POST", "/userdata/x.js", HTML) == 401
        for path in ("/login", "/login?wrong_password=1", "/old_css/style.css"):
            assert await comfy.status("GET", path) == 200

    while_serving(comfy, asks)
    assert comfy.reached == []


def test_a_web_socket_needs_the_login(comfy: Comfy) -> None:
    async def asks(comfy: Comfy) -> None:
        async with ClientSession(f"http://127.0.0.1:{comfy.port}") as client:
            with pytest.raises(WSServerHandshakeError) as refused:
                await client.ws_connect("/ws")
            assert refused.value.status == 401 and comfy.reached == []
            async with client.ws_connect("/ws", headers=[BEARER]) as socket:
                assert await socket.receive_str() == "hello"

    while_serving(comfy, asks)


def at_import(app: web.Application, reached: list[str]) -> None:
    """A node that puts itself before all others, and answers some paths without asking them."""

    @web.middleware
    async def answers(request: web.Request, handler: Any) -> web.StreamResponse:
        reached.append(request.path)
        return web.Response() if request.path.startswith("/node/") else await handler(request)

    app.middlewares.insert(0, answers)


def at_startup(app: web.Application, reached: list[str]) -> None:
    """The same when the server is set up, as late as it can."""

    async def insert(app: web.Application) -> None:
        at_import(app, reached)

    app.on_startup.append(insert)


@pytest.mark.parametrize("insert", [at_import, at_startup])
@pytest.mark.parametrize("when", ["first", "last"])
def test_no_middleware_of_another_node_comes_before_the_gate(tmp_path: Path, insert: Any, when: str) -> None:
    reached: list[str] = []
    node: dict[str, Any] = {when: lambda app: insert(app, reached)}

    async def asks(comfy: Comfy) -> None:
        reached.clear()  # the guard itself asks the middlewares once
        assert [await comfy.status("GET", path) for path in ("/node/x", "/node/x.js", "/")] == [401] * 3
        assert reached == []
        assert await comfy.status("GET", "/node/x", BEARER) == 200
        assert reached == ["/node/x"]

    while_serving(guarded(tmp_path, **node), asks)


# -- who is known ------------------------------------------------------------------------------------------------------


async def cookie(comfy: Comfy) -> tuple[str, str]:
    """The header that a browser sends after the login."""
    status, headers = await comfy.log_in()
    assert (status, headers["location"]) == (302, "/")
    return "Cookie", headers["set-cookie"].partition(";")[0]


def test_who_is_known_reaches_everything(comfy: Comfy) -> None:
    async def asks(comfy: Comfy) -> None:
        for login in (BEARER, await cookie(comfy)):
            for method, path in (
                ("GET", "/system_stats"),
                ("POST", "/userdata/workflows%2Fmine.json"),
                ("POST", "/userdata/x.js"),
                ("OPTIONS", "/api/system_stats"),
                ("GET", "/internal/logs"),
            ):
                assert await comfy.status(method, path, login) == 200, (method, path)
        assert await comfy.status("GET", f"/system_stats?token={TOKEN.replace('$', '%24')}") == 200

    while_serving(comfy, asks)
    assert ("POST", "/userdata/workflows/mine.json") in comfy.reached


def test_a_cookie_ends_with_the_key_that_made_it(tmp_path: Path) -> None:
    old: list[tuple[str, str]] = []

    async def logs_in(comfy: Comfy) -> None:
        old.append(await cookie(comfy))
        assert await comfy.status("GET", "/system_stats", *old) == 200

    async def asks(comfy: Comfy) -> None:
        assert await comfy.status("GET", "/system_stats", *old) == 401
        assert await comfy.status("GET", "/system_stats", await cookie(comfy)) == 200

    for name, step in (("before", logs_in), ("after a restart with another key", asks)):
        while_serving(guarded(tmp_path / name), step)


# -- sizes -------------------------------------------------------------------------------------------------------------


def test_a_request_may_be_so_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUHOST_MAX_BODY_MIB", "0.001")  # 1049 bytes
    comfy = guarded(tmp_path)

    def picture(size: int) -> FormData:
        form = FormData()
        form.add_field("image", b"x" * size, filename="a.png")
        return form

    async def asks(comfy: Comfy) -> None:
        assert await comfy.status("POST", "/userdata/a.json", BEARER, body=b"x" * 1049) == 200
        assert await comfy.status("POST", "/userdata/a.json", BEARER, body=b"x" * 1050) == 413
        assert await comfy.status("POST", "/userdata/x.js", ("Content-Length", str(1 << 40))) == 401
        async with ClientSession(f"http://127.0.0.1:{comfy.port}", headers=[BEARER]) as client:
            for size, status in ((500_000, 200), (1 << 20, 413)):
                async with client.post("/upload/image", data=picture(size)) as answer:
                    assert answer.status == status

    while_serving(comfy, asks)


# -- logging in --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ([FORM], b"username=genai", 400),
        ([FORM], b"", 400),
        ([("Content-Type", "application/json")], b'{"password": "x"}', 400),
        ([("Content-Type", "multipart/form-data")], b"no boundary", 400),
        ([("Content-Type", "multipart/form-data; boundary=x")], b"not begun", 400),
        (
            [("Content-Type", "multipart/form-data; boundary=x")],
            b'--x\r\nContent-Disposition: form-data; name="password"; filename="f"\r\n\r\nfile\r\n--x--\r\n',
            400,
        ),
        ([("Content-Type", f"{FORM[1]}; charset=no-such")], b"password=x", 400),
        ([FORM], b"password=" + b"x" * 4096, 413),
        ([FORM, ("Transfer-Encoding", "chunked")], b"a\r\npassword=x\r\n0\r\n\r\n", 411),
        ([FORM, ("Content-Encoding", "deflate")], zlib.compress(b"password=x"), 415),
        ([FORM, ("Origin", "http://elsewhere")], b"password=x", 403),
        ([FORM, ("Origin", "null")], b"password=x", 403),
        ([FORM, ("Origin", "http://[")], b"password=x", 403),
        ([FORM, ("Origin", "http://HERE")], b"password=x", 302),
        ([FORM], b"username=genai&password=wrong", 302),
        ([FORM], b"password=" + b"x" * 73, 302),
        ([FORM], b"password=%00x", 302),
        ([FORM], b"password=%ff", 302),
    ],
)
def test_a_login_form_that_is_none_or_is_wrong(
    comfy: Comfy, headers: list[tuple[str, str]], body: bytes, status: int
) -> None:
    """Nobody's session is made, and ComfyUI-Login is not asked."""

    async def asks(comfy: Comfy) -> None:
        found, answered, _ = await comfy.ask("POST", "/login", headers, body)
        assert found == status
        assert answered.get("location", "/login?wrong_password=1") == "/login?wrong_password=1"
        assert "set-cookie" not in answered

    while_serving(comfy, asks)
    assert comfy.reached == []


class Bcrypt:
    """In the place of bcrypt's check: it waits until it may go on, and notes who is in it."""

    def __init__(self) -> None:
        self.go_on, self.inside, self.most, self.asked = threading.Event(), 0, 0, 0
        self.threads: set[int] = set()

    def checkpw(self, given: bytes, hashed: bytes) -> bool:
        self.inside += 1
        self.asked += 1
        self.most = max(self.most, self.inside)
        self.threads.add(threading.get_ident())
        assert self.go_on.wait(20)
        self.inside -= 1
        return False


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Bcrypt:
    made = Bcrypt()
    monkeypatch.setattr("bcrypt.checkpw", made.checkpw)
    return made


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.fixture
def no_refill(comfy: Comfy, monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow this machine is, no new attempt comes while a test runs."""
    attempts = importlib.import_module(f"{comfy.guard.__name__}.attempts")
    for name in ("OF_ONE", "OF_ALL"):
        monkeypatch.setattr(attempts, name, replace(getattr(attempts, name), every_s=10_000))


@pytest.mark.usefixtures("no_refill")
def test_a_hundred_logins_at_once_keep_nobody_else_waiting(comfy: Comfy, slow: Bcrypt) -> None:
    async def asks(comfy: Comfy) -> None:
        logins = [asyncio.create_task(comfy.log_in("wrong")) for _ in range(100)]
        await until(lambda: slow.asked == 1)
        assert await comfy.status("GET", "/system_stats", BEARER) == 200  # while it checks a password
        slow.go_on.set()
        answers = await asyncio.gather(*logins)
        assert sorted(status for status, _ in answers) == [302] * 10 + [429] * 90
        assert all(0 < int(headers["retry-after"]) <= 10_000 for status, headers in answers if status == 429)
        assert (slow.asked, slow.most) == (10, 1) and threading.get_ident() not in slow.threads

    while_serving(comfy, asks)


@pytest.mark.usefixtures("no_refill")
def test_another_address_has_attempts_of_its_own_and_all_together_have_a_limit(comfy: Comfy, slow: Bcrypt) -> None:
    slow.go_on.set()

    async def asks(comfy: Comfy) -> None:
        found = [await comfy.log_in("wrong", f"127.0.0.{last}") for last in range(2, 6) for _ in range(11)]
        statuses = [status for status, _ in found]
        assert statuses[:33] == ([302] * 10 + [429]) * 3
        assert set(statuses[33:]) == {429} and slow.asked == 30

    while_serving(comfy, asks)


def test_what_is_too_long_costs_no_time(comfy: Comfy, slow: Bcrypt) -> None:
    async def asks(comfy: Comfy) -> None:
        assert (await comfy.log_in("x" * 73))[0] == 302

    while_serving(comfy, asks)
    assert slow.asked == 0


def test_a_wrong_password_is_logged_without_it(comfy: Comfy, caplog: pytest.LogCaptureFixture) -> None:
    async def asks(comfy: Comfy) -> None:
        await comfy.log_in("hunter2")
        await comfy.ask("GET", "/system_stats?token=hunter2")

    while_serving(comfy, asks)
    assert "a login from 127.0.0.1 had a wrong password" in caplog.text and "hunter2" not in caplog.text


# -- it stands, or nothing does ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("breaks", "cause"),
    [
        (lambda comfy: (comfy.folder / "ComfyUI/login/PASSWORD").write_text(""), "there is no password"),
        (lambda comfy: (comfy.folder / "ComfyUI/login/PASSWORD").unlink(), "FileNotFoundError"),
        (lambda comfy: comfy.key_file.write_text("short,2026"), "ValueError: Fernet key"),
        (lambda comfy: comfy.key_file.unlink(), "FileNotFoundError"),
        (lambda comfy: (comfy.folder / "auth/gpuhost-guard/attempts.py").write_text("import nothing"), "No module"),
    ],
)
def test_a_gate_that_cannot_stand_ends_the_process(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, breaks: Callable[[Comfy], object], cause: str
) -> None:
    comfy = guarded(tmp_path)
    breaks(comfy)
    with pytest.raises(Ended):
        while_serving(comfy, lambda comfy: asyncio.sleep(0))
    assert cause in caplog.text and "ended before the port opened" in caplog.text and TOKEN not in caplog.text


def test_a_limit_that_is_no_number_ends_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUHOST_MAX_BODY_MIB", "much")
    with pytest.raises(Ended):
        while_serving(guarded(tmp_path), lambda comfy: asyncio.sleep(0))


def test_without_a_login_node_it_ends_the_process(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    comfy = Comfy(tmp_path)
    comfy.add_guard()
    comfy.add_routes()
    with pytest.raises(Ended):
        while_serving(comfy, lambda comfy: asyncio.sleep(0))
    assert "ComfyUI-Login is not loaded" in caplog.text
