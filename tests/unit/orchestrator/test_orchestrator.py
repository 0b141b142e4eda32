"""The orchestrator over real sockets: HTTP in front, a fake Docker Engine's unix socket behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import uvicorn

from tests.unit.fake_docker import FakeDocker, container

sys.path.insert(0, str(Path(__file__).parents[3] / "files" / "orchestrator"))

from orchestrator import healthcheck
from orchestrator.app import create_app
from orchestrator.settings import SettingsError, read_token

ROOT = Path(__file__).parents[3] / "files" / "orchestrator"
TOKEN = "t" * 40
AUTH = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeDocker]:
    engine = FakeDocker(tmp_path_factory.mktemp("docker") / "docker.sock")
    yield engine
    engine.close()


@pytest.fixture
def fake(engine: FakeDocker) -> FakeDocker:
    engine.reset()
    return engine


@pytest.fixture(scope="module")
def api(engine: FakeDocker) -> Iterator[httpx.Client]:
    # Without the protocol's number asyncio leaves Nagle's algorithm on: 40 ms a request.
    with socket.socket(proto=socket.IPPROTO_TCP) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        server = uvicorn.Server(uvicorn.Config(create_app(TOKEN, engine.socket_path), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        with httpx.Client(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}", trust_env=False) as client:
            yield client
        server.should_exit = True
        thread.join()


def test_health_needs_no_token_and_asks_docker(api: httpx.Client, fake: FakeDocker) -> None:
    answer = api.get("/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    assert fake.requests == ["/_ping"]


def test_health_says_why_docker_does_not_answer(api: httpx.Client, fake: FakeDocker) -> None:
    fake.status = 500
    answer = api.get("/health")
    assert answer.status_code == 503
    assert answer.json() == {"status": "unavailable", "cause": "Docker answered 500 to /_ping"}
    fake.status = 0
    assert "does not answer on" in api.get("/health").json()["cause"]


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
    answer = api.get(path, headers={} if header is None else {"Authorization": header.encode()})
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert fake.requests == []  # nobody without the token makes us ask Docker


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/redoc"])
def test_no_documentation_without_a_token(api: httpx.Client, path: str) -> None:
    assert api.get(path).status_code == 404


def test_services_as_docker_shows_them(api: httpx.Client, fake: FakeDocker) -> None:
    ports = {"8188/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8189"}], "9/tcp": None}
    fake.containers["flux"] = [container("flux", restarts=2, ports=ports, labels={"gpuhost.models": "a, b"})]
    dead = {"Status": "exited", "OOMKilled": True, "Health": None, "StartedAt": "0001-01-01T00:00:00Z"}
    fake.containers["sd35"] = [container("sd35", state=dead)]
    fake.containers["stranger"] = [{**container("stranger"), "Config": {"Labels": {}, "Image": "x"}}]
    answer = api.get("/services", headers=AUTH)
    flux, sd35 = answer.json()["services"]
    assert flux == {
        "name": "flux",
        "stack": "stack-a",
        "state": "running",
        "health": "healthy",
        "started_at": "2026-01-01T00:00:00.123456789Z",
        "restart_count": 2,
        "oom_killed": False,
        "image": "gpuhost/test:1",
        "ports": [{"host_ip": "127.0.0.1", "host_port": 8189, "container_port": 8188, "protocol": "tcp"}],
        "models": ["a", "b"],
    }
    assert (sd35["state"], sd35["health"], sd35["started_at"], sd35["oom_killed"]) == ("exited", None, None, True)
    assert "environment-secret" not in answer.text


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
    text = api.get("/metrics", headers=AUTH).text
    assert "gpuhost_docker_up 1.0" in text
    assert 'gpuhost_service_up{service="flux",stack="stack-a"} 1.0' in text
    assert 'gpuhost_service_up{service="sd35",stack="stack-a"} 0.0' in text
    assert 'gpuhost_service_restarts{service="flux",stack="stack-a"} 3.0' in text
    assert 'gpuhost_service_oom_killed{service="sd35",stack="stack-a"} 1.0' in text
    fake.status = 500
    answer = api.get("/metrics", headers=AUTH)
    assert answer.status_code == 200 and "gpuhost_docker_up 0.0" in answer.text and "service_up{" not in answer.text


def test_a_slow_docker_does_not_hold_up_others(api: httpx.Client, fake: FakeDocker) -> None:
    fake.delay_s = 0.3
    with ThreadPoolExecutor(20) as pool:
        slow = [pool.submit(api.get, "/services", headers=AUTH) for _ in range(20)]
        time.sleep(0.05)
        started = time.monotonic()
        assert api.get("/services").status_code == 401
        assert time.monotonic() - started < 0.2
        assert {future.result().status_code for future in slow} == {200}


@pytest.mark.parametrize(("environ", "cause"), [({}, "is not set"), ({"ORCHESTRATOR_TOKEN": "x" * 31}, "31 char")])
def test_refuses_to_start_without_a_good_token(environ: dict[str, str], cause: str) -> None:
    with pytest.raises(SettingsError, match=cause):
        read_token(environ)


def test_the_refusal_is_two_lines_and_exit_1() -> None:
    environ = {key: value for key, value in os.environ.items() if key != "ORCHESTRATOR_TOKEN"}
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator"], cwd=ROOT, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and done.stdout == ""
    error, hint = done.stderr.splitlines()
    assert error.startswith("error: `ORCHESTRATOR_TOKEN`") and hint.startswith("hint: ")


def test_healthcheck(api: httpx.Client, fake: FakeDocker, capsys: pytest.CaptureFixture[str]) -> None:
    url = str(api.base_url.join("/health"))
    assert healthcheck.main(url) == 0
    fake.status = 500
    assert healthcheck.main(url) == 1
    assert "Docker answered 500" in capsys.readouterr().out
    assert healthcheck.main("http://127.0.0.1:9/health") == 1


def test_sigterm_ends_it_gracefully(fake: FakeDocker) -> None:
    script = (
        "import sys, uvicorn; from orchestrator.app import create_app;"
        f"uvicorn.run(create_app('{TOKEN}', {fake.socket_path!r}), port=0)"
    )
    server = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    lines = iter(server.stderr.readline, "")
    assert any("Uvicorn running" in line for line in lines)
    server.send_signal(signal.SIGTERM)
    assert any("Application shutdown complete" in line for line in lines)
    # Not pid 1 here, so the signal ends it after the shutdown; as pid 1 it exits 0.
    assert server.wait(timeout=5) in (0, -signal.SIGTERM)
