"""How a stand-in misbehaves on demand: orders in one file, obeyed at the next request."""

from __future__ import annotations

import fcntl
import json
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from threading import Lock

from .http import Request, Response, text

MODES = (
    *("401", "403", "404", "429", "500", "503"),
    *("cut", "truncated", "wrong-bytes", "slow", "stalled", "tampered-index", "down"),
)
STALLED_S = 300.0
_order_numbers = count(time.time_ns())


class ConnectionCut(Exception):
    """The stand-in drops the connection now."""


@dataclass(frozen=True)
class Order:
    """What a stand-in shall do to requests whose path matches `match`, `times` times (0: always).

    `after_bytes`: where "cut", "truncated" and "stalled" end an answer; None: in its middle. `retry_after`: what a
    refusal asks to wait, in the header's own words.
    """

    mode: str
    match: str = ""
    times: int = 0
    number: int = 0
    slow_bytes_per_s: int = 65536
    after_bytes: int | None = None
    retry_after: str = ""


class Orders:
    """The orders of a world, in a file that the front reads and the world writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: dict[int, int] = {}
        self._lock = Lock()

    def read(self) -> dict[str, Order]:
        """The order of each stand-in that has one."""
        try:
            return {name: Order(**fields) for name, fields in json.loads(self.path.read_text()).items()}
        except FileNotFoundError:
            return {}

    def give(self, name: str, order: Order | None) -> None:
        """Replace the order of stand-in `name`; None ends it. Other processes may write too."""
        with self.path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            orders = {key: asdict(value) for key, value in self.read().items() if key != name}
            if order is not None:
                orders[name] = asdict(order) | {"number": next(_order_numbers)}
            fresh = self.path.with_suffix(".new")
            fresh.write_text(json.dumps(orders))
            fresh.replace(self.path)

    def for_request(self, name: str, request: Request) -> Order | None:
        """The order to obey for this request, counted."""
        order = self.read().get(name)
        if order is None or not re.search(order.match, request.path):
            return None
        if order.mode == "tampered-index" and not request.path.endswith(("/InRelease", "/Release")):
            return None
        with self._lock:
            self._seen[order.number] = self._seen.get(order.number, 0) + 1
            return None if order.times and self._seen[order.number] > order.times else order


def refusal(order: Order) -> Response | None:
    """The answer that an order gives instead of the stand-in's own; ConnectionCut for "down"."""
    if order.mode == "down":
        raise ConnectionCut
    if order.mode.isdigit():
        asked = {"Retry_After": order.retry_after} if order.retry_after else {}
        return text(int(order.mode), f"rehearsal: {order.mode} on demand\n", **asked)
    return None


def spoil(order: Order, response: Response) -> Response:
    """The stand-in's own answer, spoilt as ordered."""
    if order.mode == "tampered-index":
        data = b"".join(response.body).replace(b"\nSuite: ", b"\nSuite: x", 1).replace(b"\nDate: ", b"\nDate:  ", 1)
        return Response(response.status, response.headers, [data], len(data))
    if not response.payload or response.status >= 300:
        return response
    if order.mode == "wrong-bytes":
        response.body = _flipped(response.body)
    elif order.mode == "slow":
        response.body = _slowed(response.body, order.slow_bytes_per_s)
    elif order.mode in ("cut", "truncated", "stalled"):
        length = response.length or 2
        after = length // 2 if order.after_bytes is None else min(order.after_bytes, length)
        response.body = _cut(response.body, after, order.mode)
        if order.mode == "truncated":
            response.length = after
    return response


def _flipped(body: Iterable[bytes]) -> Iterator[bytes]:
    for block in body:
        yield block[:-1] + bytes([block[-1] ^ 0xFF]) if block else block


def _slowed(body: Iterable[bytes], bytes_per_s: int) -> Iterator[bytes]:
    step = max(1, bytes_per_s // 10)
    for block in body:
        for start in range(0, len(block), step):
            piece = block[start : start + step]
            yield piece
            time.sleep(len(piece) / bytes_per_s)


def _cut(body: Iterable[bytes], after_bytes: int, mode: str) -> Iterator[bytes]:
    left = after_bytes
    for block in body:
        if left > 0:
            yield block[:left]
        left -= len(block)
        if left <= 0:
            break
    if mode == "stalled":
        time.sleep(STALLED_S)
    if mode != "truncated":
        raise ConnectionCut
