"""What somebody puts in the place of a file that root reads, to keep it busy for ever or to be shown another file."""

from __future__ import annotations

import os
import socket
from pathlib import Path

KINDS = ("fifo", "sparse", "zero", "link", "folder", "socket")


def make(path: Path, kind: str) -> None:
    """`sparse`: 2 TB that cost nothing; `zero`: a link to a device without an end; `link`: to a file with content."""
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "sparse":
            path.touch()
            os.truncate(path, 2 * 10**12)
        case "zero":
            path.symlink_to("/dev/zero")
        case "link":
            path.with_name("another").write_text("another's")
            path.symlink_to("another")
        case "folder":
            path.mkdir()
        case "socket":
            here = Path.cwd()
            os.chdir(path.parent)  # a socket's address is short
            try:
                socket.socket(socket.AF_UNIX).bind(path.name)
            finally:
                os.chdir(here)
