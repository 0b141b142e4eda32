"""What takes the processor, beside what the hosts of a run are asked: pyinfra serves all of them in one thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import gevent  # type: ignore[import-untyped]

T = TypeVar("T")


def beside(work: Callable[[], T]) -> Callable[[], T]:
    """Begin a work that speaks with no host in a thread; what waits for its end, and lets other hosts go on."""
    wait: Callable[[], T] = gevent.get_hub().threadpool.spawn(work).get
    return wait
