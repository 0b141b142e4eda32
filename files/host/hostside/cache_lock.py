"""One program at a time that writes to a cache: the fetch, the import, the prune. Standard library."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def alone(cache_dir: Path) -> Iterator[None]:
    """While it is entered, no other of our programs writes to the cache. The kernel frees the lock of a process that
    dies. It is the folder's own: huggingface_hub takes a file in its cache for a damage."""
    folder = os.open(cache_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another program works in this cache: waiting for it", file=sys.stderr)
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)
