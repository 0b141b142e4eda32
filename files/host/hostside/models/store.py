"""The hub cache and the models folder as files: where things lie, their bytes, and the links between the two.

A model is a *hard link* in the models folder to its file in the hub cache. It costs nothing on one filesystem,
and it is a plain file wherever the models folder is mounted. A symbolic link, even a relative one, resolves only
in a container that mounts the cache too, in the same place relative to the models; vLLM and ComfyUI want it in
different places. The price: cache and models must share a filesystem, which is checked before the first byte.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from stat import S_IMODE
from typing import TypeVar

from hostside import hub_cache
from hostside.models.hub_errors import FetchError
from hostside.models.manifest import write_atomically
from hostside.protocol.models import ModelFile, ModelRef
from hostside.regular import UnusableFile, open_regular

CHUNK_BYTES = 2**20
FILE_MODE = 0o644  # of a model
MARGIN = 1.05  # of the bytes to download: what must be free
PARTIAL = ".gpuhost.incomplete"

T = TypeVar("T")


@dataclass(frozen=True)
class Stat:
    """What tells whether a file is still the same."""

    size: int
    mtime_ns: int
    inode: int


@dataclass(frozen=True)
class Digest:
    """`sha256` of a file, and its git blob id where that is what the bytes are compared with."""

    sha256: str
    git_sha1: str | None

    def agrees(self, file: ModelFile) -> bool:
        """Are these the right bytes? True as well when nobody knows a hash of them."""
        if file.sha256 is not None:
            return self.sha256 == file.sha256
        return file.git_sha1 is None or self.git_sha1 == file.git_sha1


class Hasher:
    """Hashes a file's bytes as they come."""

    def __init__(self, file: ModelFile) -> None:
        self._sha256 = hashlib.sha256()
        self._git_sha1 = None if file.sha256 else hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)

    def update(self, data: bytes | memoryview) -> None:
        """The next bytes."""
        self._sha256.update(data)
        if self._git_sha1:
            self._git_sha1.update(data)

    def digest(self) -> Digest:
        """Of all so far."""
        return Digest(self._sha256.hexdigest(), self._git_sha1.hexdigest() if self._git_sha1 else None)


def blob_name(file: ModelFile) -> str:
    """The name of its bytes in the cache: what the hub announces as their ETag."""
    return file.sha256 or file.git_sha1 or ""


def digest(path: Path, file: ModelFile, read: Callable[[int], None] = lambda count: None) -> Digest:
    """Reads a file once, not further than its size; `read` is told how much. Raises `FetchError` for no plain file."""
    hasher, left = Hasher(file), file.size
    try:
        with open_regular(path, follow=True) as opened:
            while chunk := opened.read(min(CHUNK_BYTES, left)):
                left -= len(chunk)
                hasher.update(chunk)
                read(len(chunk))
    except UnusableFile as error:
        raise FetchError("filesystem", f"`{path}` {error}", "move it away, then run again") from error
    return hasher.digest()


def stat(path: Path | str) -> Stat | None:
    """Of the file that is there, or that a link leads to; None when there is none."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return Stat(found.st_size, found.st_mtime_ns, found.st_ino)


class Store:
    """Both folders. Nothing is created before `prepare()`."""

    def __init__(self, cache_dir: Path, models_dir: Path) -> None:
        self.cache_dir = cache_dir
        self._cache_dir = str(cache_dir)
        self.models_dir = models_dir

    def names(self, file: ModelFile) -> tuple[str, str]:
        """Its blob's and its pointer's path: of many files, for whom a Path each takes as long as the file system."""
        return self._blob(file), self._pointer(file)

    def has_begun(self, repo: str, commit: str) -> bool:
        """May the cache have a file of this commit?"""
        snapshots = hub_cache.snapshots(self._cache_dir, repo)
        return any(map(os.path.lexists, (f"{os.path.dirname(snapshots)}/blobs", f"{snapshots}/{commit}")))

    def pointer(self, file: ModelFile) -> Path:
        """Where the hub cache shows a file of a commit."""
        return Path(self._pointer(file))

    def blob(self, file: ModelFile) -> Path:
        """Where its bytes lie; others may have put a link there, into another folder of the cache."""
        return Path(self._blob(file))

    def partial(self, file: ModelFile) -> Path:
        """Where its bytes are gathered: one name for one file, so that the next run finds what this one leaves."""
        return Path(self._blob(file) + PARTIAL)

    def show(self, file: ModelFile) -> None:
        """Lets the snapshot of the commit show the cached bytes, by the relative link that huggingface_hub makes."""
        blob, pointer = self.names(file)
        target = f"{_way(os.path.dirname(blob), os.path.dirname(pointer))}/{blob_name(file)}"
        try:
            with_folder(pointer, lambda: os.symlink(target, pointer))
        except FileExistsError:
            _point(Path(pointer), target)

    def is_own(self, pointer: Path) -> bool:
        """Is this file the account's that runs this? Another one could change it at any time."""
        return pointer.stat().st_uid == os.geteuid()

    def make_readable(self, pointer: Path | str) -> os.stat_result:
        """For every container, whatever its uid; writable for nobody else."""
        found = os.stat(pointer)
        if S_IMODE(found.st_mode) != FILE_MODE:
            os.chmod(pointer, FILE_MODE)
        return found

    def write_ref(self, ref: ModelRef) -> None:
        """The name of a branch, as huggingface_hub keeps it."""
        write_atomically(self._repo(ref.repo) / "refs" / ref.revision, ref.commit)

    def is_linked(self, pointer: Path, link: str) -> bool:
        """Is this file of the models folder the cached one?"""
        try:
            return os.path.samestat(pointer.stat(), (self.models_dir / link).lstat())
        except FileNotFoundError:
            return False

    def link(self, pointer: Path, link: str, own_inode: int | None) -> Path | None:
        """Makes `link` a hard link to the cached file. Returns where a foreign file in its place was moved to.

        `own_inode`: the file that we linked there earlier, which is replaced and not kept.
        """
        if self.is_linked(pointer, link):
            return None
        target = self.models_dir / link
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

    def set_aside(self, path: Path, links: Collection[str]) -> tuple[Path, Path]:
        """Takes a file with other bytes than it should have out of the cache (`path`: a snapshot's link, or the bytes
        themselves) and the models folder, and keeps it: whoever wrote them may want them. Returns where it was and
        where it is."""
        linked = [link for link in links if self.is_linked(path, link)]
        was = self.models_dir / linked[0] if linked else path.resolve()
        moved_to = _beside(was)
        was.rename(moved_to)
        for link in linked[1:]:
            (self.models_dir / link).unlink()
        chain = [path, path.resolve()]
        if path.is_symlink():
            chain.insert(1, path.parent / path.readlink())  # the blob, which may be a link itself
        for each in chain:
            each.unlink(missing_ok=True)
        return was, moved_to

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
        """Free bytes. Raises `FetchError` when `need_bytes` and the margin on top are more than that."""
        found = os.statvfs(self.cache_dir)
        free_bytes = found.f_bavail * found.f_frsize
        if need_bytes and need_bytes * MARGIN > free_bytes:
            raise FetchError(
                "disk",
                f"{need_bytes / 1e9:.2f} GB and 5 % on top are to be downloaded, but `{self.cache_dir}` has only"
                f" {free_bytes / 1e9:.2f} GB free",
                f"free {(need_bytes * MARGIN - free_bytes) / 1e9:.2f} GB there, or enable fewer models",
            )
        return free_bytes

    def remove_partials(self, but: Collection[Path]) -> list[Path]:
        """Removes what killed runs left of files that nobody wants any more; only one fetch works in a cache. Returns
        what is left of those `but` it."""
        found = list(self.cache_dir.glob(f"models--*/blobs/*{PARTIAL}"))
        for left in found:
            if left not in but and (left.is_symlink() or not left.is_dir()):
                left.unlink()
        return [left for left in found if left in but]

    def _blob(self, file: ModelFile) -> str:
        return f"{self._cache_dir}/{hub_cache.folder_name(file.repo)}/blobs/{blob_name(file)}"

    def _pointer(self, file: ModelFile) -> str:
        return hub_cache.snapshot(self._cache_dir, file.repo, file.commit, file.file)

    def _repo(self, repo: str) -> Path:
        return self.cache_dir / hub_cache.folder_name(repo)


_way = functools.lru_cache(maxsize=1024)(os.path.relpath)


def with_folder(path: Path | str, make: Callable[[], T]) -> T:
    """Makes what is to lie at `path`; where its folder is missing, that first."""
    try:
        return make()
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return make()


def _point(pointer: Path, target: str) -> None:
    """A link of that name may be there, and lead elsewhere."""
    if pointer.is_symlink() and str(pointer.readlink()) == target:
        return
    temporary = pointer.with_name(f".{pointer.name}.gpuhost-link")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(pointer)


def _beside(path: Path) -> Path:
    """A free name beside a file, for what was in its place."""
    now = datetime.now(timezone.utc)
    stem = f"{path.name}.replaced-{now:%Y%m%dT%H%M%SZ}"
    names = [stem, *(f"{stem}-{number}" for number in range(2, 100))]
    return next(free for name in names if not os.path.lexists(free := path.with_name(name)))
