"""The cache: what is expensive to make, kept under the hash of what makes it."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_dir() -> Path:
    """`GPUHOST_REHEARSAL_CACHE`, else `~/.cache/gpuhost-rehearsal`; made when missing."""
    path = Path(os.environ.get("GPUHOST_REHEARSAL_CACHE") or Path.home() / ".cache/gpuhost-rehearsal")
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the lock `name` against every other process on this machine that uses this cache."""
    folder = cache_dir() / "locks"
    folder.mkdir(exist_ok=True)
    with (folder / name).open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def digest(*parts: str | bytes | Path) -> str:
    """16 hex digits over texts, bytes and the content of files."""
    sha = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else part.encode() if isinstance(part, str) else part
        sha.update(len(data).to_bytes(8, "big") + data)
    return sha.hexdigest()[:16]


def cached(name: str, key: str, build: Callable[[Path], None], timings: dict[str, float] | None = None) -> Path:
    """The folder made by `build(folder)` for this key; made once, by one process, whole or not at all.

    Older builds of the same name that nobody used for a week are removed.
    """
    folder = cache_dir() / "built" / f"{name}-{key}"
    with locked(f"{name}-{key}"):
        if not folder.exists():
            started = time.monotonic()
            fresh = folder.with_name(f".{folder.name}.{os.getpid()}")
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir(parents=True)
            try:
                build(fresh)
                fresh.rename(folder)
            except BaseException:
                shutil.rmtree(fresh, ignore_errors=True)
                raise
            if timings is not None:
                timings[f"build {name}"] = round(time.monotonic() - started, 2)
            _forget_old(folder.parent, name)
        os.utime(folder)
    return folder


def _forget_old(parent: Path, name: str, week_s: float = 7 * 86400) -> None:
    for path in parent.glob(f"{name}-????????????????"):
        if time.time() - path.stat().st_mtime > week_s:
            shutil.rmtree(path, ignore_errors=True)
