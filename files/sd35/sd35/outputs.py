"""Pictures as files: all of a job, or none."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path


def write(folder: Path, stem: str, pictures: Sequence[bytes]) -> list[str]:
    """The paths of the new files `<stem>-<i>.png`. Raises OSError, and then none of them is there.

    Nothing of a name comes from a client. Each is whole from its first moment: another name first, then renamed.
    """
    paths = [folder / f"{stem}-{number}.png" for number in range(len(pictures))]
    halves = [path.with_name(f".{path.name}.part") for path in paths]
    try:
        for half, picture in zip(halves, pictures, strict=True):
            with half.open("xb") as file:
                file.write(picture)
                file.flush()
                os.fsync(file.fileno())
        for half, path in zip(halves, paths, strict=True):
            half.rename(path)
    except OSError:
        for path in (*halves, *paths):
            path.unlink(missing_ok=True)
        raise
    return [str(path) for path in paths]
