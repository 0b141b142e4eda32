"""Ctrl-C while an apply works: the step at hand is finished, no other is begun; twice, or too long: it is left."""

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

CONFIG = """
from gpuhost.run import stop
stop.listen()
"""
# Two operations of two commands each. The first command waits as long as there is a file `hold`.
DEPLOY = """
from pathlib import Path
from pyinfra.api.operation import operation
from gpuhost.plan.change import Change, Resource
from gpuhost.run.remote import Script
from gpuhost.run.session import carry_out, current

current()

@operation()
def step(number):
    change = Change("stage", Resource("file", number), "create", "why")
    wait = f"touch {number}-began; while [ -e hold ]; do sleep 0.02; done; touch {number}-ended"
    yield from carry_out([change], [Script(wait), Script(f"touch {number}-second")])

step(name="stage | one", number="one")
step(name="stage | two", number="two")
"""
APPLY = """
import sys
from dataclasses import asdict
from pathlib import Path
from gpuhost.plan.change import Change, Resource
from gpuhost.run import pyinfra

pyinfra.FINISH_S = float(sys.argv[1])
changes = [asdict(Change("stage", Resource("file", number), "create", "why")) for number in ("one", "two")]
planned = [{"event": "change", "host": "@local", "phase": "plan", **change} for change in changes]
done = pyinfra.apply(pyinfra.Target("inventory.py", project=Path.cwd()), planned)
performed = [event["resource"]["name"] for event in done.events if event["event"] == "performed"]
print(done.code, done.stopped or "-", performed, done.problems())
"""


class Apply:
    """An apply in a session of its own, which Ctrl-C reaches as a terminal's does."""

    def __init__(self, folder: Path, finish_s: float) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-c", APPLY, str(finish_s)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def interrupt(self) -> None:
        os.killpg(self.process.pid, signal.SIGINT)

    def wait_for(self, name: str) -> None:
        end = time.monotonic() + 60
        while not (self.folder / name).exists():
            assert time.monotonic() < end and self.process.poll() is None, f"no {name}"
            time.sleep(0.02)

    def files(self) -> set[str]:
        return {path.name for path in self.folder.glob("*-*")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.py").write_text(CONFIG)
    (tmp_path / "deploy.py").write_text(DEPLOY)
    (tmp_path / "inventory.py").write_text('hosts = ["@local"]\n')
    (tmp_path / "hold").touch()
    return tmp_path


@pytest.fixture
def started(folder: Path, request: pytest.FixtureRequest) -> Iterator[Apply]:
    made = Apply(folder, getattr(request, "param", 60.0))
    yield made
    (folder / "hold").unlink(missing_ok=True)
    if made.process.poll() is None:
        os.killpg(made.process.pid, signal.SIGKILL)
    made.process.communicate()


def test_the_step_at_hand_is_finished_and_no_other_begun(started: Apply) -> None:
    started.wait_for("one-began")
    started.interrupt()
    assert started.process.stderr is not None
    assert started.process.stderr.readline() == "\n"
    assert started.process.stderr.readline().startswith("Stopping: the step at hand is finished first.")
    (started.folder / "hold").unlink()
    out, errors = started.process.communicate(timeout=60)
    assert (out, errors) == ("1 finished [] []\n", "")
    assert started.files() == {"one-began", "one-ended"}


def test_the_second_ctrl_c_leaves_it(started: Apply) -> None:
    started.wait_for("one-began")
    started.interrupt()
    assert started.process.stderr is not None
    assert started.process.stderr.readline() == "\n"
    started.interrupt()
    out, _ = started.process.communicate(timeout=60)
    assert out == "-9 left [] []\n"
    assert started.files() == {"one-began"}


@pytest.mark.parametrize("started", [0.2], indirect=True)
def test_a_step_that_takes_too_long_is_left(started: Apply) -> None:
    started.wait_for("one-began")
    started.interrupt()
    assert started.process.communicate(timeout=60)[0] == "-9 left [] []\n"


def test_what_nobody_stops_goes_on_to_its_end(started: Apply) -> None:
    (started.folder / "hold").unlink()
    assert started.process.communicate(timeout=60)[0] == "0 - ['one', 'two'] []\n"
    assert len(started.files()) == 6
