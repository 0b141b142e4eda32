"""The messages of the former fetch program: what the rules speak until they are written anew for files with known
commits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from hostside.protocol import ModelAction


@dataclass(frozen=True)
class ModelFile:
    """One model file, and the one thing to do with it.

    `fetch`: download `revision` (a commit or a branch); `verify`: hash the file that the cache shows for `commit`;
    `link`: link that file, which is as the manifest says, into the models folder. `dest`: relative to that folder.
    `sha256`: what the bytes must have, None = what the hub itself announced; `size` (bytes), where it is known: a file
    of another size is not even read. `gated`: the hub wants to know who asks.
    """

    name: str
    repo: str
    revision: str
    file: str
    dest: str
    sha256: str | None
    action: ModelAction
    commit: str | None
    size: int | None = None
    gated: bool = False


@dataclass(frozen=True)
class ModelsRequest:
    """`cache_dir`: the hub's cache itself (`.../huggingface/hub`); `stall_s`: how long a download may stand still;
    `token`: of an account of the hub, sent for gated files only."""

    models: list[ModelFile]
    cache_dir: str
    models_dir: str
    manifest: str
    stall_s: float
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class ManifestEntry:
    """One model file that was verified.

    `path`: the file in the hub's cache, through its snapshot link; `dest`: the same file's name in the models folder;
    `sha256`: what its bytes had when they were last read. `size` (bytes), `mtime_ns` and `inode` tell whether they
    still do.
    """

    repo: str
    revision: str
    file: str
    dest: str
    commit: str
    path: str
    size: int
    mtime_ns: int
    inode: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What was fetched and verified on a host: model -> entry. It lies there as one JSON file."""

    models: dict[str, ManifestEntry] = field(default_factory=dict)
    version: Literal[1] = 1
