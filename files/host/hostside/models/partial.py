"""A file that is being downloaded: what is on disk for certain, and its hash so far.

Its bytes are gathered to pieces; a piece is hashed and written while the next one comes. Large files are written past
the kernel's cache: what the services read stays in there, and to copy bytes into it takes the processor longer than to
hash them.

After a loss of power a file may have its size and not its bytes. So the disk is asked every few MiB to have them for
certain, and who opens the file again keeps what was: a kill or a power cut costs `LOST_BYTES_MAX` of the file and the
pieces that were not written. Its mode says whether it was closed with all on disk; a journal keeps the order of a
change of mode and one of size.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import mmap
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hostside.models.hub_errors import FetchError
from hostside.models.store import FILE_MODE, Digest, Hasher, with_folder
from hostside.protocol.models import ModelFile

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

PIECE_BYTES = 2 * 2**20
SYNC_BYTES = 16 * 2**20
BEING_WRITTEN, CLOSED = 0o600, FILE_MODE  # the modes
LOST_BYTES_MAX = 2 * SYNC_BYTES + PIECE_BYTES  # written, but perhaps not on disk


@functools.cache
def _beside() -> ThreadPoolExecutor:
    """Hashes, writes, syncs."""
    from concurrent.futures import ThreadPoolExecutor  # with all of logging: not for small files

    return ThreadPoolExecutor(max_workers=32, thread_name_prefix="beside")


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
    """While it is entered: the open file. `size`: bytes that it has, or that are on the way to it."""

    def __init__(self, path: Path, file: ModelFile, moved: Callable[[int], None]) -> None:
        """`moved` is told of bytes that are there (an earlier run's too), negative when they are given up."""
        self.path = path
        self.size = 0
        self._file = file
        self._moved = moved
        self._hasher = Hasher(file)
        self._piece, self._other = _memory(file.size), _memory(file.size)
        self._filled = 0  # bytes of the piece
        self._begins = 0  # where in the file the piece does
        self._handed: list[Future[None]] = []  # the piece before, on its way to the disk and into the hash
        self._syncing: Future[None] | None = None
        self._asked = 0  # up to where the disk has been asked to have it
        self._closed = False

    def __enter__(self) -> Partial:
        flags = os.O_RDWR | os.O_CLOEXEC
        try:
            new = os.O_CREAT | os.O_EXCL
            self._descriptor = with_folder(self.path, lambda: os.open(self.path, flags | new, BEING_WRITTEN))
        except FileExistsError:
            self._descriptor = os.open(self.path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
            self._take_over()
        if len(self._piece) == PIECE_BYTES:
            _past_cache(self._descriptor, True)
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
            count = min(len(rest), len(self._piece) - self._filled)
            self._piece[self._filled : self._filled + count] = rest[:count]
            self._filled += count
            rest = rest[count:]
            if self._filled == PIECE_BYTES:
                self._hand_over()
        self.size += len(data)
        self._moved(len(data))

    def finish(self) -> Digest:
        """All is there and on disk."""
        self._close()
        return self._hasher.digest()

    def start_over(self) -> None:
        """Gives up what is there."""
        self._closed = False
        self._arrived()
        self._synced()
        os.fchmod(self._descriptor, BEING_WRITTEN)
        os.ftruncate(self._descriptor, 0)
        self._moved(-self.size)
        self.size = self._filled = self._begins = self._asked = 0
        self._hasher = Hasher(self._file)

    def _take_over(self) -> None:
        """What an earlier run left: as much of it as is there for certain."""
        found = os.fstat(self._descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1 or found.st_uid != os.geteuid():
            os.close(self._descriptor)
            raise FetchError(
                "filesystem", f"`{self.path}` is not a plain file of our own", "move it away, then run again"
            )
        kept = _kept(found, self._file.size)
        os.ftruncate(self._descriptor, kept)
        os.fchmod(self._descriptor, BEING_WRITTEN)
        os.fsync(self._descriptor)
        self._asked = kept
        while count := os.preadv(self._descriptor, [self._piece[self._filled :]], self.size):
            self._filled += count
            self.size += count
            self._moved(count)
            if self._filled == PIECE_BYTES:
                self._hand_over(is_written=True)

    def _hand_over(self, is_written: bool = False) -> None:
        """The piece is full: it is hashed and written while the other one fills."""
        self._arrived()
        if self._begins - self._asked >= SYNC_BYTES:
            self._synced()
            self._syncing = _beside().submit(os.fdatasync, self._descriptor)
            self._asked = self._begins
        self._handed = [_beside().submit(self._hasher.update, self._piece)]
        if not is_written:
            self._handed.append(_beside().submit(_write, self._descriptor, self._piece, self._begins))
        self._piece, self._other = self._other, self._piece
        self._begins += PIECE_BYTES
        self._filled = 0

    def _arrived(self) -> None:
        """Waits for the piece before: what the disk did not take is raised here, and nothing is written behind it."""
        handed, self._handed = self._handed, []
        try:
            for each in handed:
                each.result()
        except OSError:
            self._filled = 0
            raise

    def _synced(self) -> None:
        """Waits for the disk: it is not further behind than `SYNC_BYTES` and what has come meanwhile."""
        syncing, self._syncing = self._syncing, None
        if syncing:
            syncing.result()

    def _close(self) -> None:
        self._arrived()
        rest, self._filled = self._piece[: self._filled], 0
        self._hasher.update(rest)
        _write(self._descriptor, rest, self._begins)
        self._synced()
        os.fsync(self._descriptor)
        os.fchmod(self._descriptor, CLOSED)
        self._closed = True


def _memory(size: int) -> memoryview:
    """Of a piece of a file of `size`. Only large files are written past the cache, for which it begins at a block."""
    if size < PIECE_BYTES:
        return memoryview(bytearray(size))
    return memoryview(mmap.mmap(-1, PIECE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def _write(descriptor: int, rest: memoryview, at: int) -> None:
    while rest:
        try:
            count = os.pwrite(descriptor, rest, at)
        except OSError as error:
            # Whole blocks alone are written past the cache: what is left of a file is not.
            if error.errno != errno.EINVAL or not _past_cache(descriptor, False):
                raise
        else:
            rest, at = rest[count:], at + count


def _past_cache(descriptor: int, yes: bool) -> bool:
    """Lets it be written past the cache, where the file system can do that, or not. False when nothing has changed."""
    before = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    after = before | os.O_DIRECT if yes else before & ~os.O_DIRECT
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, after)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return before != after
