"""Small files that came whole. Each is written at once; for many of them together the disk is asked to have them for
certain, and they are shown then: asked for each, a disk takes longer than the network.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hostside.models.store import FILE_MODE, Digest, Store, with_folder
from hostside.protocol.models import ModelFile

TOGETHER = 128  # files for which the disk is asked, while more come
WAITING_FILES = 256  # at most, while it is asked: each is open
WAITING_BYTES = 32 * 2**20

Files = Sequence[ModelFile]  # with the same bytes


@dataclass(frozen=True)
class _Written:
    files: Files
    read: Digest
    blob: str
    descriptor: int


class Batch:
    """While it is entered. `landed` is told of files whose blob is there, and on disk for certain. After an OSError,
    which comes out, it is told of no more. A file has no name before: nothing is left of a run that is killed."""

    def __init__(self, store: Store, landed: Callable[[Files, Digest], None]) -> None:
        self._store = store
        self._landed = landed
        self._written: list[_Written] = []
        self._written_bytes = 0
        self._asked: list[_Written] = []
        self._disk: _Syncing | None = None
        self._certain: deque[_Written] = deque()

    def __enter__(self) -> Batch:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._answered()
            self._ask()
            self._answered()
            while self._certain:
                self._show()
        finally:
            for each in (*self._written, *self._asked, *self._certain):
                os.close(each.descriptor)

    def add(self, files: Files, content: bytes, read: Digest) -> None:
        """Writes the right bytes. Raises OSError: of these files, or of some before."""
        blob, _ = self._store.names(files[0])
        self._written.append(_Written(files, read, blob, _write(blob, content)))
        self._written_bytes += len(content)
        if self._written_bytes > WAITING_BYTES or len(self._written) >= WAITING_FILES:
            self._answered()
        while len(self._certain) >= WAITING_FILES:
            self._show()
        if not self._disk and len(self._written) >= TOGETHER:
            self._ask()

    def work(self) -> bool:
        """Does a part of what there is to do while no file comes; False when there is nothing."""
        if self._disk and not self._disk.is_alive():
            self._answered()
        if self._certain:
            self._show()
            return True
        return False

    def _ask(self) -> None:
        self._asked, self._written, self._written_bytes = self._written, [], 0
        self._disk = _Syncing(self._store.cache_dir)
        self._disk.start()

    def _answered(self) -> None:
        """Waits for the disk."""
        disk, self._disk = self._disk, None
        if disk:
            disk.wait()
            self._certain += self._asked
            self._asked = []

    def _show(self) -> None:
        each = self._certain[0]
        # linkat(2): a file without a name gets its first one.
        os.link(f"/proc/self/fd/{each.descriptor}", each.blob, src_dir_fd=each.descriptor, follow_symlinks=True)
        self._certain.popleft()
        os.close(each.descriptor)
        self._landed(each.files, each.read)


class _Syncing(threading.Thread):
    """The disk is asked to have for certain what was written in a folder's file system."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self._folder = folder
        self._error: OSError | None = None

    def run(self) -> None:
        try:
            _sync(self._folder)
        except OSError as error:
            self._error = error

    def wait(self) -> None:
        """Raises OSError."""
        self.join()
        if self._error:
            raise self._error


def _write(path: str, content: bytes) -> int:
    """The descriptor of a new file, which has no name yet and can get this one."""
    flags = os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC
    descriptor = with_folder(path, lambda: os.open(os.path.dirname(path), flags, FILE_MODE))
    try:
        while content:
            content = content[os.write(descriptor, content) :]
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _sync(folder: Path) -> None:
    """The whole file system, by syncfs(2), which `os` lacks. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if libc.syncfs(descriptor):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(folder))
    finally:
        os.close(descriptor)
