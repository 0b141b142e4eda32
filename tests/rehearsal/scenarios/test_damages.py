"""Every kind of damage to a converged host is seen, planned truly, and repaired by one apply that touches nothing else.

The table is instruments/damages.py. CI takes a sample of it by chance; `GPUHOST_DAMAGES_SEED` sets another one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import pytest

from ..instruments.converged import converged_host
from ..instruments.damaged import plant, repaired
from ..instruments.damages import DAMAGES, REFUSED, Damage, grouped, sample
from ..instruments.proof import Proof
from ..world.snapshot import diff_snapshots
from ..world.world import World

pytestmark = pytest.mark.rehearsal
SEED = int(os.environ.get("GPUHOST_DAMAGES_SEED", "20261122"))
GROUPS = grouped(DAMAGES)
ROUNDS = list(dict.fromkeys(refused.round for refused in REFUSED))


@pytest.fixture(scope="module")
def converged(furnished: World) -> Iterator[Proof]:
    """A copy of a host that went the whole path, with things on it that are nobody's of ours."""
    proof = Proof(converged_host(furnished, "damaged"))
    plant(proof.host)
    assert proof.control.apply().code == 0  # an apt source of somebody's makes apt's index one to be read again
    yield proof
    furnished.destroy(proof.host)


@pytest.fixture
def host(converged: Proof) -> Iterator[Proof]:
    """The same, converged again whatever a test before left."""
    yield converged
    if converged.control.plan().code != 0:
        converged.control.apply()


def test_the_table_is_long_and_names_each_kind_once() -> None:
    names = [damage.name for damage in DAMAGES] + [refused.name for refused in REFUSED]
    assert len(set(names)) == len(names) >= 100
    assert sorted(damage.name for group in GROUPS for damage in group) == sorted(damage.name for damage in DAMAGES)


def test_a_sample_of_damages_is_seen_and_repaired(host: Proof) -> None:
    chosen = sample(SEED)
    print(f"seed {SEED}: {', '.join(damage.name for damage in chosen)}")
    repaired(host, chosen, host.host.snapshot())


@pytest.mark.soak
@pytest.mark.parametrize("group", GROUPS, ids=[f"{len(group)} with {group[0].name}" for group in GROUPS])
def test_every_damage_is_seen_and_repaired(host: Proof, group: list[Damage]) -> None:
    repaired(host, group, host.host.snapshot())


@pytest.mark.soak
@pytest.mark.parametrize("name", ROUNDS)
def test_what_cannot_be_repaired_is_refused(host: Proof, name: str) -> None:
    """With a sentence for each, and nothing is changed."""
    chosen = [refused for refused in REFUSED if refused.round == name]
    for refused in chosen:
        host.host.root(refused.shell, check=True)
    try:
        before = host.host.snapshot()
        told = host.control.apply()
        assert told.code == 1
        for refused in chosen:
            [error] = [each for each in told.errors if re.search(refused.what, each["what"])]
            assert error["hint"], refused.name
        assert len(told.errors) == len(chosen), told.errors
        assert not diff_snapshots(before, host.host.snapshot())
    finally:
        for refused in reversed(chosen):
            host.host.root(refused.undo, check=True)
    put_right = host.control.apply()  # by hand, and what that has stopped or made otherwise goes on
    assert put_right.code == 0, put_right.errors
    host.nothing_to_do()
