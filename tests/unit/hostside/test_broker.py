"""The broker over real sockets: its own in front, a fake Docker Engine's behind. What is not one of three questions is
refused, and Docker hears nothing of it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gpuhost.project import PROJECT
from hostside import broker
from hostside.broker import CLIENTS, QUESTION_BYTES, Answer, Docker
from tests.unit.fake_docker import FakeDocker, container, serve_broker


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeDocker]:
    engine = FakeDocker(tmp_path_factory.mktemp("docker") / "docker.sock")
    yield engine
    engine.close()


@pytest.fixture
def fake(engine: FakeDocker) -> FakeDocker:
    """Two services of ours and somebody's own container."""
    engine.reset()
    engine.containers["flux"] = [container("flux")]
    engine.containers["sd35"] = [container("sd35", state={"Status": "exited"})]
    engine.containers["database"] = [{**container("database"), "Config": {"Labels": {}, "Image": "x", "Env": ["P=q"]}}]
    return engine


@pytest.fixture(scope="module")
def path(engine: FakeDocker, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where the broker listens."""
    path = tmp_path_factory.mktemp("broker") / "socket"
    serve_broker(path, engine)
    return str(path)


def said(path: str, question: bytes) -> dict[str, Any]:
    """The answer to what is sent, however much that is; {} when the connection ends without one."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(path)
        try:
            client.sendall(question)
            text = b"".join(iter(lambda: client.recv(65536), b""))
        except (ConnectionResetError, BrokenPipeError):  # it did not read all of it
            return {}
    return dict(json.loads(text)) if text else {}


def test_the_list_is_all_that_is_told_of_our_containers(path: str, fake: FakeDocker) -> None:
    ports = {"8188/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8189"}], "9/tcp": None}
    fake.containers["flux"] = [container("flux", restarts=2, ports=ports, labels={"gpuhost.models": "a, b"})]
    dead = {"Status": "exited", "OOMKilled": True, "Health": None, "StartedAt": "0001-01-01T00:00:00Z"}
    fake.containers["sd35"] = [container("sd35", state=dead)]
    answer = said(path, b"list\n")
    flux, sd35 = answer["services"]
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
    assert "environment-secret" not in json.dumps(answer) and "database" not in json.dumps(answer)


def test_a_service_is_started_and_stopped(path: str, fake: FakeDocker) -> None:
    for question, state in ((b"start sd35\n", "running"), (b"start sd35\n", "running"), (b"stop sd35\n", "exited")):
        [service] = said(path, question)["services"]
        assert (service["name"], service["state"]) == ("sd35", state)
    assert [each for each in fake.requests if each.startswith("POST")] == [
        "POST /containers/id-sd35/start",
        "POST /containers/id-sd35/start",
        "POST /containers/id-sd35/stop",
    ]


# -- what is refused ---------------------------------------------------------------------------------------------------

HTTP = {
    "create": b"POST /containers/create?name=x HTTP/1.1\r\nHost: d\r\nContent-Length: 2\r\n\r\n{}",
    "exec": b"POST /containers/id-flux/exec HTTP/1.1\r\nHost: d\r\n\r\n",
    "exec start": b"POST /exec/0/start HTTP/1.1\r\nHost: d\r\n\r\n",
    "attach": b"POST /containers/id-flux/attach?stream=1 HTTP/1.1\r\nHost: d\r\nUpgrade: tcp\r\n\r\n",
    "archive": b"GET /containers/id-flux/archive?path=/ HTTP/1.1\r\nHost: d\r\n\r\n",
    "logs": b"GET /containers/id-flux/logs?stdout=1 HTTP/1.1\r\nHost: d\r\n\r\n",
    "inspect": b"GET /containers/id-flux/json HTTP/1.1\r\nHost: d\r\n\r\n",
    "images": b"GET /images/json HTTP/1.1\r\nHost: d\r\n\r\n",
    "build": b"POST /build HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "volumes": b"GET /volumes HTTP/1.0\r\n\r\n",
    "absolute form": b"GET http://docker/containers/json HTTP/1.1\r\nHost: d\r\n\r\n",
    "two lengths": b"POST /containers/id-flux/start HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: 9\r\n\r\n",
    "flood of headers": b"GET /_ping HTTP/1.1\r\n" + b"X: y\r\n" * 100_000,
}
WORDS = {
    "nothing": b"\n",
    "no line end": b"list",
    "two questions": b"list\nlist\n",
    "a question behind a good one": b"start flux\nPOST /containers/create HTTP/1.1\r\n\r\n",
    "CRLF": b"list\r\n",
    "NUL": b"start flux\0\n",
    "another word": b"remove flux\n",
    "capitals": b"LIST\n",
    "no name": b"start \n",
    "two names": b"stop flux sd35\n",
    "two spaces": b"stop  flux\n",
    "a path": b"start ../images/x\n",
    "dots": b"stop ..\n",
    "escaped dots": b"stop %2e%2e%2fflux\n",
    "a name with a path behind it": b"stop flux/../database\n",
    "a query": b"stop flux?signal=SIGKILL\n",
    "a filter": b'stop flux"],"name":["database\n',
    "other letters": "stop flüx\n".encode(),
    "no UTF-8": b"stop \xff\n",
    "a name of 64": b"stop " + b"a" * 64 + b"\n",
    "a mebibyte": b"stop " + b"a" * 2**20,
}


@pytest.mark.parametrize("sent", [*HTTP.values(), *WORDS.values()], ids=[*HTTP, *WORDS])
def test_what_is_no_question_is_refused_before_docker_hears_of_it(path: str, fake: FakeDocker, sent: bytes) -> None:
    answer = said(path, sent)
    assert answer == {} or (answer["services"] == [] and "three questions" in answer["refused"])
    assert fake.requests == []


@example(b"start flux\n")
@example(b"stop flux\n")
@given(st.binary(max_size=80) | st.from_regex(rb"(list|start|stop)[ -~]{0,40}\n?"))
def test_whatever_is_asked_docker_only_lists_ours_and_acts_on_ours(engine: FakeDocker, question: bytes) -> None:
    engine.reset()
    engine.containers["flux"] = [container("flux")]
    engine.containers["database"] = [{**container("database"), "Config": {"Labels": {}, "Image": "x"}}]
    broker.answer(Docker(engine.socket_path), question)
    acts = {b"start flux\n": "POST /containers/id-flux/start", b"stop flux\n": "POST /containers/id-flux/stop"}
    assert set(engine.requests) <= {"/containers/json", "/containers/id-flux/json", acts.get(question)}


@pytest.mark.parametrize("name", ["database", "id-flux", "flu", "flux2", "gpuhost"])
def test_another_container_and_part_of_a_name_are_no_service(path: str, fake: FakeDocker, name: str) -> None:
    for action in ("start", "stop"):
        answer = said(path, f"{action} {name}\n".encode())
        assert (answer["services"], answer["refused"]) == ([], f"no service `{name}`")
    assert not [each for each in fake.requests if each.startswith("POST")]


def test_a_container_named_like_a_service_is_not_it(path: str, fake: FakeDocker) -> None:
    """The label counts, not the name: here the name is another service's."""
    fake.containers["flux"] = [container("flux", labels={"gpuhost.service": "sd35"})]
    del fake.containers["sd35"]
    assert said(path, b"stop flux\n")["refused"] == "no service `flux`"
    assert said(path, b"stop sd35\n")["services"][0]["name"] == "sd35"


@pytest.mark.parametrize("labels", [{}, {"gpuhost.service": "sd35"}])
def test_what_docker_listed_and_is_not_ours_when_it_is_looked_at_is_left_alone(
    path: str, fake: FakeDocker, monkeypatch: pytest.MonkeyPatch, labels: dict[str, str]
) -> None:
    answer, other = fake.answer, container("flux")
    other["Config"]["Labels"] = labels

    def inspected(asked: str, query: dict[str, list[str]]) -> tuple[int, bytes]:
        return (200, json.dumps(other).encode()) if asked == "/containers/id-flux/json" else answer(asked, query)

    monkeypatch.setattr(fake, "answer", inspected)
    assert said(path, b"stop flux\n")["refused"] == "no service `flux`"
    assert not [each for each in fake.requests if each.startswith("POST")]


def test_two_containers_that_claim_a_name_are_none(path: str, fake: FakeDocker) -> None:
    fake.containers["copy"] = [container("copy", labels={"gpuhost.service": "flux"})]
    assert said(path, b"stop flux\n")["refused"] == "2 containers are called the service `flux`"
    assert not [each for each in fake.requests if each.startswith("POST")]


def test_what_somebody_runs_from_a_copy_of_a_container_is_not_the_service(path: str, fake: FakeDocker) -> None:
    """`docker commit` takes the labels along."""
    stamped = {"gpuhost.service": "flux", "gpuhost.spec": '{"image": "gpuhost/other:1"}'}
    fake.containers["copy"] = [container("copy", labels=stamped)]
    assert said(path, b"stop flux\n")["services"][0]["state"] == "exited"
    assert [each for each in fake.requests if each.startswith("POST")] == ["POST /containers/id-flux/stop"]
    assert "copy" not in [each["name"] for each in said(path, b"list\n")["services"]]


def test_a_compose_run_of_somebodys_is_not_the_service(path: str, fake: FakeDocker) -> None:
    one_off = {"gpuhost.service": "flux", "com.docker.compose.oneoff": "True"}
    fake.containers["run"] = [container("run", labels=one_off)]
    assert said(path, b"stop flux\n")["services"][0]["state"] == "exited"
    assert [each for each in fake.requests if each.startswith("POST")] == ["POST /containers/id-flux/stop"]


@pytest.mark.parametrize("kind", ["folder", "link", "absent"])
def test_what_is_given_a_path_that_others_can_turn_elsewhere_is_not_started(
    path: str, fake: FakeDocker, tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    """pytest's folder lies in /tmp, where everybody may put a link."""
    source = tmp_path / "data"
    if kind == "folder":
        source.mkdir()
    elif kind == "link":
        source.symlink_to("/etc")
    fake.containers["sd35"][0]["Mounts"] = [{"Type": "bind", "Source": "/usr"}, {"Type": "bind", "Source": str(source)}]
    refused = said(path, b"start sd35\n")["refused"]
    assert refused.startswith("`sd35` is not started: others than root can turn what it is given of the host elsewhere")
    assert str(tmp_path) not in refused and "sd35 is not started: " in capfd.readouterr().err
    assert not [each for each in fake.requests if each.startswith("POST")]
    assert said(path, b"stop sd35\n")["services"][0]["state"] == "exited"  # that is no harm


def test_what_root_alone_leads_to_is_started(path: str, fake: FakeDocker) -> None:
    fake.containers["sd35"][0]["Mounts"] = [
        {"Type": "bind", "Source": "/usr"},
        {"Type": "volume", "Source": "/nowhere", "Name": "v"},
    ]
    assert said(path, b"start sd35\n")["services"][0]["state"] == "running"


def on_a_gpu(name: str, takes: int, *cards: str, status: str = "exited") -> dict[str, Any]:
    """A service that takes so much of each of these cards, of which all together may take 20000 MiB."""
    attached = {"gpuhost.vram_mib": str(takes), "gpuhost.vram_shared_mib": "20000"} if takes else {}
    made = container(name, state={"Status": status}, labels=attached)
    made["HostConfig"]["DeviceRequests"] = [
        {"Driver": "cdi", "DeviceIDs": [f"nvidia.com/gpu={each}" for each in cards]}
    ]
    return made


@pytest.mark.parametrize(
    ("takes", "cards", "beside", "refused"),
    [
        (8_000, ["A"], [("flux", 12_000, "running")], ""),
        (8_001, ["A"], [("flux", 12_000, "running")], "beside `flux` (12000 MiB); stop `flux` first"),
        (8_001, ["A"], [("flux", 12_000, "exited")], ""),
        (8_001, ["A"], [("flux", 12_000, "paused")], "beside `flux` (12000 MiB); stop `flux` first"),
        (8_001, ["A"], [("flux", 12_000, "restarting")], "beside `flux` (12000 MiB); stop `flux` first"),
        (8_001, ["B"], [("flux", 12_000, "running")], ""),
        (8_001, ["B", "A"], [("flux", 12_000, "running")], "beside `flux` (12000 MiB); stop `flux` first"),
        (24_000, ["A"], [], ""),
        (24_000, ["A"], [("reader", 0, "running")], ""),  # who only reads the state of a card takes nothing
        (0, ["A"], [("flux", 24_000, "running")], ""),
        (
            5_000,
            ["A"],
            [("flux", 9_000, "running"), ("qwen", 8_000, "running")],
            "beside `flux` (9000 MiB) and `qwen` (8000 MiB); stop `flux` or `qwen` first",
        ),
    ],
)
def test_a_service_is_started_only_when_its_gpu_has_room(
    path: str, fake: FakeDocker, takes: int, cards: list[str], beside: list[tuple[str, int, str]], refused: str
) -> None:
    fake.containers = {"sd35": [on_a_gpu("sd35", takes, *cards)]}
    for name, mib, status in beside:
        fake.containers[name] = [on_a_gpu(name, mib, "A", status=status)]
    answer = said(path, b"start sd35\n")
    told = f"it takes {takes} MiB of its GPU, where 20000 MiB are for all together, {refused}" if refused else None
    assert answer["refused"] == told
    asked = [each for each in fake.requests if each.startswith("POST")]
    assert asked == ([] if refused else ["POST /containers/id-sd35/start"])


def test_with_the_test_profile_one_runs_at_a_time(path: str, fake: FakeDocker) -> None:
    alone = {"gpuhost.alone": "yes"}
    for name, status in (("flux", "running"), ("sd35", "exited")):
        fake.containers[name] = [container(name, state={"Status": status}, labels=alone)]
    fake.containers["orchestrator"] = [container("orchestrator")]
    refused = "with the test profile services run one at a time; stop `flux` first"
    assert said(path, b"start sd35\n")["refused"] == refused
    assert not [each for each in fake.requests if each.startswith("POST")]
    fake.containers["flux"] = [container("flux", state={"Status": "exited"}, labels=alone)]
    assert said(path, b"start sd35\n")["refused"] is None


def test_of_two_that_are_started_at_once_the_second_sees_the_first(path: str, fake: FakeDocker) -> None:
    fake.containers = {name: [on_a_gpu(name, 12_000, "A")] for name in ("flux", "sd35")}
    fake.delay_s = 0.02
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda name: said(path, f"start {name}\n".encode()), ("flux", "sd35")))
    assert sorted(answer["refused"] is None for answer in answers) == [False, True]


def test_why_docker_does_not_is_told(path: str, fake: FakeDocker) -> None:
    fake.cannot_act = "port is already allocated" + "x" * 1000
    refused = said(path, b"start sd35\n")["refused"]
    assert refused.startswith("Docker does not start it: port is already allocated") and len(refused) < 400


@pytest.mark.parametrize(
    ("status", "cause"),
    [(500, "Docker answered 500: broken"), (0, "Docker does not answer: Remote end closed connection")],
)
def test_why_docker_does_not_answer_is_told(path: str, fake: FakeDocker, status: int, cause: str) -> None:
    fake.status = status
    answer = said(path, b"list\n")
    assert answer["services"] == [] and answer["unavailable"].startswith(cause)


def test_no_docker_is_told(tmp_path: Path) -> None:
    answer = broker.answer(Docker(str(tmp_path / "nothing")), b"list\n")
    assert answer.unavailable and answer.unavailable.startswith("Docker does not answer: ")


def test_an_answer_of_dockers_that_is_too_large_or_no_json_is_refused(
    path: str, fake: FakeDocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake, "answer", lambda *_: (200, b"[" + b" " * broker.ANSWER_BYTES + b"]"))
    assert said(path, b"list\n")["unavailable"] == "Docker's answer is larger than 4 MiB"
    monkeypatch.setattr(fake, "answer", lambda *_: (200, b"<html>"))
    assert said(path, b"list\n")["unavailable"] == "Docker answered with what is no JSON"


# -- serving -----------------------------------------------------------------------------------------------------------


def test_clients_that_say_nothing_go_and_the_next_is_answered(
    path: str, fake: FakeDocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More of them than are taken at a time, and each holds its place until its time is over."""
    monkeypatch.setattr(broker, "CLIENT_S", 0.2)
    silent = [socket.socket(socket.AF_UNIX) for _ in range(CLIENTS + 3)]
    for client in silent:
        client.connect(path)
    assert len(said(path, b"list\n")["services"]) == 2
    for client in silent:
        with client:
            assert client.recv(1) == b""


def test_a_question_in_pieces_is_refused(path: str, fake: FakeDocker) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        client.sendall(b"li")
        assert b"three questions" in client.makefile("rb").read()
    assert len(b"start " + b"a" * 63 + b"\n") <= QUESTION_BYTES


def test_a_slow_stop_holds_nobody_up(path: str, fake: FakeDocker, monkeypatch: pytest.MonkeyPatch) -> None:
    may_end = threading.Event()
    act = fake.act

    def slow(asked: str) -> tuple[int, bytes]:
        may_end.wait(10)
        return act(asked)

    monkeypatch.setattr(fake, "act", slow)
    with ThreadPoolExecutor(1) as pool:
        stopping = pool.submit(said, path, b"stop flux\n")
        assert {each["state"] for each in said(path, b"list\n")["services"]} == {"running", "exited"}
        assert not stopping.done()
        may_end.set()
        assert stopping.result()["services"][0]["state"] == "exited"


def test_docker_makes_one_list_at_a_time_however_many_ask(path: str, fake: FakeDocker) -> None:
    asked: list[int] = []
    answer, lock = fake.answer, threading.Lock()
    running = 0

    def counted(*arguments: Any) -> tuple[int, bytes]:
        nonlocal running
        with lock:
            running += 1
            asked.append(running)
        time.sleep(0.01)
        try:
            return answer(*arguments)
        finally:
            with lock:
                running -= 1

    fake.answer = counted  # type: ignore[method-assign, assignment]
    try:
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(lambda _: said(path, b"list\n"), range(6)))
    finally:
        del fake.answer
    assert asked and max(asked) == 1


def test_the_program_ends_when_it_was_replaced_and_leaves_the_connection_to_the_next(
    fake: FakeDocker, tmp_path: Path
) -> None:
    """As systemd starts it: the socket is descriptor 3, and outlives the program."""
    package = tmp_path / "hostside"
    package.mkdir()
    for name in ("__init__", "binds", "broker", "labels", "vram", "wire"):
        (package / f"{name}.py").write_text((PROJECT / f"files/host/hostside/{name}.py").read_text())
    text = (package / "broker.py").read_text()
    old = text.replace('DOCKER_SOCKET = "/run/docker.sock"', f"DOCKER_SOCKET = {fake.socket_path!r}")
    assert old != text
    (package / "broker.py").write_text(old)
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        os.set_inheritable(listening.fileno(), True)

        def start() -> subprocess.Popen[bytes]:
            run = f"import os; os.dup2({listening.fileno()}, 3); from hostside import broker; broker.main()"
            return subprocess.Popen([sys.executable, "-B", "-c", run], cwd=tmp_path, pass_fds=[listening.fileno()])

        first = start()
        assert len(said(path, b"list\n")["services"]) == 2 and first.poll() is None
        new = package / "new"
        new.write_text(old.replace("no service", "there is no service"))
        new.replace(package / "broker.py")
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(said, path, b"stop nothing\n")
            assert first.wait(10) == 0
            second = start()
            try:
                assert waiting.result()["refused"] == "there is no service `nothing`"
            finally:
                second.kill()
                second.wait()


def test_a_module_without_its_file_does_not_end_it(
    fake: FakeDocker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As while its files are replaced."""
    gone = ModuleType("hostside.gone")
    gone.__file__ = str(tmp_path / "gone.py")
    monkeypatch.setitem(sys.modules, gone.__name__, gone)
    serve_broker(tmp_path / "socket", fake)
    assert len(said(str(tmp_path / "socket"), b"list\n")["services"]) == 2


def test_an_answer_has_these_fields_and_no_other() -> None:
    """What the orchestrator reads."""
    assert set(vars(Answer())) == {"services", "refused", "unavailable"}
