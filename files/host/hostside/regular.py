"""Files that somebody else may have made, read safely: plain files only, of bounded size. Standard library.

A FIFO keeps a reader waiting for ever, a device never ends, and a sparse file of terabytes costs its maker nothing.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


class UnusableFile(Exception):
    """It is no plain file, or too large. `str()` says which, without the path."""


def open_regular(path: Path, follow: bool = False) -> BinaryIO:
    """A plain file for reading; a link only with `follow`. Raises UnusableFile and OSError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link; a socket
            raise UnusableFile("is not a regular file") from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UnusableFile("is not a regular file")
    return os.fdopen(descriptor, "rb")


def read_regular(path: Path, bytes_max: int) -> tuple[bytes, int]:
    """The content and the time of modification (Unix ns). Raises UnusableFile and OSError."""
    with open_regular(path) as file:
        content = file.read(bytes_max + 1)
        if len(content) > bytes_max:
            raise UnusableFile(f"is larger than {bytes_max >> 20} MiB")
        return content, os.fstat(file.fileno()).st_mtime_ns
