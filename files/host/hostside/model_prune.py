"""Removes files of models from the hub's cache, with their links in the models folder, so that their disk is free.

    python -m hostside.model_prune < request

The request is a `PruneRequest`. Only what the manifest has is removed, only the names that it knows, and the
bytes only when no other snapshot shows them. Killed at any moment, planned and run again, it finishes.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from hostside import hub_cache
from hostside.cache_lock import alone
from hostside.models import manifest
from hostside.protocol.model_prune import PruneRequest
from hostside.protocol.models import ManifestEntry, manifest_key
from hostside.regular import UnusableFile, open_regular
from hostside.wire import MAX_BYTES, WireError, from_json


def prune(request: PruneRequest) -> int:
    """Returns the bytes that were freed."""
    cache, path = Path(request.cache_dir), Path(request.manifest)
    freed = 0
    with alone(cache):
        known = manifest.load(path)
        for file in request.files:
            entry = known.files.get(manifest_key(file.repo, file.commit, file.file))
            if entry is None:
                continue
            freed += _removed(entry, cache, Path(request.models_dir))
            del known.files[manifest_key(file.repo, file.commit, file.file)]
            manifest.save(path, known)
        for repo, commit in {(file.repo, file.commit) for file in request.files}:
            _forget_commit(cache, repo, commit)
    return freed


def _removed(entry: ManifestEntry, cache: Path, models: Path) -> int:
    """Removes one file; the bytes that this freed."""
    pointer = Path(hub_cache.snapshot(str(cache), entry.repo, entry.commit, entry.file))
    blob = pointer.resolve()
    if not blob.is_relative_to(cache.resolve()):
        return 0  # somebody put a link to elsewhere here
    try:
        there = blob.stat()
    except FileNotFoundError:
        pointer.unlink(missing_ok=True)
        _remove_empty(pointer.parent, cache)
        return 0
    if blob != pointer and _shown(cache, entry.repo, blob, pointer):
        pointer.unlink()  # another revision has the same bytes
        _remove_empty(pointer.parent, cache)
        return 0
    for link in entry.links:
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat((models / link).lstat(), there):
                (models / link).unlink()
    blob.unlink(missing_ok=True)
    pointer.unlink(missing_ok=True)  # last, for it is what leads to the bytes
    _remove_empty(pointer.parent, cache)
    left = there.st_nlink - 1 - len(entry.links)
    if left > 0:
        print(f"{entry.file}: its bytes still have {left} name(s) elsewhere on the disk", file=sys.stderr)
        return 0
    return there.st_size


def _shown(cache: Path, repo: str, blob: Path, pointer: Path) -> bool:
    """True when a snapshot shows these bytes by another name than `pointer`."""
    folder = cache / hub_cache.folder_name(repo) / "snapshots"
    links = (each for each in folder.glob("*/**/*") if each.is_symlink() and each != pointer)
    return any(each.resolve() == blob for each in links)


def _remove_empty(folder: Path, cache: Path) -> None:
    """Removes folders that are left empty, from inside out, but for the cache itself."""
    while folder != cache and folder.is_relative_to(cache):
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent


def _forget_commit(cache: Path, repo: str, commit: str) -> None:
    """Removes the names of a commit of which nothing is left."""
    folder = cache / hub_cache.folder_name(repo)
    if (folder / "snapshots" / commit).exists():
        return
    for ref in [*(folder / "refs").rglob("*")]:
        if ref.is_file() and _begins(ref, commit):
            ref.unlink()
            _remove_empty(ref.parent, cache)
    for name in ("blobs", "refs", "snapshots"):
        _remove_empty(folder / name, cache)


def _begins(path: Path, text: str) -> bool:
    """Read no further: who put it there may have made it of any size."""
    try:
        with open_regular(path) as file:
            return file.read(len(text)) == text.encode()
    except UnusableFile:
        return False


def main() -> int:
    """Exit: 0 done; 1 the disk refused; 2 the request is wrong."""
    os.umask(0o022)
    try:
        freed = prune(from_json(PruneRequest, sys.stdin.buffer.read(MAX_BYTES + 1)))
    except WireError as error:
        print(f"error: {error}\nhint: `gpuhost apply` ships the programs that fit this gpuhost", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: `{error.filename}`: {error.strerror}\nhint: look at its owner and mode", file=sys.stderr)
        return 1
    print(f"{freed} bytes are free again")
    return 0


if __name__ == "__main__":
    sys.exit(main())
