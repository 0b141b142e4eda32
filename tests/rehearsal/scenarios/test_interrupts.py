"""A first deploy dies, or is stopped from the keyboard, at any moment: the next one goes on to a converged host.

CI has one of each in test_troubles.py. `GPUHOST_INTERRUPTS_SEED` sets other moments.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest

from ..instruments.converged import GPU, QUICK
from ..instruments.interrupts import Interrupted, Signal
from ..instruments.proof import Proof
from ..world.freshhost import FreshHost
from ..world.world import World

pytestmark = [pytest.mark.rehearsal, pytest.mark.soak, pytest.mark.timeout(3600)]
SEED = int(os.environ.get("GPUHOST_INTERRUPTS_SEED", "20261121"))
HOSTS, MOMENTS = 4, 5  # of each signal: bare hosts, and deploys in a row that end early on each


@pytest.mark.parametrize("number", range(HOSTS))
@pytest.mark.parametrize("signal", ["kill -9", "Ctrl-C"])
def test_a_first_deploy_that_ends_early_is_finished_by_the_next(
    furnished: World, boot: Callable[..., FreshHost], signal: Signal, number: int
) -> None:
    host = boot("interrupted", gpus=[GPU])
    host.write_inventory({**furnished.host_data(), **QUICK})
    proof = Proof(host)
    chance = random.Random(f"{SEED} {signal} {number}")
    interrupted = Interrupted(proof, chance, len(proof.control.plan().changes))
    ended = [interrupted.by(signal, MOMENTS - 1 - moment) for moment in range(MOMENTS)]
    assert all(ended), "a deploy was faster than its moment"
    interrupted.finish()
