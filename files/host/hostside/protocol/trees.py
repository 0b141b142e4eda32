"""What passes between the control side and `hostside.trees`. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TreeRequest:
    """`folder`: what was made; `manifest`: the file that says what it holds, in a folder of root."""

    folder: str
    manifest: str


@dataclass(frozen=True)
class TreeEntry:
    """One thing in a folder. `mode`: permission bits; `text`: the sha256 of a file ("" = not read, because its size is
    another or it cannot be read), the target of a link; `size`: bytes, of a file only; `mount`: a folder of another
    filesystem."""

    kind: Literal["file", "folder", "link", "mount", "other"]
    mode: int
    uid: int
    gid: int
    text: str
    size: int


@dataclass(frozen=True)
class TreeDifference:
    """`path`: below the folder; `recorded` None: it was added; `found` None: it is gone."""

    path: str
    recorded: TreeEntry | None
    found: TreeEntry | None


@dataclass(frozen=True)
class TreeSeen:
    """A folder, compared with its manifest.

    `state`: `recorded`, the manifest says what it holds; `unfinished`: a run that was killed has begun to make it;
    `unknown`: there is no manifest, so nothing was compared. `disk_bytes`: what it takes; `differing`: how many things
    are not as recorded, the `first` of them one by one; `touched`: how many files have their bytes, with other times or
    another inode, and the first of them.
    """

    state: Literal["recorded", "unfinished", "unknown"]
    disk_bytes: int
    differing: int
    first: list[TreeDifference]
    touched: int
    first_touched: str
