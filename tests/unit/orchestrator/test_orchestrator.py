"""The orchestrator over real sockets: HTTP in front, the broker behind, a fake Docker Engine behind that."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from gpuhost.host.paths import Paths
from gpuhost.services.render import text
from hostside import broker as hostside_broker
from tests.unit import sample
from tests.unit.fake_docker import FakeDocker, container, serve_broker

sys.path.insert(0, str(Path(__file__).parents[3] / "files" / "orchestrator"))

from orchestrator import broker, connections, healthcheck, settings
from orchestrator.app import create_app
from orchestrator.connections import LimitedProtocol
from orchestrator.settings import SettingsError, read_token

ROOT = Path(__file__).parents[3] / "files" / "orchestrator"
TOKEN = "t" * 40
AUTH = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeDocker]:
    engine = FakeDocker(tmp_path_factory.mktemp("docker") / "docker.sock")
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def broker_path(engine: FakeDocker, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where the broker of that engine listens."""
    path = tmp_path_factory.mktemp("broker") / "socket"
    serve_broker(path, engine)
    return str(path)


@pytest.fixture
def fake(engine: FakeDocker, monkeypatch: pytest.MonkeyPatch) -> FakeDocker:
    """A working engine, and nothing is told twice."""
    engine.reset()
    monkeypatch.setattr(broker, "FRESH_S", 0.0)
    return engine


@pytest.fixture(scope="module")
def api(broker_path: str) -> Iterator[httpx.Client]:
    # Without the protocol's number asyncio leaves Nagle's algorithm on: 40 ms a request.
    with socket.socket(proto=socket.IPPROTO_TCP) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        app = create_app(TOKEN, broker_path)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", http=LimitedProtocol))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        with httpx.Client(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}", trust_env=False) as client:
            yield client
        server.should_exit = True
        thread.join()


def test_health_needs_no_token_and_asks_docker(api: httpx.Client, fake: FakeDocker) -> None:
    answer = api.get("/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    assert fake.requests == ["/containers/json"]


@pytest.mark.parametrize(("status", "answer"), [(200, 200), (500, 503)])
def test_whoever_asks_for_health_often_makes_no_work_for_docker(
    api: httpx.Client, fake: FakeDocker, monkeypatch: pytest.MonkeyPatch, status: int, answer: int
) -> None:
    fake.status = status
    assert api.get("/health").status_code == answer
    asked = len(fake.requests)
    monkeypatch.setattr(broker, "FRESH_S", 60.0)
    fake.status = 200
    assert {api.get("/health").status_code for _ in range(20)} == {answer}
    assert len(fake.requests) == asked


def test_health_says_why_docker_does_not_answer(api: httpx.Client, fake: FakeDocker) -> None:
    fake.status = 500
    answer = api.get("/health")
    assert answer.status_code == 503
    assert answer.json() == {"status": "unavailable", "cause": "Docker answered 500: broken"}
    fake.status = 0
    assert "Docker does not answer: Remote end closed" in api.get("/health").json()["cause"]


@pytest.mark.parametrize("names", [("a", "z-old"), ("a", "0-old")])
def test_where_two_containers_claim_a_name_the_running_one_counts(
    api: httpx.Client, fake: FakeDocker, names: tuple[str, str]
) -> None:
    """The stopped one, say, was renamed by hand: listed before or after the one that runs, it is not what is shown."""
    running, stopped = names
    fake.containers = {
        name: [container(name, state={"Status": state}, labels={"gpuhost.service": "a"})]
        for name, state in sorted({running: "running", stopped: "exited"}.items())
    }
    assert api.get("/services/a", headers=AUTH).json()["state"] == "running"


@pytest.mark.parametrize("path", ["/services", "/services/x", "/metrics"])
@pytest.mark.parametrize("header", [None, "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer", "Bearer é"])
def test_everything_else_is_locked(api: httpx.Client, fake: FakeDocker, path: str, header: str | None) -> None:
    answer = api.get(path, headers={} if header is None else {b"Authorization": header.encode()})
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert fake.requests == []  # nobody without the token makes us ask Docker


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/redoc"])
def test_no_documentation_without_a_token(api: httpx.Client, path: str) -> None:
    assert api.get(path).status_code == 404


def test_services_as_the_broker_tells_of_them(api: httpx.Client, fake: FakeDocker) -> None:
    fake.containers["flux"] = [container("flux", restarts=2, labels={"gpuhost.models": "a, b"})]
    fake.containers["stranger"] = [{**container("stranger"), "Config": {"Labels": {}, "Image": "x"}}]
    answer = api.get("/services", headers=AUTH)
    [flux] = answer.json()["services"]
    told = hostside_broker.state(container("flux", restarts=2, labels={"gpuhost.models": "a, b"}))
    assert flux == {**asdict(told), "models": ["a", "b"]}
    assert "environment-secret" not in answer.text


def test_a_service_is_stopped_and_started(api: httpx.Client, fake: FakeDocker, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was told before is not told again, however fresh it is."""
    monkeypatch.setattr(broker, "FRESH_S", 60.0)
    fake.containers["flux"] = [container("flux")]
    for action, state in (("stop", "exited"), ("start", "running"), ("start", "running")):
        answer = api.post(f"/services/flux/{action}", headers=AUTH)
        assert (answer.status_code, answer.json()["state"]) == (200, state)
        assert api.get("/services/flux", headers=AUTH).json()["state"] == state


@pytest.mark.parametrize("path", ["/services/flux/stop", "/services/flux/start"])
def test_nobody_without_the_token_stops_or_starts(api: httpx.Client, fake: FakeDocker, path: str) -> None:
    fake.containers["flux"] = [container("flux")]
    assert api.post(path).status_code == 401
    assert api.get(path, headers=AUTH).status_code == 405
    assert [each for each in fake.requests if each.startswith("POST")] == []


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/services/other/start", 404),
        ("/services/stranger/stop", 404),
        ("/services/flux%0Alist/start", 404),
        ("/services/flux/remove", 422),
        ("/services/flux/kill", 422),
        ("/services/..%2Fimages/start", 404),
    ],
)
def test_what_is_no_service_or_no_action_is_refused(
    api: httpx.Client, fake: FakeDocker, path: str, status: int
) -> None:
    fake.containers["flux"] = [container("flux")]
    fake.containers["stranger"] = [{**container("stranger"), "Config": {"Labels": {}, "Image": "x"}}]
    assert api.post(path, headers=AUTH).status_code == status
    assert [each for each in fake.requests if each.startswith("POST")] == []


def test_why_it_does_not_start_is_told(api: httpx.Client, fake: FakeDocker) -> None:
    fake.containers["flux"] = [container("flux", state={"Status": "exited"})]
    fake.cannot_act = "port is already allocated"
    answer = api.post("/services/flux/start", headers=AUTH)
    assert answer.status_code == 409
    assert answer.json()["detail"] == "Docker does not start it: port is already allocated"


def test_one_service(api: httpx.Client, fake: FakeDocker) -> None:
    fake.containers["flux"] = [container("flux")]
    assert api.get("/services/flux", headers=AUTH).json()["name"] == "flux"
    assert api.get("/services/other", headers=AUTH).status_code == 404


def test_services_without_docker_is_503(api: httpx.Client, fake: FakeDocker) -> None:
    fake.status = 500
    assert api.get("/services", headers=AUTH).status_code == 503


def test_metrics(api: httpx.Client, fake: FakeDocker) -> None:
    fake.containers["flux"] = [container("flux", restarts=3)]
    fake.containers["sd35"] = [container("sd35", state={"Health": {"Status": "unhealthy"}, "OOMKilled": True})]
    fake.containers["bare"] = [container("bare", state={"Health": None})]
    fake.containers["gone"] = [container("gone", state={"Status": "exited", "StartedAt": "0001-01-01T00:00:00Z"})]
    fake.containers["alone"] = [container("alone", labels={"gpuhost.stack": ""})]
    del fake.containers["alone"][0]["Config"]["Labels"]["gpuhost.stack"]
    text = api.get("/metrics", headers=AUTH).text
    assert 'gpuhost_service_up{service="alone",stack=""} 1.0' in text
    assert 'gpuhost_service_up{service="bare",stack="stack-a"} 1.0' in text
    assert 'gpuhost_service_up{service="gone",stack="stack-a"} 0.0' in text
    assert 'gpuhost_service_start_time_seconds{service="flux",stack="stack-a"} 1.767225600123456e+09' in text
    assert 'start_time_seconds{service="gone"' not in text
    assert "gpuhost_docker_up 1.0" in text
    assert 'gpuhost_service_up{service="flux",stack="stack-a"} 1.0' in text
    assert 'gpuhost_service_up{service="sd35",stack="stack-a"} 0.0' in text
    assert 'gpuhost_service_restarts{service="flux",stack="stack-a"} 3.0' in text
    assert 'gpuhost_service_oom_killed{service="sd35",stack="stack-a"} 1.0' in text
    fake.status = 500
    answer = api.get("/metrics", headers=AUTH)
    assert answer.status_code == 200 and "gpuhost_docker_up 0.0" in answer.text and "service_up{" not in answer.text


def test_a_slow_docker_does_not_hold_up_others(
    api: httpx.Client, fake: FakeDocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty wait for one answer, and it is asked for once; who needs none of Docker's has his at once."""
    may_end, asked, answer = threading.Event(), threading.Event(), fake.answer

    def slow(*arguments: Any) -> tuple[int, bytes]:
        asked.set()
        may_end.wait(10)
        return answer(*arguments)

    monkeypatch.setattr(fake, "answer", slow)
    with ThreadPoolExecutor(20) as pool:
        slow_ones = [pool.submit(api.get, "/services", headers=AUTH) for _ in range(20)]
        assert asked.wait(10)
        assert api.get("/services").status_code == 401
        assert not [each for each in slow_ones if each.done()]
        may_end.set()
        assert {each.result().status_code for each in slow_ones} == {200}


# -- connections -------------------------------------------------------------------------------------------------------


def opened(api: httpx.Client) -> socket.socket:
    """A connection that says nothing yet."""
    made = socket.create_connection((api.base_url.host, api.base_url.port or 0))
    made.settimeout(10)
    return made


def test_more_connections_than_we_hold_are_closed_at_once(
    api: httpx.Client, fake: FakeDocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "CONNECTIONS", 30)  # other tests' may still be among them
    held = [opened(api) for _ in range(31)]
    answered = [each for each in held if _answers(each)]
    assert 0 < len(answered) <= 30
    for each in held:
        each.close()


def _answers(connection: socket.socket) -> bool:
    try:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        return connection.recv(12) == b"HTTP/1.1 200"
    except (ConnectionResetError, BrokenPipeError):
        return False


@pytest.mark.parametrize("said", [b"", b"GET /health HTTP/1.1\r\nX-Slow: "])
def test_a_connection_that_says_nothing_or_goes_on_for_ever_ends(
    api: httpx.Client, fake: FakeDocker, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    monkeypatch.setattr(connections, "LIFE_S", 0.05)
    with opened(api) as made:
        made.sendall(said)
        assert made.recv(100) == b""


def test_an_answer_that_takes_longer_than_a_connection_lives_is_given(
    api: httpx.Client, fake: FakeDocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "LIFE_S", 0.05)
    fake.delay_s = 0.2
    with opened(api) as made:
        made.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert made.makefile("rb").read().startswith(b"HTTP/1.1 200")  # and then it ends


@pytest.mark.parametrize(("environ", "cause"), [({}, "is not set"), ({"ORCHESTRATOR_TOKEN": "x" * 31}, "31 char")])
def test_refuses_to_start_without_a_good_token(environ: dict[str, str], cause: str) -> None:
    with pytest.raises(SettingsError, match=cause):
        read_token(environ)


def test_a_docker_that_hangs_is_reported_before_anybody_gives_up() -> None:
    """The health check waits for our answer, and Docker (5 s, group_data/all.py) for the health check."""
    assert broker.READ_S < healthcheck.TIMEOUT_S < 5.0 < connections.LIFE_S


def test_it_asks_where_the_broker_listens() -> None:
    folder = Paths.of(sample.catalog()).broker
    unit = text("gpuhost-broker.socket.j2", folder=folder, group="root")
    assert f"\nListenStream={settings.BROKER_SOCKET}\n" in unit


def test_the_refusal_is_two_lines_and_exit_1() -> None:
    environ = {key: value for key, value in os.environ.items() if key != "ORCHESTRATOR_TOKEN"}
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator"], cwd=ROOT, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and done.stdout == ""
    error, hint = done.stderr.splitlines()
    assert error.startswith("error: `ORCHESTRATOR_TOKEN`") and hint.startswith("hint: ")


def as_program(module: str, port: int, socket_path: str = "/nowhere", before: str = "pass") -> list[str]:
    """The command line of a module as its own program, on a port and a socket that a test may have. `before`: code."""
    there = f"settings.PORT, settings.HOST, settings.BROKER_SOCKET = {port}, '127.0.0.1', {socket_path!r}"
    run = f"import runpy; from orchestrator import settings; {there}; {before}; "
    return [sys.executable, "-c", f"{run}runpy.run_module('{module}', run_name='__main__')"]


HEALTHY, SICK = '{"status": "ok"}', '{"cause": "Docker answered 500 to /_ping"}'


@pytest.mark.parametrize(
    ("status", "body", "code", "said"),
    [(200, HEALTHY, 0, HEALTHY), (503, SICK, 1, SICK), (None, "", 1, "does not answer")],
)
def test_the_health_check_as_a_process(status: int | None, body: str, code: int, said: str) -> None:
    """Docker looks at its exit code alone."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status or 0)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        done = subprocess.run(
            as_program("orchestrator.healthcheck", server.server_port if status else 9),
            cwd=ROOT,
            env={**os.environ, "http_proxy": "http://127.0.0.1:9"},  # of a host that reaches the network by one
            capture_output=True,
            text=True,
            check=False,
        )
        server.shutdown()
        thread.join()
    assert (done.returncode, done.stderr) == (code, "") and said in done.stdout


def test_a_health_check_that_gets_no_answer_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before Docker kills it: it still says why."""
    monkeypatch.setattr(healthcheck, "TIMEOUT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert healthcheck.main(f"http://127.0.0.1:{silent.getsockname()[1]}/health") == 1
    assert "does not answer: timed out" in capsys.readouterr().out


def test_with_a_good_token_it_serves_until_sigterm(fake: FakeDocker, broker_path: str) -> None:
    server = subprocess.Popen(
        as_program("orchestrator", 0, broker_path, "from orchestrator import connections; connections.CONNECTIONS = 2"),
        cwd=ROOT,
        env={**os.environ, "ORCHESTRATOR_TOKEN": f" {TOKEN}\n"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stderr is not None
    try:
        lines = iter(server.stderr.readline, "")
        told = next(
            found for line in lines if (found := re.search(r"Uvicorn running on (http://127\.0\.0\.1:\d+)", line))
        )
        with httpx.Client(base_url=told[1], trust_env=False) as client:
            assert client.get("/health").status_code == 200
            statuses = [client.get("/services", headers=headers).status_code for headers in ({}, AUTH)]
        assert statuses == [401, 200]
        port = int(told[1].rpartition(":")[2])
        with ExitStack() as closing:
            held = [closing.enter_context(socket.create_connection(("127.0.0.1", port), 60)) for _ in range(3)]
            assert 0 < len([each for each in held if _answers(each)]) < 3
        server.send_signal(signal.SIGTERM)
        assert any("Application shutdown complete" in line for line in lines)
        # Not pid 1 here, so the signal ends it after the shutdown; as pid 1 it exits 0.
        assert server.wait(timeout=60) in (0, -signal.SIGTERM)
    finally:
        server.kill()
        server.wait()
        server.stderr.close()
