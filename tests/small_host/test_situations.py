"""Plan = apply, on a host that costs seconds: whatever the data was and becomes, whatever somebody did to files, units,
containers, networks and rules, and wherever an apply died, the plan is what the apply then does, the second plan is
empty, the host is as a fresh one would be, and what is nobody's of ours is untouched.

Hypothesis draws, and makes smaller what fails. What it cannot show (packages, images, models, GPUs, Docker's own ways)
the rehearsals do (scenarios/test_situations.py).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
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


@pytest.fixture(scope="module")
def prove(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prove]:
    """A situation -> what the host said of it: faults, the plan, after how many commands it died."""
    folder: Path = tmp_path_factory.mktemp("small")
    command = ["unshare", "--mount", sys.executable, "-m", "tests.small_host.worker", str(folder)]
    told: Counter[str] = Counter()
    with subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:

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


_SLOW = settings(deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=True)


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
