"""Which services have room on a card together."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostside.vram import in_the_way, shared_mib, told


@pytest.mark.parametrize(
    ("takes", "running", "others"),
    [
        (12_000, {}, []),
        (24_000, {}, []),  # alone it has the whole card
        (12_000, {"b": 10_000}, []),
        (12_001, {"b": 10_000}, ["b"]),
        (2_000, {"c": 12_000, "a": 8_000}, []),
        (2_001, {"c": 12_000, "a": 8_000}, ["a", "c"]),
    ],
)
def test_those_beside_which_one_more_has_no_room(takes: int, running: Mapping[str, int], others: list[str]) -> None:
    assert in_the_way(takes, 22_000, running) == others


@given(st.lists(st.integers(1, 30_000), min_size=1), st.integers(1, 200_000))
def test_whatever_is_started_one_after_the_other_never_takes_more_than_there_is(wanted: list[int], total: int) -> None:
    running: dict[str, int] = {}
    for number, takes in enumerate(min(each, total) for each in wanted):
        if not in_the_way(takes, shared_mib(total), running):
            running[str(number)] = takes
        assert sum(running.values()) <= (total if len(running) == 1 else shared_mib(total))


def test_in_words() -> None:
    assert told(12_000, 22_000, {"b": 9_000, "a": 8_000}) == (
        "it takes 12000 MiB of its GPU, where 22000 MiB are for all together, beside `a` (8000 MiB) and `b` (9000 MiB)"
    )
