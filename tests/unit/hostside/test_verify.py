"""What looks at services: a fake Docker Engine on a unix socket, a real HTTP server on a port, no real waiting."""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import httpx
import pytest

from gpuhost.verify.verdict import judge
from hostside.protocol.verify import (
    Expectation,
    Header,
    Probe,
    ProbeAnswer,
    ServiceSeen,
    ServiceToVerify,
    VerifyRequest,
)
from hostside.redaction import Redactor, header_secrets
from hostside.verify import answers
from hostside.verify import observe as program
from hostside.verify.containers import Observation, _observation, end_of_waiting
from hostside.wire import from_host
from tests.unit.fake_docker import FakeDocker, container

PACKED = gzip.compress(gzip.compress(bytes(2**24)))
TOKEN = "the+very/secret=token$2b"  # noqa: S105
STARTED_S = 1767225600.0  # what fake_docker's containers say


class FakeClock:
    """Sleeping takes no time; `wall_s` starts one second after the containers did."""

    def __init__(self, drift_s: float = 0.0) -> None:
        self.now_s, self.drift_s = 0.0, drift_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds + self.drift_s

    def clock(self) -> program.Clock:
        return program.Clock(lambda: self.now_s, lambda: STARTED_S + 1 + self.now_s, self.sleep)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDocker]:
    fake = FakeDocker(tmp_path / "docker.sock")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{fake.socket_path}")
    yield fake
    fake.close()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A service: /echo, /locked, /huge (3 MiB), /packed answer, /drop cuts the connection, /hang never ends, /drip...
    late."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            token = self.headers.get("Authorization", "")
            if self.path == "/drop":
                return
            if self.path == "/packed":
                self.send_response(200)
                self.send_header("Content-Encoding", "gzip, gzip")
                self.send_header("Content-Length", str(len(PACKED)))
                self.end_headers()
                self.wfile.write(PACKED)
                return
            if self.path in ("/drip", "/huge", "/drip-headers"):
                self.send_response(200)
                if self.path == "/drip-headers":
                    self.flush_headers()
                else:
                    self.end_headers()
                self.stream()
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
                released.wait()

        do_POST = do_GET

        def stream(self) -> None:
            """/huge comes at once; of /drip and /drip-headers no read waits for long, and they never end."""
            if self.path == "/huge":
                self.wfile.write(b"x" * 3 * 2**20)
                return
            with suppress(OSError):  # nobody reads any more
                while not released.wait(0.05):
                    self.wfile.write(b"x")

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


def expecting(status: int = 200, json: Any = None, contains: str | None = None) -> Expectation:
    return Expectation(status, json, contains)


def a_probe(path: str = "/echo", secret: bool = False, **over: Any) -> Probe:
    known: dict[str, Any] = {
        "name": path,
        "method": "GET",
        "path": path,
        "headers": {},
        "body": None,
        "timeout_s": 30.0,
    }
    header = Header("Authorization", f"Bearer {TOKEN}") if secret else None
    return Probe(**(known | {"secret_header": header, "expect": expecting()} | over))


def observe(
    fake: FakeDocker, port: int = 9, probes: tuple[Probe, ...] = (), wait_only: bool = False, check_s: float = 0.0
) -> tuple[list[ServiceSeen], int, float]:
    """Runs the program over all fake containers: (lines, exit status, seconds it would have taken)."""
    services = [
        ServiceToVerify(name, name, "s", port, "127.0.0.1", 30.0, list(probes), check_s)
        for name in (fake.containers or ["absent"])
    ]
    out, clock = io.StringIO(), FakeClock()
    status = program.run(VerifyRequest(5.0, services), out, wait_only, clock.clock())
    return [from_host(ServiceSeen, line) for line in out.getvalue().splitlines()], status, clock.now_s


def starting(restarts: int = 0, **state: Any) -> dict[str, Any]:
    return container("a", restarts=restarts, state={"Health": {"Status": "starting"}} | state)


READY, EXITED = container("a"), container("a", state={"Status": "exited"})
LOOPING = {"Status": "restarting", "Health": {"Status": "starting"}}


@pytest.mark.parametrize(
    ("first", "last", "outcome"),
    [
        (READY, READY, "ready"),
        (READY, None, "absent"),
        (None, READY, "absent"),
        (starting(), starting(), None),
        (starting(), container("a", state={"Health": {"Status": "unhealthy"}}), None),  # it may still become healthy
        (starting(), container("a", state={"Health": None}), "ready"),
        (starting(), container("a", state={"Health": {"Status": "none"}}), "ready"),
        (starting(), container("a", state={"Status": "paused"}), None),
        *((READY, container("a", state={"Status": state}), "dead") for state in ("exited", "dead", "removing")),
        (starting(Status="created"), starting(Status="created"), None),
        (starting(Status="created"), starting(Status="created", Error="port is taken"), "dead"),
        (starting(), starting(Error="port is taken"), None),
        # Restarts since the first look: one may be a race at start.
        (starting(restarts=2), container("a", restarts=4), "ready"),
        (starting(restarts=2), container("a", restarts=5), "dead"),
        (starting(restarts=9), starting(restarts=9), None),
        ({**starting(restarts=9), "Id": "another"}, starting(restarts=2), None),
        ({**starting(restarts=9), "Id": "another"}, starting(restarts=3), "dead"),
        (starting(restarts=2), container("a", restarts=2, state=LOOPING), None),
        (starting(restarts=3), container("a", restarts=3, state=LOOPING), "dead"),
        (starting(), container("a", state={**LOOPING, "OOMKilled": True}), "dead"),
        (starting(), starting(OOMKilled=True), None),  # an earlier run's
    ],
)
def test_how_the_waiting_ends(first: Any, last: Any, outcome: str | None) -> None:
    looks = (first and _observation(first), last and _observation(last))
    assert end_of_waiting(*looks, out_of_time=False) == outcome
    assert end_of_waiting(*looks, out_of_time=True) == (outcome or "timeout")


def test_a_look_at_a_container_that_says_little() -> None:
    """An older engine, a container that never ran."""
    bare = {"Id": "x", "State": {"Status": "created"}}
    assert _observation(bare) == Observation("x", "created", None, "", 0, False, 0, "", "")
    assert _observation(bare).started_s() is None
    checks = {"Status": "unhealthy", "Log": [{"Output": "first"}, {"Output": " two\nlines " + "x" * 600}]}
    told = _observation({"Id": "x", "State": {"Status": "running", "Health": checks, "Error": "e" * 600}})
    assert told.health_log == ("two lines " + "x" * 600)[:500] and len(told.error) == 500
    assert _observation({"Id": "x", "State": {"Status": "running", "Health": {"Log": [{}]}}}).health_log == ""


def test_what_is_said_of_a_container(fake: FakeDocker, port: int) -> None:
    again = container("a", restarts=2, state={"StartedAt": "2026-01-01T00:00:09Z", "ExitCode": 7, "OOMKilled": True})
    fake.containers = {"a": [starting(restarts=1), container("a", restarts=1), container("a", restarts=1), again]}
    fake.logs["a"] = "the log"
    [line] = observe(fake, port, (a_probe(),))[0]
    assert (line.service, line.stack, line.port, line.start_budget_s) == ("a", "s", port, 30.0)
    assert (line.outcome, line.waited_s, line.log_tail) == ("ready", 0.25, ["the log"])
    assert line.container is not None
    assert asdict(line.container) == {
        "id": "id-a",
        "state": "running",
        "health": "healthy",
        "health_log": "fine",
        "restart_count": 1,
        "restart_count_after": 2,
        "oom_killed": True,
        "exit_code": 7,  # the event log says nothing of it
        "error": "",
        "started_at": "2026-01-01T00:00:00.123456789Z",
        "started_at_after": "2026-01-01T00:00:09Z",
        "observed_s": 5.0,
    }
    [answer] = line.probes
    assert (answer.name, answer.status, answer.ok, answer.error) == ("/echo", 200, True, None)
    assert (answer.expected_status, answer.authenticated, answer.detail) == (200, False, "200 as expected")


def test_another_container_of_the_name_counts_its_restarts_from_nothing(fake: FakeDocker, port: int) -> None:
    another = {**container("a", restarts=1), "Id": "id-a2"}
    fake.containers = {"a": [container("a", restarts=5), container("a", restarts=5), another]}
    [line] = observe(fake, port, (a_probe(),))[0]
    assert line.container and (line.container.restart_count, line.container.restart_count_after) == (0, 1)
    assert not judge([line]).ok


@pytest.mark.parametrize("answer", [200, 401])
def test_the_log_is_shown_of_what_is_not_fine_alone(fake: FakeDocker, port: int, answer: int) -> None:
    fake.containers = {"a": [container("a")]}
    fake.logs["a"] = "x" * 600
    [line] = observe(fake, port, (a_probe(expect=expecting(answer)), a_probe()))[0]
    assert line.log_tail == ([] if answer == 200 else ["x" * 500])


def test_a_log_of_other_bytes_than_text_is_shown(fake: FakeDocker) -> None:
    fake.containers = {"a": [EXITED]}
    fake.logs["a"] = "half a \udcff character"
    assert observe(fake)[0][0].log_tail == ["half a \ufffd character"]


def test_a_container_that_goes_within_the_window_is_told(fake: FakeDocker, port: int) -> None:
    fake.containers = {"a": [container("a"), container("a"), EXITED]}
    [line] = observe(fake, port)[0]
    assert line.container and line.container.state == "exited" and not judge([line]).ok


def test_waits_until_healthy_then_asks_and_holds(fake: FakeDocker, port: int) -> None:
    fake.containers = {"a": [starting(), starting(), container("a")], "b": [container("b")]}
    lines, status, took_s = observe(fake, port, (a_probe(), a_probe("/locked", expect=expecting(401))))
    assert status == 0 and [line.outcome for line in lines] == ["ready", "ready"]
    assert [answer.status for answer in lines[0].probes] == [200, 401]
    assert took_s == pytest.approx(0.5 + 5)  # one window for both
    assert judge(lines).ok and lines[0].log_tail == []


def test_times_are_told_to_a_thousandth(fake: FakeDocker, port: int) -> None:
    fake.containers = {"a": [starting(), container("a")]}
    service = ServiceToVerify("a", "a", "s", port, "127.0.0.1", 30.0, [a_probe()] * 3)
    out = io.StringIO()
    program.run(VerifyRequest(5.0, [service]), out, False, FakeClock(drift_s=0.0001234).clock())
    seen = from_host(ServiceSeen, out.getvalue())
    assert seen.container and (seen.waited_s, seen.container.observed_s) == (0.25, 5.0)
    assert all(each.seconds == round(each.seconds, 3) for each in seen.probes)


def test_no_container(fake: FakeDocker) -> None:
    lines, _, took_s = observe(fake)
    assert took_s == 0 and judge(lines).failures[0].cause == "no container"


def test_a_container_whose_folder_was_made_anew_is_seen(fake: FakeDocker, tmp_path: Path) -> None:
    """Its process is this test's own, whose view of the files is the host's."""
    kept, removed, holding = tmp_path / "kept", tmp_path / "removed", tmp_path / "holding"
    kept.mkdir()
    holding.mkdir()
    binds = [(kept, kept), (removed, holding)]
    mounts = [{"Type": "bind", "Source": str(source), "Destination": str(target)} for source, target in binds]
    fake.containers = {"a": [container("a", state={"Pid": os.getpid()}) | {"Mounts": [*mounts, {"Type": "tmpfs"}]}]}
    [line], _, _ = observe(fake)
    assert [each.held is not None for each in line.holds] == [True, True] and line.holds[0].held == line.holds[0].now
    assert judge([line]).failures[0].cause == (
        f"{removed} was removed after it started: it holds the old one as {holding}"
    )


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
    assert lines[0].outcome == "dead" and took_s == 0.75
    assert judge(lines).failures[0].cause.startswith("restarts in a loop (3 restarts in 1 s): exited with code 3")


def test_only_the_events_of_the_container_are_asked_for(fake: FakeDocker, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.containers, asked, answer = {"a": [starting(restarts=n) for n in range(5)]}, [], fake.answer

    def seen(path: str, query: dict[str, list[str]]) -> tuple[int, bytes]:
        if path == "/events":
            asked.append(json.loads(query["filters"][0]))
            assert STARTED_S < float(query["since"][0]) <= float(query["until"][0]) < STARTED_S + 9
        if path.endswith("/logs"):
            assert query["tail"] == ["20"]
        return answer(path, query)

    monkeypatch.setattr(fake, "answer", seen)
    observe(fake)
    assert asked == [{"container": ["id-a"], "event": ["die", "oom"]}]


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
    assert lines[0].outcome == "timeout" and took_s == pytest.approx(29, abs=0.3)  # it had used one second
    cause = "unhealthy: refused" if health == "unhealthy" else "not healthy within 30 s: refused"
    assert judge(lines).failures[0].cause == cause


def test_a_container_that_has_been_up_for_long_gets_no_second_budget(fake: FakeDocker) -> None:
    fake.containers = {"a": [starting(StartedAt="2020-01-01T00:00:00Z")]}
    lines, _, took_s = observe(fake)
    assert lines[0].outcome == "timeout" and took_s == 0


def test_a_dockerd_that_was_restarted_gets_the_time_of_one_check(fake: FakeDocker) -> None:
    """With live-restore the containers run on, and their health is "starting" again until the next check."""
    old: dict[str, Any] = {"StartedAt": "2020-01-01T00:00:00Z"}
    fake.containers = {"a": [starting(**old), starting(**old), container("a", state=old)]}
    lines, _, took_s = observe(fake, check_s=20)
    assert lines[0].outcome == "ready" and 0 < took_s < 20
    fake.containers = {"a": [starting(**old)]}
    lines, _, took_s = observe(fake, check_s=20)
    assert lines[0].outcome == "timeout" and took_s == pytest.approx(20, abs=0.3)
    fake.containers = {"a": [starting()]}  # one that starts now has its budget, and no more
    lines, _, took_s = observe(fake, check_s=20)
    assert lines[0].outcome == "timeout" and took_s == pytest.approx(29, abs=0.3)
    fake.containers = {"a": [container("a", state={**old, "Health": {"Status": "unhealthy"}})]}
    lines, _, took_s = observe(fake, check_s=20)
    assert lines[0].outcome == "timeout" and took_s == 0


@pytest.mark.parametrize(("state", "status"), [({}, 0), ({"Status": "exited"}, 1)])
def test_wait_only(fake: FakeDocker, state: dict[str, Any], status: int) -> None:
    fake.containers = {"a": [container("a", state=state)]}
    lines, code, took_s = observe(fake, probes=(a_probe(),), wait_only=True)
    assert (code, took_s, lines[0].probes) == (status, 0, [])


def test_unreachable_ports(fake: FakeDocker, port: int) -> None:
    fake.containers = {"a": [container("a")]}
    for at, path, error in ((9, "/", "connect"), (port, "/drop", "broken"), (port, "/hang", "timeout")):
        lines, _, _ = observe(fake, at, (a_probe(path, timeout_s=0.2),))
        assert (lines[0].probes[0].error, lines[0].probes[0].status) == (error, None)
        assert not judge(lines).ok


@pytest.mark.parametrize(
    ("address", "url"),
    [("127.0.0.1", "http://127.0.0.1:9"), ("::1", "http://[::1]:9"), ("0.0.0.0", "http://0.0.0.0:9")],
)
def test_a_service_is_asked_at_its_address(
    fake: FakeDocker, monkeypatch: pytest.MonkeyPatch, address: str, url: str
) -> None:
    """An address of IPv6 stands in brackets."""
    asked: list[str] = []

    def ask(base_url: str, probe: Probe) -> ProbeAnswer:
        asked.append(base_url)
        return answers.ask(base_url, probe)

    monkeypatch.setattr(program, "ask", ask)
    fake.containers["a"] = [container("a")]
    service = ServiceToVerify("a", "a", "s", 9, address, 30.0, [a_probe()])
    out = io.StringIO()
    assert program.run(VerifyRequest(5.0, [service]), out, False, FakeClock().clock()) == 0
    [answer] = from_host(ServiceSeen, out.getvalue()).probes
    assert asked == [url] and answer.error == "connect"


def test_a_json_answer_that_differs_fails_the_service(fake: FakeDocker, port: int) -> None:
    fake.containers = {"a": [container("a")]}
    for wanted, ok in (([{"id": 1}], True), ([{"id": 2}], False)):
        lines, _, _ = observe(fake, port, (a_probe(expect=expecting(json={"items": wanted})),))
        assert (judge(lines).ok, lines[0].probes[0].ok) == (ok, ok)
    assert "`answer.items[0].id` is 1, not 2" in judge(lines).failures[0].cause


@pytest.mark.parametrize("path", ["/drip", "/drip-headers"])
def test_the_whole_answer_has_a_deadline(fake: FakeDocker, port: int, path: str) -> None:
    fake.containers = {"a": [container("a")]}
    [answer] = observe(fake, port, (a_probe(path, timeout_s=0.3),))[0][0].probes
    assert (answer.error, answer.status) == ("timeout", None) and answer.seconds > 0.2


def test_an_answer_that_does_not_end_does_not_hold_the_program(port: int) -> None:
    code = (
        "from hostside.protocol.verify import Expectation, Probe; from hostside.verify.answers import ask; "
        f"print(ask('http://127.0.0.1:{port}', Probe('n', 'GET', '/drip', {{}}, None, None, "
        "Expectation(200, None, None), 0.2)).error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "timeout\n"


@pytest.mark.parametrize(
    ("failure", "error", "detail"),
    [
        (httpx.ConnectError("refused"), "connect", "no connection: refused"),
        (httpx.ConnectTimeout("slow"), "connect", "no connection: slow"),
        (httpx.ReadTimeout("slow"), "timeout", "no whole answer within 2.5 s"),
        (httpx.LocalProtocolError("secret"), "broken", "the request could not be written: a header has characters"),
        (UnicodeEncodeError("ascii", "é", 0, 1, "secret"), "broken", "the request could not be written: a header has"),
        (httpx.ReadError("cut"), "broken", "the connection broke: cut"),
        (httpx.ReadError(""), "broken", "the connection broke: ReadError"),
    ],
)
def test_how_a_request_fails_is_told(failure: Exception, error: str, detail: str) -> None:
    kind, said = answers._explain(failure, 2.5)
    assert kind == error and said.startswith(detail) and "secret" not in said


def test_an_answer_has_a_largest_size(fake: FakeDocker, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.containers = {"a": [container("a")]}
    assert answers.BODY_BYTES_MAX == 64 * 2**20
    for limit, error in ((3 * 2**20, None), (3 * 2**20 - 1, "broken")):
        monkeypatch.setattr(answers, "BODY_BYTES_MAX", limit)
        [answer] = observe(fake, port, (a_probe("/huge"),))[0][0].probes
        assert answer.error == error
    assert "is larger than" in answer.detail


def test_what_is_packed_is_not_unpacked(fake: FakeDocker, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand bytes could be terabytes, and this runs as root on the host."""
    fake.containers = {"a": [container("a")]}
    monkeypatch.setattr(answers, "BODY_BYTES_MAX", len(PACKED))
    [answer] = observe(fake, port, (a_probe("/packed", expect=expecting(contains="\0" * 1000)),))[0][0].probes
    assert (answer.error, answer.status, answer.ok) == (None, 200, False)


def test_what_a_container_wrote_reaches_no_terminal_as_it_is(fake: FakeDocker) -> None:
    dead = {"Status": "exited", "ExitCode": 1, "Error": "gone\x1b[2J"}
    fake.containers = {"a": [container("a", state=dead)]}
    fake.logs["a"] = "\x1b]0;title\x07\x9b2J \u202egnp.exe"
    [failure] = judge(observe(fake)[0]).failures
    assert failure.log_tail == ["\\x1b]0;title\\x07\\x9b2J \\u202egnp.exe"] and "gone\\x1b[2J" in failure.cause


def test_no_proxy_of_the_hosts_stands_between(fake: FakeDocker, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    fake.containers = {"a": [container("a")]}
    assert judge(observe(fake, port, (a_probe(),))[0]).ok


def test_bodies_and_headers_are_sent(fake: FakeDocker, port: int) -> None:
    fake.containers = {"a": [container("a")]}
    sent = a_probe(
        secret=True, path="/locked", method="POST", body={"prompt": "hello"}, expect=expecting(contains="hello")
    )
    lines, _, _ = observe(fake, port, (sent,))
    assert judge(lines).ok and lines[0].probes[0].authenticated


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
    lines, _, _ = observe(fake, port, (a_probe("/locked", secret=True, expect=expecting(401)),))
    shown = repr(lines)
    # The digits of base64 that mix with neighbours tell nothing; all others must be gone.
    assert SECRET_FORMS[form][4:-4] not in shown and TOKEN not in shown
    assert "[redacted]" in lines[0].log_tail[0] and lines[0].log_tail[0].endswith(" and more")


def test_no_secret_of_a_health_check_or_of_dockers_own_error_leaves_the_host(fake: FakeDocker, port: int) -> None:
    state = {
        "Status": "exited",
        "Error": f"exec {TOKEN}",
        "Health": {"Status": "unhealthy", "Log": [{"Output": TOKEN}]},
    }
    fake.containers = {"a": [container("a", state=state)]}
    lines, _, _ = observe(fake, port, (a_probe("/locked", secret=True),))
    seen = lines[0].container
    assert seen and (seen.error, seen.health_log) == ("exec [redacted]", "[redacted]")


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
@pytest.mark.parametrize("length", range(9, 15))
@pytest.mark.parametrize("after", range(4))
@pytest.mark.parametrize("before", range(4))
def test_base64_of_a_secret_among_others_is_masked(before: int, after: int, length: int, encode: Any) -> None:
    secret = "q/+7~>?s3cr3t!"[:length]
    encoded = encode(b"<" * before + secret.encode() + b">" * after).decode()
    first, last = -(-before * 8 // 6), (before + length) * 8 // 6  # the digits whose six bits are all the secret's
    assert Redactor([secret]).text(encoded) == f"{encoded[:first]}[redacted]{encoded[last:]}"


@pytest.mark.parametrize("value", ["Bearer two\nlines-of-secret", "Bearer é-lines-of-secret"])
def test_a_header_that_http_forbids_is_not_quoted(fake: FakeDocker, port: int, value: str) -> None:
    fake.containers = {"a": [container("a")]}
    lines, _, _ = observe(fake, port, (a_probe(secret_header=Header("Authorization", value)),))
    assert "characters that HTTP forbids" in lines[0].probes[0].detail
    assert "lines-of-secret" not in repr(lines)


def test_a_piece_of_base64_is_masked_from_eight_digits_on() -> None:
    """A shorter one is found in innocent text."""
    assert Redactor(["abcdef"]).text(base64.b64encode(b"abcdef").decode()) == "[redacted]"
    short = base64.b64encode(b"abcde").decode()
    assert Redactor(["abcde"]).text(short) == short


def test_a_secret_is_masked_as_programs_quote_it() -> None:
    secret = "\"quotes\" \\ and\n'lines' é"  # noqa: S105
    redactor = Redactor([secret])
    for text in (secret, json.dumps(secret), repr(secret), quote(secret), quote(secret, safe=""), quote_plus(secret)):
        marks = text[0] if text[0] + text[-1] in ("''", '""') and text != secret else ""
        assert redactor.text(text) == f"{marks}[redacted]{marks}"


def test_a_header_is_masked_whole_and_its_token_alone() -> None:
    redactor = Redactor(header_secrets("Bearer a+secret"))
    assert redactor.text("sent Bearer a+secret, had a+secret") == "sent [redacted], had [redacted]"
    assert Redactor(header_secrets("bare-token")).text("a bare-token") == "a [redacted]"


def test_what_changes_is_told_once(fake: FakeDocker, capsys: pytest.CaptureFixture[str]) -> None:
    created = container("a", state={"Status": "created", "Health": {"Status": "starting"}})
    fake.containers = {"a": [created, created, starting(), starting(), container("a")]}
    observe(fake, wait_only=True)
    assert capsys.readouterr().err.splitlines() == [
        "a: created, health starting",
        "a: running, health starting",
        "a: running, health healthy",
    ]


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
    assert answers.missing(1, 1) == "" and answers.missing({"a": "x"}, {"a": "x"}) == ""
    assert answers.missing(expected, {"a": 1, "b": [{"x": 1, "y": 0}, {"x": 2}]}) == difference


@pytest.mark.parametrize(
    ("expect", "body", "ok"),
    [
        (expecting(json={"a": 1}), b"no json", False),
        (expecting(json={"a": 1}), b'{"a": 2}', False),
        (expecting(json={"a": 1}), b"{}", False),
        (expecting(json={"a": 1}), b'{"a": 1, "b": 2}', True),
        (expecting(json={"a": True}), b'{"a": 1}', False),
        (expecting(json={"a": 1}), b"[" * 100_000, False),
        (expecting(contains="x"), b"yyy", False),
        (expecting(contains="y"), b"\xffy", True),
        (expecting(401), b"{}", False),
    ],
)
def test_judging_bodies(expect: Expectation, body: bytes, ok: bool) -> None:
    assert answers.judge(expect, 200, body)[0] is ok


@pytest.mark.parametrize(
    ("expect", "body", "said"),
    [
        (expecting(), b"x", "200 as expected"),
        (expecting(401), b"a\n b", "expected 401, got 200: a b"),
        (expecting(contains="x"), b"yyy", "200, but the answer does not contain `x`: yyy"),
        (expecting(json={}), b"yyy", "200, but the answer is not JSON: yyy"),
        (expecting(json={"a": 1}), b"{}", "200, but `answer.a` is missing"),
        (expecting(401), b"y" * 201, f"expected 401, got 200: {'y' * 200}..."),
        (expecting(401), b"y" * 200, f"expected 401, got 200: {'y' * 200}"),
    ],
)
def test_what_differs_is_said(expect: Expectation, body: bytes, said: str) -> None:
    assert answers.judge(expect, 200, body)[1] == said


def test_how_a_container_that_is_gone_ended_it_says_itself(fake: FakeDocker) -> None:
    """The event log may tell of an earlier death."""
    gone = {"Status": "exited", "ExitCode": 1, "StartedAt": "2026-01-01T00:00:09Z"}
    fake.containers = {"a": [starting(), container("a", restarts=1, state=gone)]}
    fake.events = [{"Action": "oom", "Actor": {}}, {"Action": "die", "Actor": {"Attributes": {"exitCode": "9"}}}]
    [line] = observe(fake)[0]
    assert line.container and (line.container.exit_code, line.container.oom_killed) == (1, False)


def test_docker_that_does_not_answer(fake: FakeDocker, capsys: pytest.CaptureFixture[str]) -> None:
    fake.containers = {"a": [container("a")]}
    fake.status = 500
    assert observe(fake)[1] == 3
    assert "error: Docker does not answer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "request_text", "status", "said"),
    [
        ([], f'{{"window_s": "{TOKEN}"}}', 2, "error: the request cannot be read: the message has no field `services`"),
        ([], TOKEN, 2, "error: the request cannot be read: the message is not JSON"),
        (["--nonsense"], '{"window_s": 1, "services": []}', 2, "error: unknown argument"),
        ([], '{"window_s": 1, "services": []}', 0, ""),
        (["--wait-only"], '{"window_s": 1, "services": []}', 0, ""),
    ],
)
def test_as_a_process(fake: FakeDocker, arguments: list[str], request_text: str, status: int, said: str) -> None:
    program = [sys.executable, "-I", "-B", "-m", "hostside.verify", *arguments]
    done = subprocess.run(program, input=request_text, capture_output=True, text=True, check=False)
    error, *hint = done.stderr.splitlines() or [""]
    assert (done.returncode, done.stdout, error) == (status, "", said)
    assert TOKEN not in done.stderr and [line.startswith("hint: ") for line in hint] == [True] * bool(said)
