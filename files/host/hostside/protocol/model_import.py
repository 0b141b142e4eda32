"""What passes between the control side and `hostside.model_import`. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass

from hostside.protocol.models import ModelFile


@dataclass(frozen=True)
class ImportRequest:
    """`folder`: where files may lie; `wishes`: those that are missing, whatever their action says; `uid`, `gid`: of the
    account that owns cache, models and manifest."""

    folder: str
    wishes: list[ModelFile]
    cache_dir: str
    models_dir: str
    manifest: str
    uid: int
    gid: int


@dataclass(frozen=True)
class ImportCandidate:
    """A file at `path` that has the size of a missing one."""

    model: str
    file: str
    path: str


@dataclass(frozen=True)
class OtherFile:
    """A file that has the size of no missing one. `size`: bytes."""

    path: str
    size: int


@dataclass(frozen=True)
class ImportLook:
    """What lies in a folder. `others`: the first of `others_total`."""

    candidates: list[ImportCandidate]
    others: list[OtherFile]
    others_total: int


@dataclass(frozen=True)
class Placement:
    """A file that was found, for the part of the program that may write: its bytes come as an open file. `shown`: its
    path; `sha256`, `git_sha1`: of its bytes, when they were read already; None: they are read while they are copied."""

    file: ModelFile
    shown: str
    sha256: str | None
    git_sha1: str | None
