"""Small files that came whole. Each is written at once; for many of them together the disk is asked to have them for
certain, and they are shown then: asked for each, a disk takes longer than the network.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hostside.models.store import FILE_MODE, Digest, Store, with_folder
from hostside.protocol.models import ModelFile

TOGETHER = 128  # files for which the disk is asked,
TOGETHER_S = 2.0  # or those of so long
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
    """While it is entered. `landed` is told of files whose blob is there, and on disk for certain.

    A file has no name before, so that nothing is left of a run that is killed. The first OSError comes out of whatever
    is called; what that one does not concern is shown nevertheless, nothing where the disk said no.
    """

    def __init__(self, store: Store, landed: Callable[[Files, Digest], None]) -> None:
        self._store = store
        self._landed = landed
        self._written: list[_Written] = []
        self._written_bytes = 0
        self._since_s = 0.0  # the first of them
        self._asked: list[_Written] = []
        self._disk: _Syncing | None = None
        self._certain: deque[_Written] = deque()
        self._error: OSError | None = None

    def __enter__(self) -> Batch:
        # Before the first write: what the disk could not do since then is said to this one.
        self._folder = os.open(self._store.cache_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
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
            os.close(self._folder)
        self._tell()

    def add(self, files: Files, content: bytes, read: Digest) -> None:
        """Writes the right bytes. Raises OSError: of these files, or of some before."""
        blob, _ = self._store.names(files[0])
        descriptor = _write(blob, content)
        if not self._written:
            self._since_s = time.monotonic()
        self._written.append(_Written(files, read, blob, descriptor))
        self._written_bytes += len(content)
        is_much = self._written_bytes > WAITING_BYTES or len(self._written) >= WAITING_FILES
        if is_much:
            self._answered()
        while len(self._certain) >= WAITING_FILES:
            self._show()
        if is_much or len(self._written) >= TOGETHER:
            self._ask()
        self._tell()

    def work(self) -> bool:
        """Does a part of what there is to do while no file comes; False when there is nothing. Raises OSError."""
        if self._disk and not self._disk.is_alive():
            self._answered()
        if self._written and time.monotonic() - self._since_s > TOGETHER_S:
            self._ask()
        is_some = bool(self._certain)
        if is_some:
            self._show()
        self._tell()
        return is_some

    def _ask(self) -> None:
        """Unless it is asked, or has said no."""
        if not (self._disk or self._asked):
            self._asked, self._written, self._written_bytes = self._written, [], 0
            disk = _Syncing(self._folder)
            disk.ask()
            self._disk = disk

    def _answered(self) -> None:
        """Waits for the disk."""
        disk, self._disk = self._disk, None
        if disk:
            disk.wait()
            self._certain += self._asked
            self._asked = []

    def _show(self) -> None:
        each = self._certain.popleft()
        try:
            # linkat(2): a file without a name gets its first one.
            os.link(f"/proc/self/fd/{each.descriptor}", each.blob, src_dir_fd=each.descriptor, follow_symlinks=True)
            self._landed(each.files, each.read)
        except OSError as error:
            self._error = self._error or error
        finally:
            os.close(each.descriptor)

    def _tell(self) -> None:
        error, self._error = self._error, None
        if error:
            raise error


class _Syncing(threading.Thread):
    """The disk is asked to have for certain what was written in a folder's file system."""

    def __init__(self, folder: int) -> None:
        super().__init__(daemon=True)
        self._folder = folder
        self._error: BaseException | None = OSError(errno.EIO, "the disk was not asked")

    def ask(self) -> None:
        """Raises OSError."""
        try:
            self.start()
        except RuntimeError as error:  # no more threads
            raise OSError(errno.EAGAIN, str(error)) from error

    def run(self) -> None:
        try:
            _sync(self._folder)
            self._error = None
        except BaseException as error:
            self._error = error

    def wait(self) -> None:
        """Raises OSError."""
        self.join()
        if isinstance(self._error, OSError):
            raise self._error
        if self._error:
            raise OSError(errno.EIO, str(self._error)) from self._error


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


def _sync(folder: int) -> None:
    """The whole file system, by syncfs(2), which `os` lacks. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syncfs(folder):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
