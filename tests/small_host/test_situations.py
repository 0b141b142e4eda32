"""Plan = apply, on a host that costs seconds: whatever the data was and becomes, whatever somebody did to files, units,
containers, networks and rules, and wherever an apply died, the plan is what the apply then does, the second plan is
empty, the host is as a fresh one would be, and what is nobody's of ours is untouched.

Hypothesis draws, and makes smaller what fails. What it cannot show (packages, images, models, GPUs, Docker's own ways)
the rehearsals do (scenarios/test_situations.py).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from gpuhost.project import PROJECT
from tests.small_host.situations import situations

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root has a mount namespace of its own"),
    pytest.mark.timeout(900),
]
Situation = dict[str, Any]
Prove = Callable[[Situation], Any]


def small_host(folder: Path) -> subprocess.Popen[str]:
    """A worker. Namespaces of its own: what it mounts nobody else sees, and what it started ends with it, however it
    ends."""
    apart = ["unshare", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child"]
    command = [*apart, sys.executable, "-m", "tests.small_host.worker", str(folder)]
    return subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def prove(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prove]:
    """A situation -> what the host said of it: faults, the plan, after how many commands it died."""
    folder: Path = tmp_path_factory.mktemp("small")
    told: Counter[str] = Counter()
    with small_host(folder) as worker:

        def ask(situation: Situation) -> Any:
            assert worker.stdin and worker.stdout
            print(json.dumps(situation), file=worker.stdin, flush=True)
            answer = json.loads(worker.stdout.readline())
            told.update(["situations", *(["deaths"] if answer["died_after"] else []), *answer["planned"]])
            return answer

        yield ask
    print(f"{told.pop('situations', 0)} situations, {told.pop('deaths', 0)} deaths, {told.total()} planned changes")


def proved(prove: Prove, situation: Situation) -> None:
    answer = prove(situation)
    assert not answer["faults"], (answer["faults"], answer["planned"])


def processes(folder: Path) -> dict[int, str]:
    """pid -> command line, of all that know of a small host's folder."""
    found = {}
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            line = each.read_text(errors="replace").replace("\0", " ")
            if str(folder) in line:
                found[int(each.parent.name)] = line
    return found


def wait_for(true: Callable[[], bool]) -> None:
    """Until it is so. Fails after half a minute."""
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


_SLOW = settings(deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=True)


@pytest.mark.parametrize("killed", ["unshare", f"{sys.executable} -m tests.small_host.worker"], ids=["outer", "inner"])
@settings(_SLOW, max_examples=1, derandomize=True)
@given(situations)
def test_nothing_outlives_a_worker_that_is_killed(tmp_path: Path, killed: str, situation: Situation) -> None:
    """Neither what answers for its programs, nor one of these that waits for an answer."""
    folder = tmp_path / "small"
    folder.mkdir()
    with small_host(folder) as worker:
        try:
            assert worker.stdin
            wait_for(lambda: (folder / "calls/all").exists())
            for pid, line in processes(folder).items():
                if "small_host.programs" in line:  # it does not come to an answer
                    os.kill(pid, signal.SIGSTOP)
            print(json.dumps(situation), file=worker.stdin, flush=True)
            wait_for(lambda: any(f"{folder}/bin/" in line for line in processes(folder).values()))
            [pid] = [pid for pid, line in processes(folder).items() if line.startswith(killed)]
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda: not processes(folder))
        finally:
            worker.kill()


@settings(_SLOW, max_examples=6, derandomize=True)
@given(situations)
def test_a_few_situations(prove: Prove, situation: Situation) -> None:
    proved(prove, situation)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@settings(_SLOW, max_examples=170)
@given(situations)
def test_many_situations(prove: Prove, situation: Situation) -> None:
    proved(prove, situation)
