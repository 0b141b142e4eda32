"""Plan = apply: in generated situations the plan is what the apply then does, the second plan is empty, and nothing
foreign is touched.

A situation is some of instruments/damages.py, other data, and sometimes an apply that dies (instruments/situations.py).
One host goes through all of them. CI takes two by chance, `make soak` all; `GPUHOST_SITUATIONS_SEED` draws others. What
a situation was is printed as JSON: `GPUHOST_SITUATION='{...}'` does that one, with whatever is left out of it.
"""

from __future__ import annotations

import json
import os
import runpy
from collections.abc import Iterator

import pytest

from ..instruments.converged import converged_host
from ..instruments.damaged import plant
from ..instruments.proof import Proof
from ..instruments.situated import Situated
from ..instruments.situations import Situation, drawn
from ..world.world import World

pytestmark = [pytest.mark.rehearsal, pytest.mark.sampled(2)]
SEED = int(os.environ.get("GPUHOST_SITUATIONS_SEED", "20261129"))
COUNT = 34
GIVEN = os.environ.get("GPUHOST_SITUATION")
SITUATIONS = [Situation.of(json.loads(GIVEN))] if GIVEN else [drawn(SEED, number) for number in range(COUNT)]
_hosts: list[Situated] = []


@pytest.fixture(scope="module")
def hosts(furnished: World) -> Iterator[list[Situated]]:
    """The host, once there is one: the last of the list."""
    made: list[Situated] = []
    yield made
    for each in made:
        furnished.destroy(each.proof.host)


@pytest.fixture
def situated(furnished: World, hosts: list[Situated]) -> Situated:
    """A copy of a host that went the whole path, with things on it that are nobody's of ours; another copy when the
    last one was left in a state that nobody knows."""
    if hosts and hosts[-1].holds is not None:
        return hosts[-1]
    while hosts:
        furnished.destroy(hosts.pop().proof.host)
    proof = Proof(converged_host(furnished, f"situated{len(furnished.hosts)}"))
    site = runpy.run_path(str(proof.host.run_dir / "group_data" / "all.py"))
    plant(proof.host)
    told = proof.control.apply()  # an apt source of somebody's makes apt's index one to be read again
    assert told.code == 0, told.errors
    hosts.append(Situated(proof, {name: each for name, each in site.items() if not name.startswith("_")}))
    return hosts[-1]


@pytest.mark.parametrize("situation", SITUATIONS, ids=map(str, range(len(SITUATIONS))))
def test_the_plan_is_what_the_apply_does(situated: Situated, situation: Situation) -> None:
    print(f"\nGPUHOST_SITUATION='{situation}'", flush=True)
    situated.prove(situation)
