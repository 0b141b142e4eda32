"""A file that is being downloaded: what is on disk for certain, and its hash so far.

After a loss of power a file may have its size and not its bytes. So the bytes are handed to the disk every few MiB, and
who opens the file again keeps what was on disk for certain: a kill or a power cut costs `LOST_BYTES_MAX`. Its mode says
whether it was closed with all on disk; a journal keeps the order of a change of mode and one of size.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from hostside.models.hub_errors import FetchError
from hostside.models.store import CHUNK_BYTES, FILE_MODE, Digest, Hasher
from hostside.protocol import ModelFile

SYNC_BYTES = 16 * 2**20
BEING_WRITTEN, CLOSED = 0o600, FILE_MODE  # the modes
LOST_BYTES_MAX = 2 * SYNC_BYTES + CHUNK_BYTES  # written, but perhaps not on disk

HASHED_BESIDE_BYTES = 2**17  # a smaller piece is hashed sooner than it is handed over

_hashers = ThreadPoolExecutor(max_workers=os.cpu_count(), thread_name_prefix="hash")
_disk = ThreadPoolExecutor(max_workers=2, thread_name_prefix="sync")


def left_bytes(path: Path) -> int:
    """The size of what an earlier run left."""
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0


def kept_bytes(path: Path, size: int) -> int:
    """How much of it is used, for a file of `size`."""
    try:
        return _kept(path.lstat(), size)
    except FileNotFoundError:
        return 0


def _kept(found: os.stat_result, size: int) -> int:
    if found.st_size > size:
        return 0
    return found.st_size if stat.S_IMODE(found.st_mode) == CLOSED else max(0, found.st_size - LOST_BYTES_MAX)


class Partial:
    """While it is entered: the open file. `size`: bytes that it has."""

    def __init__(self, path: Path, file: ModelFile, moved: Callable[[int], None]) -> None:
        """`moved` is told of bytes that are there (an earlier run's too), negative when they are given up."""
        self.path = path
        self.size = 0
        self._file = file
        self._moved = moved
        self._hasher = Hasher(file)
        self._hashing: Future[None] | None = None
        self._syncing: Future[None] | None = None
        self._asked = 0  # up to where the disk has been asked to have it
        self._closed = False

    def __enter__(self) -> Partial:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        self._descriptor = os.open(self.path, flags, BEING_WRITTEN)
        found = os.fstat(self._descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1 or found.st_uid != os.geteuid():
            os.close(self._descriptor)
            raise FetchError(
                "filesystem", f"`{self.path}` is not a plain file of our own", "move it away, then run again"
            )
        os.ftruncate(self._descriptor, _kept(found, self._file.size))
        if found.st_size:
            os.fchmod(self._descriptor, BEING_WRITTEN)
            os.fsync(self._descriptor)
        while chunk := os.read(self._descriptor, CHUNK_BYTES):
            self._take(chunk)
        self._asked = self.size
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if not self._closed:
                self._close()
        finally:
            os.close(self._descriptor)

    def write(self, data: bytes) -> None:
        """The next bytes. Raises `FetchError` when there are more than the file has."""
        if self.size + len(data) > self._file.size:
            raise FetchError(
                "bytes",
                f"`{self._file.repo}:{self._file.file}` has more than its {self._file.size} bytes",
                "something between this host and the hub changes what it sends: check the proxy",
            )
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
        self._take(data)
        if self.size - self._asked >= SYNC_BYTES:
            self._wait()
            self._syncing = _disk.submit(os.fdatasync, self._descriptor)
            self._asked = self.size

    def finish(self) -> Digest:
        """All is there and on disk."""
        self._close()
        self._hashed()
        return self._hasher.digest()

    def start_over(self) -> None:
        """Gives up what is there."""
        self._closed = False
        self._hashed()
        self._wait()
        os.fchmod(self._descriptor, BEING_WRITTEN)
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        self._moved(-self.size)
        self.size = self._asked = 0
        self._hasher = Hasher(self._file)

    def _close(self) -> None:
        self._wait()
        os.fsync(self._descriptor)
        os.fchmod(self._descriptor, CLOSED)
        self._closed = True

    def _take(self, data: bytes) -> None:
        """Hashes a large piece while the next one comes and is written: hashlib lets other threads run meanwhile."""
        self._hashed()
        if len(data) < HASHED_BESIDE_BYTES:
            self._hasher.update(data)
        else:
            self._hashing = _hashers.submit(self._hasher.update, data)
        self.size += len(data)
        self._moved(len(data))

    def _hashed(self) -> None:
        hashing, self._hashing = self._hashing, None
        if hashing:
            hashing.result()

    def _wait(self) -> None:
        """Not further ahead of the disk than one piece: what it could not write is raised here."""
        syncing, self._syncing = self._syncing, None
        if syncing:
            syncing.result()
