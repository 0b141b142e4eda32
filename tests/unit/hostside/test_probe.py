"""The probe program: a fake Docker Engine on a unix socket, a real HTTP server on a port, no real waiting."""

from __future__ import annotations

import base64
import io
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from gpuhost.verify.verdict import judge
from tests.unit.fake_docker import FakeDocker, container

sys.path.insert(0, str(Path(__file__).parents[3] / "files" / "host"))

import answers
import probe
from redaction import Redactor

TOKEN = "the+very/secret=token$2b"  # noqa: S105
STARTED_S = 1767225600.0  # what fake_docker's containers say


class FakeClock:
    """Sleeping takes no time; `wall_s` starts one second after the containers did."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def clock(self) -> probe.Clock:
        return probe.Clock(lambda: self.now_s, lambda: STARTED_S + 1 + self.now_s, self.sleep)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDocker]:
    fake = FakeDocker(tmp_path / "docker.sock")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{fake.socket_path}")
    yield fake
    fake.close()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A service: /echo and /locked answer, /drop cuts the connection, /hang never ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            token = self.headers.get("Authorization", "")
            if self.path == "/drop":
                return
            status = 401 if self.path == "/locked" and token != f"Bearer {TOKEN}" else 200
            length = int(self.headers.get("Content-Length", 0))
            said = {"said": self.rfile.read(length).decode(), "token": token, "items": [{"id": 1}, {"id": 2}]}
            body = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body) + (self.path == "/hang")))
            self.end_headers()
            self.wfile.write(body)
            if self.path == "/hang":
                released.wait(5)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    released = threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server.server_port
    released.set()
    server.shutdown()
    server.server_close()


def a_probe(path: str = "/echo", secret: bool = False, **over: Any) -> dict[str, Any]:
    header = {"name": "Authorization", "value": f"Bearer {TOKEN}"} if secret else None
    known = {"name": path, "method": "GET", "path": path, "headers": {}, "secret_header": header, "body": None}
    return known | {"expect": {"status": 200}} | over


def observe(
    fake: FakeDocker,
    port: int = 9,
    probes: tuple[dict[str, Any], ...] = (),
    wait_only: bool = False,
    budget_s: int = 30,
) -> tuple[list[dict[str, Any]], int, float]:
    """Runs the program over all fake containers: (lines, exit status, seconds it would have taken)."""
    services = [
        {"name": name, "container": name, "stack": "s", "port": port, "host": "127.0.0.1", "start_budget_s": 30}
        | {"probes": list(probes)}
        for name in (fake.containers or {"absent": []})
    ]
    out, clock = io.StringIO(), FakeClock()
    status = probe.run(json.dumps({"window_s": 5, "services": services}), out, wait_only, clock.clock())
    return [json.loads(line) for line in out.getvalue().splitlines()], status, clock.now_s


def starting(restarts: int = 0, **state: Any) -> dict[str, Any]:
    return container("a", restarts=restarts, state={"Health": {"Status": "starting"}} | state)


def test_waits_until_healthy_then_asks_and_holds(fake: FakeDocker, port: int) -> None:
    fake.containers = {"a": [starting(), starting(), container("a")], "b": [container("b")]}
    lines, status, took_s = observe(fake, port, (a_probe(), a_probe("/locked", expect={"status": 401})))
    assert status == 0 and [line["outcome"] for line in lines] == ["ready", "ready"]
    assert [answer["status"] for answer in lines[0]["probes"]] == [200, 401]
    assert took_s == pytest.approx(0.5 + 5)  # one window for both
    assert judge(lines).ok and lines[0]["log_tail"] == []


def test_no_container(fake: FakeDocker) -> None:
    lines, _, took_s = observe(fake)
    assert took_s == 0 and judge(lines).failures[0].cause == "no container"


def test_an_exited_container_ends_the_wait(fake: FakeDocker) -> None:
    dead = {"Status": "exited", "ExitCode": 137, "OOMKilled": True}
    fake.containers = {"a": [starting(), container("a", state=dead)]}
    fake.logs["a"] = "\n".join(f"\x1b[31mline {i}\x1b[0m" for i in range(30))
    lines, _, took_s = observe(fake)
    (failure,) = judge(lines).failures
    assert took_s == 0.25 and failure.cause.endswith("killed by the kernel for memory (OOM)")
    assert failure.exit_code == 137 and failure.log_tail[-1] == "line 29" and len(failure.log_tail) == 20


def test_a_restart_loop_ends_the_wait_with_the_exit_code_of_the_event_log(fake: FakeDocker) -> None:
    fake.containers = {"a": [starting(restarts=n) for n in range(5)]}
    fake.events = [{"Action": "die", "Actor": {"Attributes": {"exitCode": "3"}}}]
    lines, _, took_s = observe(fake)
    assert lines[0]["outcome"] == "dead" and took_s == 0.75
    assert judge(lines).failures[0].cause.startswith("restarts in a loop (3 restarts in 1 s): exited with code 3")


def test_a_restart_within_the_window_is_seen(fake: FakeDocker) -> None:
    again = container("a", restarts=1, state={"StartedAt": "2026-01-01T00:09:00Z"})
    fake.containers = {"a": [container("a"), container("a"), again]}
    fake.events = [{"Action": "oom", "Actor": {}}, {"Action": "die", "Actor": {"Attributes": {"exitCode": "137"}}}]
    lines, _, _ = observe(fake)
    assert "1 restart in 5 s): exited with code 137: killed by the kernel" in judge(lines).failures[0].cause


@pytest.mark.parametrize("health", ["starting", "unhealthy"])
def test_the_budget_ends_the_wait(fake: FakeDocker, health: str) -> None:
    log = [{"Output": "refused\n"}]
    fake.containers = {"a": [container("a", state={"Health": {"Status": health, "Log": log}})]}
    lines, _, took_s = observe(fake)
    assert lines[0]["outcome"] == "timeout" and took_s == pytest.approx(29, abs=0.3)  # it had used one second
    cause = "unhealthy: refused" if health == "unhealthy" else "not healthy within 30 s"
    assert judge(lines).failures[0].cause == cause


def test_a_container_that_has_been_up_for_long_gets_no_second_budget(fake: FakeDocker) -> None:
    fake.containers = {"a": [starting(StartedAt="2020-01-01T00:00:00Z")]}
    lines, _, took_s = observe(fake)
    assert lines[0]["outcome"] == "timeout" and took_s == 0


@pytest.mark.parametrize(("state", "status"), [({}, 0), ({"Status": "exited"}, 1)])
def test_wait_only(fake: FakeDocker, state: dict[str, Any], status: int) -> None:
    fake.containers = {"a": [container("a", state=state)]}
    lines, code, took_s = observe(fake, probes=(a_probe(),), wait_only=True)
    assert (code, took_s, lines[0]["probes"]) == (status, 0, [])


def test_unreachable_ports(fake: FakeDocker, port: int) -> None:
    fake.containers = {"a": [container("a")]}
    for at, path, error in ((9, "/", "connect"), (port, "/drop", "broken"), (port, "/hang", "timeout")):
        lines, _, _ = observe(fake, at, (a_probe(path, timeout_s=0.2),))
        assert (lines[0]["probes"][0]["error"], lines[0]["probes"][0]["status"]) == (error, None)
        assert not judge(lines).ok


def test_bodies_and_headers_are_sent(fake: FakeDocker, port: int) -> None:
    fake.containers = {"a": [container("a")]}
    sent = a_probe(secret=True, path="/locked", method="POST", body={"prompt": "hello"}, expect={"contains": "hello"})
    lines, _, _ = observe(fake, port, (sent,))
    assert judge(lines).ok and lines[0]["probes"][0]["authenticated"]


SECRET_FORMS = {
    "plain": TOKEN,
    "url": quote(TOKEN, safe=""),
    "base64": base64.b64encode(TOKEN.encode()).decode(),
    "base64, urlsafe": base64.urlsafe_b64encode(TOKEN.encode()).decode(),
    "basic auth": base64.b64encode(f"admin:{TOKEN}".encode()).decode(),
    "basic auth, shifted": base64.b64encode(f"me:{TOKEN}".encode()).decode(),
    "an older bcrypt hash": "$2b$12$" + "a" * 53,
    "a hub token": "hf_" + "b" * 34,
}


@pytest.mark.parametrize("form", SECRET_FORMS)
def test_no_secret_leaves_the_host(fake: FakeDocker, port: int, form: str) -> None:
    fake.containers = {"a": [container("a")]}
    fake.logs["a"] = f"started with {SECRET_FORMS[form]} and more"
    # Refused as it should not be, so that both the answer (which quotes the token) and the log are shown.
    lines, _, _ = observe(fake, port, (a_probe("/locked", secret=True, expect={"status": 401}),))
    shown = json.dumps(lines, ensure_ascii=False)
    # The digits of base64 that mix with neighbours tell nothing; all others must be gone.
    assert SECRET_FORMS[form][4:-4] not in shown and TOKEN not in shown
    assert "[redacted]" in lines[0]["log_tail"][0] and lines[0]["log_tail"][0].endswith(" and more")


def test_a_header_that_http_forbids_is_not_quoted(fake: FakeDocker, port: int) -> None:
    fake.containers = {"a": [container("a")]}
    bad = a_probe(secret_header={"name": "Authorization", "value": "Bearer two\nlines-of-secret"})
    lines, _, _ = observe(fake, port, (bad,))
    assert "characters that HTTP forbids" in lines[0]["probes"][0]["detail"]
    assert "lines-of-secret" not in json.dumps(lines)


def test_short_innocent_text_survives_redaction() -> None:
    assert Redactor(["", "abc"]).text("an abc in the alphabet, Bearer x") == "an [redacted] in the alphabet, Bearer x"


@pytest.mark.parametrize(
    ("expected", "difference"),
    [
        ({"a": 1}, ""),
        ({"a": 2}, "`answer.a` is 1, not 2"),
        ({"c": 1}, "`answer.c` is missing"),
        ({"b": [{"x": 1}]}, ""),
        ({"b": [{"x": 1}, {"x": 3}]}, "`answer.b[1].x` is 2, not 3"),
        ({"b": [{}, {}, {}]}, "`answer.b` has fewer than 3 items"),
        ({"a": {"deep": 1}}, "`answer.a` is not an object"),
    ],
)
def test_json_subset(expected: Any, difference: str) -> None:
    assert answers.missing(expected, {"a": 1, "b": [{"x": 1, "y": 0}, {"x": 2}]}) == difference


@pytest.mark.parametrize(
    ("expect", "body", "ok"),
    [({"json": {"a": 1}}, b"no json", False), ({"contains": "x"}, b"yyy", False), ({"contains": "y"}, b"\xffy", True)],
)
def test_judging_bodies(expect: dict[str, Any], body: bytes, ok: bool) -> None:
    assert answers.judge(answers.Expectation(**expect), 200, body)[0] is ok


@pytest.mark.parametrize(
    "document", ["", "{}", '{"services": [{"name": "x"}], "window_s": 5}', "[]", '{"services": 3}']
)
def test_a_wrong_document_is_named_without_its_values(document: str) -> None:
    with pytest.raises(probe.DocumentError):
        probe.parse(document)


def test_docker_that_does_not_answer(fake: FakeDocker, capsys: pytest.CaptureFixture[str]) -> None:
    fake.containers = {"a": [container("a")]}
    fake.status = 500
    assert observe(fake)[1] == 3
    assert "error: Docker does not answer" in capsys.readouterr().err
