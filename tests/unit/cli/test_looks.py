"""`gpuhost status`, `logs` and `open`: what they ask, print and refuse."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gpuhost.cli import main as cli
from gpuhost.project import PROJECT
from gpuhost.run import pyinfra as pyinfra_run
from gpuhost.run.pyinfra import Outcome, Target
from tests.unit.cli.test_main import HOST, PROBLEM
from tests.unit.described import described

Event = dict[str, Any]
TWO = """
hosts = [("gpu1", {"ssh_hostname": "192.0.2.1", "ssh_user": "me", "ssh_port": 2222}), ("gpu2", {})]
"""


def service(name: str = "api", **over: Any) -> Event:
    made: Event = {"event": "service", "host": "gpu1", "service": name, "wanted": "running", "state": "running"}
    made |= {"health": "healthy", "port": 9001, "gpus": [0, 1], "since_s": 7200.0, "exit_code": None, "restarts": 0}
    return {**made, "ok": True, **over}


class Fake:
    """What pyinfra would have given; `lines`: what it printed meanwhile."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.outcome, self.lines = Outcome(0, [HOST], ""), list[str]()
        self.asked: list[tuple[str, dict[str, str], list[str]]] = []
        monkeypatch.setattr(pyinfra_run, "look", self._look)
        monkeypatch.setattr(pyinfra_run, "plan", lambda target, only, watch: self._look(target, ",".join(only), watch))

    def _look(self, target: Target, stage: str, watch: Any = print) -> Outcome:
        self.asked.append((stage, dict(target.data), list(target.options)))
        for line in self.lines:
            watch(line)
        return self.outcome


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fake:
    (tmp_path / "inventory.py").write_text(TWO)
    (tmp_path / "group_data").mkdir(exist_ok=True)
    (tmp_path / "group_data/all.py").write_text('enabled_services = ["orchestrator", "comfyui-qwen"]\n')
    monkeypatch.chdir(tmp_path)
    return Fake(monkeypatch)


def test_status_for_people(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake.outcome = Outcome(0, [HOST, service(), service("web", host="gpu2", gpus=[], health="")], "")
    assert cli.main(["status"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "gpu1",
        "  SERVICE  STATE    HEALTH   PORT  GPU  SINCE",
        "  api      running  healthy  9001  0,1  2.0 h",
        "gpu2",
        "  SERVICE  STATE    HEALTH  PORT  GPU  SINCE",
        "  web      running  -       9001  -    2.0 h",
    ]
    assert fake.asked == [("status", {}, [])]


def test_status_of_what_is_wrong(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake.outcome = Outcome(0, [HOST, service(ok=False, state="exited", exit_code=137)], "")
    assert cli.main(["status"]) == 1
    said = capsys.readouterr()
    assert "exited (137)" in said.out and "error: not as it should be: api on gpu1" in said.err


@pytest.mark.parametrize(
    ("events", "code", "result"),
    [([service()], 0, "ok"), ([service(ok=False)], 1, "degraded"), ([service(), PROBLEM], 1, "error")],
)
def test_status_for_programs(
    fake: Fake, capsys: pytest.CaptureFixture[str], events: list[Event], code: int, result: str
) -> None:
    fake.outcome = Outcome(0, [HOST, *events], "")
    assert cli.main(["status", "--json"]) == code
    document = described("status", capsys.readouterr().out)
    assert (document["version"], document["result"]) == (1, result)
    assert document["services"][0] == {key: value for key, value in events[0].items() if key != "event"}


def test_logs_of_one_host_and_of_several(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake.lines = ["--> Connecting to hosts...", "    [gpu1] log| one [x]", "    [gpu1] Success"]
    assert cli.main(["logs", "orchestrator", "--tail", "7", "--limit", "gpu1"]) == 0
    assert capsys.readouterr().out == "one [x]\n"
    assert cli.main(["logs", "orchestrator", "-f"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "[gpu1] one [x]\n"
    assert shown.err == "[gpu2] orchestrator has no log there; `gpuhost status` shows whether it ran\n"
    assert fake.asked == [
        ("logs", {"gpuhost_logs": "orchestrator:7:end"}, ["--limit=gpu1"]),
        ("logs", {"gpuhost_logs": "orchestrator:100:follow"}, ["--limit=gpu1", "--limit=gpu2"]),
    ]


def test_a_host_that_is_left_out_is_not_said_to_have_no_log(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake.lines = ["    [gpu1] log| one"]
    assert cli.main(["logs", "orchestrator", "--", "--exclude", "gpu2"]) == 0
    assert capsys.readouterr() == ("one\n", "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["logs", "orchestrater"], "hint: did you mean `orchestrator`?"),
        (["open", "orchestrater", "-l", "gpu1"], "hint: did you mean `orchestrator`?"),
        (["logs", "qwen3-micro"], "error: no host of this command line has `qwen3-micro` enabled"),
        (["logs", "orchestrator", "--tail", "-1"], "error: --tail -1 is no number of lines"),
        (["open", "orchestrator"], "hint: name one: gpuhost open orchestrator --limit gpu1\n"),
        (["open", "orchestrator", "-i", "."], "hint: name one: gpuhost open orchestrator --limit gpu1 -i .\n"),
    ],
)
def test_what_cannot_be(fake: Fake, capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    assert cli.main(words) == 1
    assert said in capsys.readouterr().err and fake.asked == []


def test_addresses_and_tunnels(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["open", "orchestrator", "--print", "--limit", "gpu1"]) == 0
    said = capsys.readouterr()
    assert said.out == "http://127.0.0.1:8193\n"
    assert said.err == "tunnel: ssh -N -L 8193:127.0.0.1:8193 -p 2222 me@192.0.2.1\n"
    assert cli.main(["open", "orchestrator", "--print", "--limit", "gpu2"]) == 0
    said = capsys.readouterr()
    assert (said.out, said.err) == ("http://127.0.0.1:8293\n", "tunnel: ssh -N -L 8293:127.0.0.1:8193 gpu2\n")
    Path("here.py").write_text('hosts = ["@local"]\n')
    assert cli.main(["open", "orchestrator", "-i", "here.py"]) == 0
    assert capsys.readouterr().out == "http://127.0.0.1:8193\n"


SSH = f"""#!{sys.executable}
import re, signal, socket, sys, time
signal.signal(signal.SIGINT, signal.SIG_DFL)
print(sys.argv, file=open("asked", "w"))
if "refuse" in open("mode").read():
    sys.exit(255)
port = int(re.search(r"-L', '(\\d+):", str(sys.argv))[1])
server = socket.create_server(("127.0.0.1", port))
time.sleep(60)
"""


@pytest.fixture
def ssh(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of that name, which listens as ssh would."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/ssh").write_text(SSH)
    (tmp_path / "bin/ssh").chmod(0o755)
    (tmp_path / "mode").write_text("listen")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "group_data").mkdir(exist_ok=True)
    (tmp_path / "group_data/all.py").write_text(f'services = {{"orchestrator": {{"port": {port}}}}}\n')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    return tmp_path


def test_a_tunnel_is_held_until_ctrl_c(ssh: Path) -> None:
    command = [sys.executable, "-m", "gpuhost.cli.main", "open", "orchestrator", "--limit", "gpu1"]
    with subprocess.Popen(
        command,
        cwd=ssh,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a shell's `&` has it ignored
    ) as held:
        watchdog = threading.Timer(60, held.kill)
        watchdog.start()
        assert held.stdout is not None and held.stderr is not None
        address = held.stdout.readline()
        assert held.stderr.readline().startswith("tunnel: ssh -N -L ")
        assert held.stderr.readline() == "the tunnel is open; Ctrl-C ends it\n"
        with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))):
            pass
        os.killpg(held.pid, signal.SIGINT)
        rest = held.stderr.read()
        watchdog.cancel()
    assert held.returncode == 0 and "the tunnel is closed" in rest
    assert "Traceback" not in rest and "KeyboardInterrupt" not in rest
    assert "ExitOnForwardFailure=yes" in (ssh / "asked").read_text()


def test_a_tunnel_that_cannot_be(ssh: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (ssh / "mode").write_text("refuse")
    assert cli.main(["open", "orchestrator", "--limit", "gpu1", "-i", "."]) == 1
    said = capsys.readouterr()
    assert "error: the tunnel ended (ssh: exit code 255)" in said.err
    assert "`gpuhost trust gpu1 -i .` when the host key is not known" in said.err
    port = int(said.out.rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port)):
        assert cli.main(["open", "orchestrator", "--limit", "gpu1"]) == 1
        assert f"port {port} of this machine is in use" in capsys.readouterr().err


def test_a_log_that_is_followed_ends_with_ctrl_c(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any, **__: Any) -> Outcome:
        raise KeyboardInterrupt

    monkeypatch.setattr(pyinfra_run, "look", stopped)
    assert cli.main(["logs", "orchestrator", "--follow"]) == 0
