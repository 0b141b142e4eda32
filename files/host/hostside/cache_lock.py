"""One program at a time that writes to a cache: the fetch, the import, the prune. Standard library."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path

NAME = ".gpuhost-fetch.lock"


@contextlib.contextmanager
def alone(cache_dir: Path) -> Iterator[None]:
    """While it is entered, no other of our programs writes to the cache. The kernel frees the lock of a process that
    dies."""
    descriptor = os.open(cache_dir / NAME, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    with os.fdopen(descriptor) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another program works in this cache: waiting for it", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
