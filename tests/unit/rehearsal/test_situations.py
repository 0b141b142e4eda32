"""Situations are drawn the same way again, told so that they can be done again, and made of data that is in order."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from pyinfra.api.state import State

from gpuhost.catalog.inventory import Request, read
from gpuhost.project import PROJECT
from tests.rehearsal.instruments.situations import CHANGES, DAMAGE, DataChange, Situation, drawn, expected, merged
from tests.rehearsal.world.scenery import ENABLED
from tests.unit import sample

SEED, MANY = 7, range(300)


def test_a_number_is_a_situation_and_each_begins_where_the_one_before_ended() -> None:
    every = [drawn(SEED, number) for number in MANY]
    assert every == [drawn(SEED, number) for number in MANY]
    assert every[0].before == () and all(one.after == other.before for one, other in pairwise(every))
    assert len({name for each in every for name in each.damages}) > 0.8 * len(DAMAGE)
    assert {name for each in every for name in each.after} == {change.name for change in CHANGES}
    assert {each.end for each in every} == {"", "kill -9", "Ctrl-C"}
    assert all(1 <= len(each.damages) <= 5 and len(each.after) <= 2 for each in every)


def test_what_is_told_is_the_situation() -> None:
    for number in MANY:
        situation = drawn(SEED, number)
        assert Situation.of(json.loads(str(situation))) == situation
    assert Situation.of({"damages": ["paused"]}) == Situation(damages=("paused",))


def test_what_is_apart_is_looked_for_line_by_line() -> None:
    """In half of them nothing is in the way of anything else."""
    sure = [expected(drawn(SEED, number)) for number in MANY]
    assert len([each for each in sure if not each.overlap]) > len(sure) / 3
    assert any(each.overlap for each in sure)


@pytest.mark.parametrize("change", CHANGES, ids=[change.name for change in CHANGES])
def test_the_data_of_each_change_is_in_order(
    change: DataChange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pyinfra_state: State
) -> None:
    monkeypatch.chdir(PROJECT)
    sample.write_group_data(tmp_path, {"all": merged([change.name], {"enabled_services": ENABLED})})
    (tmp_path / "inventory.py").write_text('hosts = [("one", {"ssh_hostname": "192.0.2.1"})]\n')
    [found] = read(Request(str(tmp_path / "inventory.py"))).catalogs.values()  # raises what is not
    assert found.enabled()
