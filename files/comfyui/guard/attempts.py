"""How often somebody may try to log in: some attempts at once, then one now and then; for each address and for all."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

ADDRESSES_MAX = 1000  # of more, the one that tried longest ago is forgotten; what all may do together still holds


@dataclass(frozen=True)
class Rate:
    """`burst` attempts at once, then one every `every_s` seconds."""

    burst: int
    every_s: float


OF_ONE = Rate(burst=10, every_s=10)  # one address
OF_ALL = Rate(burst=30, every_s=3)  # all together


@dataclass(frozen=True)
class _Bucket:
    """What is left of a burst, and when that was so."""

    left: float
    at_s: float

    def now(self, rate: Rate, now_s: float) -> _Bucket:
        return _Bucket(min(rate.burst, self.left + (now_s - self.at_s) / rate.every_s), now_s)

    def wait_s(self, rate: Rate) -> float:
        return max(0.0, (1 - self.left) * rate.every_s)

    def less_one(self) -> _Bucket:
        return replace(self, left=self.left - 1)


class Attempts:
    """Counts the attempts. Through a port that Docker publishes, every caller on the host has its gateway's address."""

    def __init__(self, of_one: Rate, of_all: Rate, clock: Callable[[], float] = time.monotonic) -> None:
        self._of_one, self._of_all, self._clock = of_one, of_all, clock
        self._all = _Bucket(of_all.burst, clock())
        self._by_address: OrderedDict[str, _Bucket] = OrderedDict()

    def __len__(self) -> int:
        """How many addresses are remembered."""
        return len(self._by_address)

    def wait_s(self, address: str) -> float:
        """0 when this attempt may be made, and it is counted; else how long until the next one may."""
        now_s = self._clock()
        own = self._by_address.get(address, _Bucket(self._of_one.burst, now_s)).now(self._of_one, now_s)
        all_of_them = self._all.now(self._of_all, now_s)
        wait_s = max(own.wait_s(self._of_one), all_of_them.wait_s(self._of_all))
        if wait_s == 0:
            self._all, self._by_address[address] = all_of_them.less_one(), own.less_one()
            self._by_address.move_to_end(address)
            if len(self._by_address) > ADDRESSES_MAX:
                self._by_address.popitem(last=False)
        return wait_s
