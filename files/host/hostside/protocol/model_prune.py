"""What passes between the control side and `hostside.model_prune`. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PruneFile:
    """A file of the cache, as the manifest has it."""

    repo: str
    commit: str
    file: str


@dataclass(frozen=True)
class PruneRequest:
    """The files to remove, with the links that the manifest names; nothing that the manifest has not."""

    files: list[PruneFile]
    cache_dir: str
    models_dir: str
    manifest: str
