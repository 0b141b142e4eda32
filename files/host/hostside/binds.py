"""Refuses what a container would be given of the host when another account than root can turn the path elsewhere.

    python -m hostside.binds PATH...

Docker follows links in a bind's source, at every start: whoever can rename a folder on the way, or put a link into it,
chooses what is mounted. So each name on the way must lie in a folder that only root writes; a link there is root's own,
and where it leads to is held to the same. Exit: 0 all of them are so, else 1 with a sentence and a hint.
"""

from __future__ import annotations

import os
import stat
import sys
from pathlib import PurePosixPath

LINKS_MAX = 40  # the kernel's own limit


def fault(path: str) -> tuple[str, str] | None:
    """Why a path is not safe to mount: (sentence, hint); None when it is."""
    at, rest, links = "/", _names(path), 0
    while True:
        try:
            found = os.lstat(at)
        except OSError as error:
            return f"{at} cannot be mounted: {error.strerror}", "`gpuhost apply` makes what is ours"
        if stat.S_ISLNK(found.st_mode):
            links += 1
            if found.st_uid != 0 or links > LINKS_MAX:
                return f"{at} is a link that root did not make", "look at where it leads to, then remove it"
            target = os.readlink(at)  # noqa: PTH115 - as it is written
            rest = [*_names(target), *rest]
            at = "/" if target.startswith("/") else str(PurePosixPath(at).parent)
            continue
        if not rest:
            return None
        if found.st_uid != 0 or found.st_mode & stat.S_IWOTH or (found.st_mode & stat.S_IWGRP and found.st_gid != 0):
            return (
                f"{path} is not mounted: others than root may write to {at}, and put a link there",
                f"look at what lies there, then `gpuhost apply`, or `chown root:root {at}; chmod go-w {at}`",
            )
        name = rest.pop(0)
        at = str(PurePosixPath(at).parent) if name == ".." else f"{at.rstrip('/')}/{name}"


def _names(path: str) -> list[str]:
    return [name for name in path.split("/") if name not in ("", ".")]


def main(paths: list[str]) -> int:
    for path in paths:
        found = fault(path)
        if found:
            print(f"error: {found[0]}\nhint: {found[1]}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
