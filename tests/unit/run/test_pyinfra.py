"""A run of pyinfra as a program: what it is told and tells, and what is left of it when it is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuhost.project import PROJECT

# What it is allowed goes to a file of its own; it reports twice, and works as long as there is a file `hold`.
DEPLOY = """
import json, time
from pathlib import Path
from pyinfra.context import host
from gpuhost.plan.report import Report

told = Report(host.data.get("gpuhost_report"))
told.add("hosts", "", names=["two", "one"])
told.add("host", "one")
Path("allowed").write_text(Path(host.data.get("gpuhost_allow")).read_text())
while Path("hold").exists():
    time.sleep(0.02)
told.add("host", "two")
"""
APPLY = """
import sys
from pathlib import Path
from gpuhost.run import pyinfra
event = {"event": "host", "host": "gpu1"}
done = pyinfra.apply(pyinfra.Target("inventory.py", project=Path.cwd()), [event])
print(done.code, [event["host"] for event in done.events])
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "deploy.py").write_text(DEPLOY)
    (tmp_path / "inventory.py").write_text('hosts = ["@local"]\n')
    (tmp_path / "tmp").mkdir()
    return tmp_path


@pytest.fixture
def started(project: Path) -> Iterator[subprocess.Popen[str]]:
    """An apply in a session of its own."""
    environment = {**os.environ, "TMPDIR": str(project / "tmp"), "PYTHONPATH": str(PROJECT)}
    process = subprocess.Popen(
        [sys.executable, "-c", APPLY],
        cwd=project,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    yield process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def wait_for_work(project: Path) -> None:
    end = time.monotonic() + 60
    while not (project / "allowed").exists() or not (project / "allowed").read_text():
        assert time.monotonic() < end, "it did not start"
        time.sleep(0.02)


def test_it_is_told_what_it_may_do_and_tells_what_it_did(project: Path, started: subprocess.Popen[str]) -> None:
    assert started.communicate(timeout=60)[0] == "0 ['', 'two', 'one']\n"  # in the inventory's order
    assert (project / "allowed").read_text() == '{"gpu1": []}'
    assert list((project / "tmp").iterdir()) == []


@pytest.mark.parametrize("parent_only", [False, True])
def test_a_run_that_is_killed_leaves_nothing_behind(
    project: Path, started: subprocess.Popen[str], parent_only: bool
) -> None:
    """Neither while it works nor afterwards has a file of it a name; a child that lives on goes on to its end."""
    (project / "hold").touch()
    wait_for_work(project)
    assert list((project / "tmp").iterdir()) == []
    (os.kill if parent_only else os.killpg)(started.pid, signal.SIGKILL)
    (project / "hold").unlink()
    started.communicate(timeout=60)
    assert list((project / "tmp").iterdir()) == []
