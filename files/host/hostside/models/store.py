"""The hub cache and the models folder as files: where things lie, their bytes, and the links between the two.

A model is a *hard link* in the models folder to its file in the hub cache. It costs nothing on one filesystem,
and it is a plain file wherever the models folder is mounted. A symbolic link, even a relative one, resolves only
in a container that mounts the cache too, in the same place relative to the models; vLLM and ComfyUI want it in
different places. The price: cache and models must share a filesystem, which is checked before the first byte.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from filelock import FileLock, Timeout

from hostside import hub_cache
from hostside.models.hub_errors import FetchError
from hostside.models.manifest import write_atomically
from hostside.regular import UnusableFile, open_regular, read_regular
from hostside.wire import MAX_BYTES

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA1 = re.compile(r"[0-9a-f]{40}")
CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class Digest:
    """`sha256` of a file, and its git blob id, which the hub uses as ETag for files outside LFS."""

    sha256: str
    git_sha1: str

    def agrees(self, pinned: str | None, etag: str) -> bool:
        """Are these the right bytes? A pin decides; without one the hub's own ETag does, where it is a hash."""
        if pinned is not None:
            return self.sha256 == pinned
        if _SHA256.fullmatch(etag):
            return self.sha256 == etag
        return not _SHA1.fullmatch(etag) or self.git_sha1 == etag


def digest(path: Path) -> Digest:
    """Reads the file once, as long as it is at the start. Raises `FetchError` for what is no plain file."""
    sha256, git_sha1 = hashlib.sha256(), hashlib.sha1(usedforsecurity=False)
    try:
        with open_regular(path, follow=True) as file:
            left = os.fstat(file.fileno()).st_size
            git_sha1.update(b"blob %d\0" % left)
            while chunk := file.read(min(CHUNK_BYTES, left)):
                left -= len(chunk)
                sha256.update(chunk)
                git_sha1.update(chunk)
    except UnusableFile as error:
        raise FetchError("filesystem", f"`{path}` {error}", "move it away, then run again") from error
    return Digest(sha256.hexdigest(), git_sha1.hexdigest())


class Store:
    """Both folders. Nothing is created before `prepare()`."""

    def __init__(self, cache_dir: Path, models_dir: Path) -> None:
        self.cache_dir = cache_dir
        self.models_dir = models_dir
        self._journal = cache_dir / ".gpuhost-inflight.json"

    def pointer(self, repo: str, commit: str, file: str) -> Path:
        """Where the hub cache shows a file of a commit."""
        return Path(hub_cache.snapshot(str(self.cache_dir), repo, commit, file))

    def etag(self, pointer: Path) -> str:
        """The ETag that the file was fetched with: the hub cache names its blobs so."""
        return pointer.readlink().name if pointer.is_symlink() else ""

    def has_blob(self, repo: str, etag: str) -> bool:
        return (self._repo(repo) / "blobs" / etag).exists()

    def is_linked(self, pointer: Path, dest: str) -> bool:
        try:
            return os.path.samestat(pointer.stat(), (self.models_dir / dest).lstat())
        except FileNotFoundError:
            return False

    def link(self, pointer: Path, dest: str, own_inode: int | None) -> Path | None:
        """Makes `dest` a hard link to the cached file. Returns where a foreign file in its place was moved to.

        `own_inode`: the file that we linked there earlier, which is replaced and not kept.
        """
        if self.is_linked(pointer, dest):
            return None
        target = self.models_dir / dest
        target.parent.mkdir(parents=True, exist_ok=True)
        moved_to = None
        if target.exists() and not target.is_symlink() and target.stat().st_ino != own_inode:
            moved_to = _beside(target)
            target.rename(moved_to)
        temporary = target.with_name(f".{target.name}.gpuhost-link")
        temporary.unlink(missing_ok=True)
        os.link(pointer.resolve(), temporary)
        temporary.replace(target)
        return moved_to

    def set_aside(self, pointer: Path, dest: str) -> tuple[Path, Path]:
        """Takes a file whose bytes changed out of the cache and the models folder, and keeps it: whoever wrote them may
        want them. Returns where it was and where it is."""
        linked = self.is_linked(pointer, dest)
        was = self.models_dir / dest if linked else pointer.resolve()
        moved_to = _beside(was)
        was.rename(moved_to)
        self._forget(pointer)
        return was, moved_to

    def discard(self, pointer: Path, dest: str) -> None:
        """Removes a file that was just downloaded with wrong bytes, from the models folder too."""
        if self.is_linked(pointer, dest):
            (self.models_dir / dest).unlink()
        self._forget(pointer)

    def _forget(self, pointer: Path) -> None:
        """Removes a file from the cache with all that leads to it, so that the hub's client downloads it again."""
        chain = [pointer, pointer.resolve()]
        if pointer.is_symlink():
            chain.insert(1, pointer.parent / pointer.readlink())  # the blob, which may be a link itself
        for path in chain:
            path.unlink(missing_ok=True)

    def prepare(self) -> None:
        """Makes both folders. Raises `FetchError` when a hard link between them is impossible."""
        self.cache_dir.mkdir(parents=True, exist_ok=True)
        self.models_dir.mkdir(parents=True, exist_ok=True)
        source, target = self.cache_dir / ".gpuhost-link-test", self.models_dir / ".gpuhost-link-test"
        try:
            source.touch()
            target.unlink(missing_ok=True)
            os.link(source, target)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP):
                raise
            raise FetchError(
                "filesystem",
                f"no hard link is possible between `{self.cache_dir}` and `{self.models_dir}`",
                "put both folders on one filesystem (one mount) that has hard links",
            ) from error
        finally:
            source.unlink(missing_ok=True)
            target.unlink(missing_ok=True)

    def check_free(self, need_bytes: int) -> int:
        """Free bytes. Raises `FetchError` when `need_bytes` and 5 % on top are more than that."""
        free_bytes = shutil.disk_usage(self.cache_dir).free
        if need_bytes and need_bytes * 1.05 > free_bytes:
            raise FetchError(
                "disk",
                f"{need_bytes / 1e9:.2f} GB and 5 % on top are to be downloaded, but `{self.cache_dir}` has only"
                f" {free_bytes / 1e9:.2f} GB free",
                f"free {(need_bytes * 1.05 - free_bytes) / 1e9:.2f} GB there, or enable fewer models",
            )
        return free_bytes

    @contextlib.contextmanager
    def in_flight(self, blobs: Iterable[tuple[str, str]]) -> Iterator[None]:
        """Writes down which (repo, etag) are being downloaded, until it is left without being killed.

        huggingface_hub never resumes a file of a killed process and never removes it: `clean_up()` of the next run
        does, and this list tells it which are ours.
        """
        write_atomically(self._journal, json.dumps(sorted(blobs)))
        yield
        self._journal.unlink()

    def clean_up(self) -> None:
        """Removes what a killed run left half downloaded, unless another program downloads that very file now."""
        try:
            blobs = json.loads(read_regular(self._journal, MAX_BYTES)[0])
        except (FileNotFoundError, UnusableFile, ValueError):
            return
        for repo, etag in blobs:
            folder = self._repo(repo)
            lock = self.cache_dir / ".locks" / folder.name / f"{etag}.lock"
            lock.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(Timeout), FileLock(lock, timeout=0, mode=0o664):
                for left in (folder / "blobs").glob(f"{glob.escape(etag)}.*.incomplete"):
                    left.unlink()
        self._journal.unlink()

    def _repo(self, repo: str) -> Path:
        return self.cache_dir / hub_cache.folder_name(repo)


def _beside(path: Path) -> Path:
    """A free name beside a file, for what was in its place."""
    now = datetime.now(timezone.utc)
    stem = f"{path.name}.replaced-{now:%Y%m%dT%H%M%SZ}"
    names = [stem, *(f"{stem}-{number}" for number in range(2, 100))]
    return next(free for name in names if not os.path.lexists(free := path.with_name(name)))
