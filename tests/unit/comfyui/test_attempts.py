"""How often somebody may try to log in."""

from __future__ import annotations

import pytest

from .comfy import attempts

ONE, ALL = attempts.Rate(burst=2, every_s=10), attempts.Rate(burst=5, every_s=1)


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_burst_then_one_now_and_then(clock: Clock) -> None:
    counted = attempts.Attempts(ONE, ALL, clock)
    assert [counted.wait_s("a") for _ in range(3)] == [0, 0, 10]
    clock.now_s += 9
    assert counted.wait_s("a") == pytest.approx(1)
    clock.now_s += 1
    assert [counted.wait_s("a") for _ in range(2)] == [0, 10]
    clock.now_s += 1e9
    assert [counted.wait_s("a") for _ in range(3)] == [0, 0, 10]


def test_what_is_refused_costs_nothing_and_one_address_nothing_of_another(clock: Clock) -> None:
    counted = attempts.Attempts(ONE, ALL, clock)
    assert [counted.wait_s("a") for _ in range(100)].count(0) == 2
    assert [counted.wait_s("b") for _ in range(3)] == [0, 0, 10]
    clock.now_s += 10
    assert counted.wait_s("a") == 0


def test_many_addresses_share_a_limit(clock: Clock) -> None:
    counted = attempts.Attempts(ONE, ALL, clock)
    assert [counted.wait_s(f"10.0.0.{last}") for last in range(7)] == [0] * 5 + [1, 1]
    clock.now_s += 1
    assert [counted.wait_s(f"10.0.0.{last}") for last in range(7, 9)] == [0, 1]


def test_it_remembers_so_many_addresses_and_no_more(clock: Clock) -> None:
    counted = attempts.Attempts(ONE, attempts.Rate(burst=10**9, every_s=1), clock)
    for number in range(3 * attempts.ADDRESSES_MAX):
        assert counted.wait_s(str(number)) == 0
    assert len(counted) == attempts.ADDRESSES_MAX
    kept = str(3 * attempts.ADDRESSES_MAX - 1)
    assert [counted.wait_s(kept) for _ in range(2)] == [0, 10]
    for _ in range(10 * attempts.ADDRESSES_MAX):  # who is refused is not remembered anew
        counted.wait_s(kept)
    assert len(counted) == attempts.ADDRESSES_MAX
