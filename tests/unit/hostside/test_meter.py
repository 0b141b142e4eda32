"""How far files are: each that is open, and the whole, as long as it goes on."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from hostside.models.meter import RECENT, Meter, _Count
from hostside.protocol.models import Progress
from tests.unit.hostside.test_hub_errors import FILE

ONE, TWO = replace(FILE, file="one.bin", size=10), replace(FILE, file="two.bin", size=20)


class Told:
    """What was reported; `until` waits for a report that fits, from now on."""

    def __init__(self) -> None:
        self.all: list[Progress] = []
        self._more = threading.Condition()

    def __call__(self, progress: Progress) -> None:
        with self._more:
            self.all.append(progress)
            self._more.notify_all()

    def next_of(self, file: str | None) -> Progress:
        with self._more:
            seen = len(self.all)
            assert self._more.wait_for(lambda: any(each.file == file for each in self.all[seen:]), timeout=20)
            return next(each for each in self.all[seen:] if each.file == file)


def test_each_open_file_and_the_whole_are_told() -> None:
    told = Told()
    with Meter(told, every_s=0.01) as meter:
        meter.expect(25)
        meter.expect(5)
        one, two = meter.open(ONE), meter.open(TWO)
        one(4)
        one(2)
        two(20)
        found = [told.next_of(name) for name in ("one.bin", "two.bin", None)]
        assert [(each.model, each.file, each.bytes, each.total_bytes) for each in found] == [
            ("vae", "one.bin", 6, 10),
            ("vae", "two.bin", 20, 20),
            (None, None, 26, 30),
        ]
        meter.close(TWO)
        meter.close(TWO)  # an error may have closed it
        told.next_of(None)
        seen = len(told.all)
        told.next_of(None)
        assert {each.file for each in told.all[seen:]} == {"one.bin", None}
    ended = len(told.all)
    assert threading.Event().wait(0.05) is False and len(told.all) == ended


def test_a_speed_is_that_of_the_last_tellings() -> None:
    count = _Count(1000)
    count.before.append((0.0, 0))
    assert count.speed(0.0) == 0.0  # no time has passed
    count = _Count(1000)
    count.before.append((0.0, 0))
    speeds = []
    for second in range(1, RECENT + 4):
        count.bytes += 10 if second <= 3 else 40
        speeds.append(count.speed(float(second)))
    assert speeds[:3] == [10.0, 10.0, 10.0] and speeds[3] == 17.5
    assert speeds[-1] == 40.0  # what was long ago is forgotten
    count.bytes = 0  # a download that starts over
    assert count.speed(99.0) == 0.0


def test_how_long_it_takes_is_told_when_something_moves() -> None:
    told = Told()
    with Meter(told, every_s=0.05) as meter:
        still, moving = meter.open(TWO), meter.open(ONE)
        still(0)
        moving(5)
        found = told.next_of("one.bin")
        assert found.bytes_per_s > 0 and found.eta_s == pytest.approx((10 - 5) / found.bytes_per_s)
        found = told.next_of("two.bin")
        assert (found.bytes, found.bytes_per_s, found.eta_s) == (0, 0.0, None)
