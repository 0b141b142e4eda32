"""Carries out the plan for model files: fetches, verifies or links each, as the request says; decides nothing.

    python -m hostside.models < request

The request is a `ModelsRequest`: the files that the plan named, each with its commit, size, hash and action. A
file that has not the action `fetch` is never downloaded, and the token, which is written nowhere, is sent for none that
is not gated, and to no neighbour. HF_ENDPOINT names another hub. Events (`ModelEvent`) on stdout. Exit: 0
every file is there; 1 not; 2 the request is wrong.

All state is on disk and made to be interrupted: killed at any moment, planned and run again, it goes on. The bytes of a
file are gathered under a name that no service looks for, and get their own once they are right.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from hostside.cache_lock import alone
from hostside.models import manifest
from hostside.models.batch import Batch
from hostside.models.download import CONNECTIONS, Downloads, Stopped
from hostside.models.hub_errors import FetchError, explain_disk
from hostside.models.meter import Meter
from hostside.models.partial import Partial, kept_bytes, left_bytes
from hostside.models.store import CHUNK_BYTES, Digest, Stat, Store, blob_name, digest, stat
from hostside.protocol.models import (
    DownloadPlan,
    ManifestEntry,
    ModelEvent,
    ModelFailure,
    ModelFile,
    ModelReady,
    ModelsDone,
    ModelsRequest,
    MovedAside,
    manifest_key,
)
from hostside.regular import UnusableFile, open_regular
from hostside.wire import MAX_BYTES, WireError, from_json, to_json

AT_ONCE = 8  # downloads
SMALL_AT_ONCE = CONNECTIONS  # those of files up to `SMALL_BYTES`: what they take is the way to the hub and back
SMALL_BYTES = 2**20
MANY = 32  # small files, which are worth a client of their own
HASHED_AT_ONCE = min(4, os.cpu_count() or 1)
LARGE_BYTES = 64 * 2**20  # worth a manifest of its own
SAVE_EVERY_S = 2.0  # the manifest, while small files come
# What ends every download, and what ends those of its repository alone.
_ENDS_ALL = ("network", "disk", "filesystem")
_ENDS_REPO = ("gated", "token", "licence", "missing")

State = Literal["downloaded", "verified", "linked"]


class RequestError(Exception):
    """The request on stdin cannot be used; `str()` says why."""


# -- the request -------------------------------------------------------------------------------------------------------

_PATTERNS = {
    "repo": re.compile(r"[\w.-]+/[\w.-]+"),
    "commit": re.compile(r"[0-9a-f]{40}"),
    "sha256": re.compile(r"[0-9a-f]{64}"),
    "git_sha1": re.compile(r"[0-9a-f]{40}"),
}


def parse(text: str | bytes) -> ModelsRequest:
    """Raises `RequestError`."""
    try:
        request = from_json(ModelsRequest, text)
    except WireError as error:
        raise RequestError(f"the request cannot be read: {error}") from error
    for secret in (request.token, request.peer_secret):
        if secret and not re.fullmatch(r"[!-~]+", secret):
            raise RequestError("a token has characters that no HTTP header carries")
    for file in request.files:
        _check(file)
    for ref in request.refs:
        _check_form("repo", ref.repo)
        _check_form("commit", ref.commit)
        _check_path("revision", ref.revision)
    return request


def _check(file: ModelFile) -> None:
    _check_path("file", file.file)
    for link in file.links:
        _check_path("links", link)
    for field in _PATTERNS:
        if getattr(file, field) is not None:
            _check_form(field, getattr(file, field))
    if file.size < 0:
        raise RequestError(f"`size` of `{file.file}` is less than nothing")
    if file.action == "fetch" and not blob_name(file):
        raise RequestError(f"`{file.file}` is to be fetched, and nobody knows a hash of it")
    for peer in file.peers:
        if not re.fullmatch(r"https?://[^/@\s]+", peer):
            raise RequestError(f"`peers` of `{file.file}` names no address: `{peer}`")


def _check_form(field: str, value: str) -> None:
    if not _PATTERNS[field].fullmatch(value) or ".." in value.split("/"):
        raise RequestError(f"`{field}` has not its form: `{value}`")


def _check_path(field: str, path: str) -> None:
    if {"", ".", ".."} & set(path.split("/")):
        raise RequestError(f"`{field}` names no path below its folder: `{path}`")


# -- the run -----------------------------------------------------------------------------------------------------------

_speaking = threading.Lock()


def report(event: ModelEvent, at_once: bool = True) -> None:
    """One line of output, from any thread; with the next one, when it is not to be `at_once`."""
    with _speaking:
        sys.stdout.write(to_json(event) + "\n")
        if at_once:
            sys.stdout.flush()


class Run:
    """One run over one request."""

    def __init__(self, request: ModelsRequest) -> None:
        self._request = request
        self._store = Store(Path(request.cache_dir), Path(request.models_dir))
        self._ready = _Ready(Path(request.manifest), self._store)
        self._meter = Meter(report)
        self._downloads = Downloads(request.token, request.stall_s, self._meter, report, request.peer_secret)
        self._failed: set[str] = set()  # repositories

    def run(self) -> bool:
        """True when every file is there. Raises `FetchError` for what stops the whole run, and OSError."""
        self._store.prepare()
        with alone(self._store.cache_dir), self._ready, self._meter:
            needed = self._act()
            if needed is None:
                return False
            for ref in self._request.refs:
                self._store.write_ref(ref)
        downloads = self._downloads
        report(ModelsDone(len(self._request.files), downloads.downloaded_bytes, needed, downloads.peer_bytes))
        return True

    def _act(self) -> int | None:
        """The bytes that were missing; None when something failed. What costs no download comes first."""
        linked = self._each("link", self._link, at_once=1)
        verified = self._each("verify", self._verify, HASHED_AT_ONCE)
        present = self._each("fetch", self._present, HASHED_AT_ONCE)
        if not (linked and verified and present):
            return None
        missing = _by_blob(each for each in self._of("fetch") if not self._ready.has(each))
        needed = sum(files[0].size for files in missing)
        partials = {self._store.partial(files[0]): files[0].size for files in missing}
        begun = self._store.remove_partials(but=partials)
        if missing:
            free_bytes = self._store.check_free(needed - sum(map(left_bytes, begun)))
            rest = needed - sum(kept_bytes(path, partials[path]) for path in begun)
            report(DownloadPlan(sum(map(len, missing)), rest, free_bytes))
        self._meter.expect(needed)
        small = [files for files in missing if files[0].size <= SMALL_BYTES]
        large = [files for files in missing if files[0].size > SMALL_BYTES]
        large.sort(key=lambda files: -files[0].size)
        small = self._many(small, begun)
        fetched = [self._all(small, self._fetch, SMALL_AT_ONCE), self._all(large, self._fetch, AT_ONCE)]
        return needed if all(fetched) else None

    def _of(self, action: str) -> list[ModelFile]:
        return [file for file in self._request.files if file.action == action]

    def _each(self, action: str, act: Callable[[ModelFile], None], at_once: int) -> bool:
        files = self._of(action)
        if action == "verify":
            self._meter.expect(sum(file.size for file in files))
        if action == "fetch":  # most are not there: that is seen without a thread
            begun = {each for each in {(file.repo, file.commit) for file in files} if self._store.has_begun(*each)}
            files = [file for file in files if (file.repo, file.commit) in begun and self._is_there(file)]
        return self._all([[file] for file in files], lambda group: act(group[0]), at_once)

    def _all(self, groups: list[list[ModelFile]], act: Callable[[list[ModelFile]], None], at_once: int) -> bool:
        """`act` on each, some at once; False when one failed. All failures are told at once, not one a run."""
        if not groups:
            return True
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(at_once) as pool:
            return all(list(pool.map(lambda group: self._tried(group, act), groups)))

    def _tried(self, group: list[ModelFile], act: Callable[[list[ModelFile]], None]) -> bool:
        file = group[0]
        if self._downloads.stop.is_set() or file.repo in self._failed:
            return False
        try:
            act(group)
        except Stopped:
            return False
        except (FetchError, OSError) as raised:
            error = raised if isinstance(raised, FetchError) else explain_disk(raised, file.file)
            known = file.repo in self._failed  # by another file, meanwhile
            if error.kind in _ENDS_ALL:
                known |= self._downloads.stop.is_set()
                self._downloads.stop.set()
            elif error.kind in _ENDS_REPO and file.action == "fetch":
                self._failed.add(file.repo)
            if not known:
                complain(error, file)
            return False
        return True

    def _is_there(self, file: ModelFile) -> bool:
        """Has the cache something under a name of the file?"""
        try:
            return any(map(stat, self._store.names(file)))
        except OSError:
            return True  # what it is will be told

    def _link(self, file: ModelFile) -> None:
        """The cached file is as the manifest says, and was when it was hashed: only its links are missing."""
        entry = self._ready.as_recorded(file)
        if entry is None:
            raise _vanished(file)
        self._ready.link(file, entry)

    def _verify(self, file: ModelFile) -> None:
        """Reads the cached file's bytes again. Wrong ones are set aside, not fetched: that is for the next plan."""
        pointer = self._store.pointer(file)
        there = stat(pointer)
        if there is None:
            raise _vanished(file)
        found = f"it has {there.size} bytes, not {file.size}"
        if there.size == file.size:
            read = self._read(pointer, file) if self._store.is_own(pointer) else self._copy(pointer, file)
            if read.agrees(file):
                self._ready.keep(file, read, "verified")
                return
            if _named_by_its_bytes(pointer, read):
                # The bytes are the hub's; it is the pin that is another's. A typing error must not cost the download.
                raise _another_pin(file, read)
            found = f"its sha256 is {read.sha256[:12]}..."
        moved_to = self._set_aside(file, pointer)
        raise FetchError(
            "bytes",
            f"`{file.model}`: `{file.file}` changed since it was fetched: {found}; it is now {moved_to}",
            "run again: it is then fetched",
        )

    def _present(self, file: ModelFile) -> None:
        """What is to be fetched may be there: from a run that was killed, or another program's doing."""
        entry = self._ready.as_recorded(file)
        if entry and Digest(entry.sha256, entry.git_sha1).agrees(file):
            self._ready.link(file, entry)
            return
        for path in (self._store.blob(file), self._store.pointer(file)):
            there = stat(path)
            if there is None:
                continue
            if there.size == file.size:
                self._meter.expect(file.size)
                read = self._read(path, file) if self._store.is_own(path) else self._copy(path, file)
                if read.agrees(file):
                    if path == self._store.blob(file):
                        self._store.show(file)
                    self._ready.keep(file, read, "verified")
                    return
                if _named_by_its_bytes(path, read):  # it is what the hub had; its ETag tells before the first byte
                    continue
            self._set_aside(file, path)

    def _fetch(self, files: list[ModelFile]) -> None:
        """Files with the same bytes: downloaded once, shown under each name."""
        partial = self._store.partial(files[0])
        read = self._downloads.download(files[0], partial)
        partial.replace(self._store.blob(files[0]))
        self._landed(files, read)

    def _landed(self, files: Sequence[ModelFile], read: Digest) -> None:
        """Their blob is there, and right."""
        for file in files:
            self._store.show(file)
            self._ready.keep(file, read, "downloaded")

    def _many(self, groups: list[list[ModelFile]], begun: Collection[Path]) -> list[list[ModelFile]]:
        """Fetches many files together, as far as all goes well; returns those that are left."""
        asked = [files for files in groups if files[0].size and not files[0].peers]
        if begun:
            asked = [files for files in asked if self._store.partial(files[0]) not in begun]
        if len(asked) < MANY:
            return groups
        try:
            from hostside.models import many
        except ImportError:  # libcurl is a help, no need
            return groups
        if not many.is_possible():
            return groups
        known = {_bytes_of(files[0]): files for files in asked}
        landed: set[tuple[str, str]] = set()

        def land(files: Sequence[ModelFile], read: Digest) -> None:
            self._landed(files, read)
            self._meter.count(files[0].size)
            landed.add(_bytes_of(files[0]))

        # What the disk says is told of the file itself, which is tried again.
        with contextlib.suppress(OSError), Batch(self._store, land) as batch:
            coming = many.contents([files[0] for files in asked], self._downloads, batch.work)
            with contextlib.closing(coming):
                for file, content, read in coming:
                    batch.add(known[_bytes_of(file)], content, read)
        return [files for files in groups if _bytes_of(files[0]) not in landed]

    def _copy(self, path: Path, file: ModelFile) -> Digest:
        """Reads another account's file, which it could change at any time, into one of our own in its place."""
        self._store.check_free(file.size)
        gathered = self._store.partial(file)
        moved = self._meter.open(file)
        try:
            with open_regular(path, follow=True) as opened, Partial(gathered, file, moved) as partial:
                partial.start_over()
                while chunk := opened.read(min(CHUNK_BYTES, file.size - partial.size)):
                    partial.write(chunk)
                read = partial.finish()
        except UnusableFile as error:
            raise FetchError("filesystem", f"`{path}` {error}", "move it away, then run again") from error
        finally:
            self._meter.close(file)
        if read.agrees(file):
            gathered.replace(self._store.blob(file))
            self._store.show(file)
        else:
            gathered.unlink()
        return read

    def _read(self, path: Path, file: ModelFile) -> Digest:
        moved = self._meter.open(file)
        try:
            return digest(path, file, moved)
        finally:
            self._meter.close(file)

    def _set_aside(self, file: ModelFile, path: Path) -> Path:
        was, moved_to = self._store.set_aside(path, file.links)
        report(MovedAside(file.model, str(was), str(moved_to)))
        return moved_to


class _Ready:
    """The files that are there: their links, and what the manifest says of them. While it is entered, it is written."""

    def __init__(self, path: Path, store: Store) -> None:
        self._path = path
        self._store = store
        self._lock = threading.RLock()
        self._done: set[str] = set()
        self._unsaved = False
        self._saved_s = 0.0

    def __enter__(self) -> None:
        self._manifest = manifest.load(self._path)

    def __exit__(self, *_: object) -> None:
        if self._unsaved:
            self._save()

    def has(self, file: ModelFile) -> bool:
        """Has this run found or made it?"""
        return _key(file) in self._done

    def as_recorded(self, file: ModelFile) -> ManifestEntry | None:
        """The file's entry, while the cache shows the file as it was when it was hashed."""
        entry = self._manifest.files.get(_key(file))
        if entry is None or entry.path != (pointer := self._store.names(file)[1]):
            return None
        return entry if stat(pointer) == Stat(entry.size, entry.mtime_ns, entry.inode) else None

    def keep(self, file: ModelFile, read: Digest, state: State) -> None:
        """Links a file whose bytes were read, and writes it down: a kill later costs no second hash."""
        _, pointer = self._store.names(file)
        there = self._store.make_readable(pointer)
        entry = ManifestEntry(
            model=file.model,
            repo=file.repo,
            commit=file.commit,
            file=file.file,
            path=pointer,
            size=there.st_size,
            mtime_ns=there.st_mtime_ns,
            inode=there.st_ino,
            sha256=read.sha256,
            git_sha1=read.git_sha1,
            links=file.links,
            verified_ns=time.time_ns(),
            checked_against=file.known_from if blob_name(file) else "none",
        )
        self._record(file, entry, state)

    def link(self, file: ModelFile, entry: ManifestEntry) -> None:
        """Links a file that is as it was when it was hashed."""
        self._store.make_readable(entry.path)
        self._record(file, replace(entry, links=file.links), "linked")

    def _record(self, file: ModelFile, entry: ManifestEntry, state: State) -> None:
        """Its links are made; what is in their place and not ours is moved aside."""
        with self._lock:
            before = self._manifest.files.get(_key(file))
            for link in file.links:
                entry = self._linked(file, entry, link)
            self._manifest.files[_key(file)] = entry
            self._done.add(_key(file))
            self._unsaved = self._unsaved or entry != before
            if entry.size >= LARGE_BYTES or time.monotonic() - self._saved_s > SAVE_EVERY_S:
                self._save()
        ready = ModelReady(file.model, file.file, state, file.commit, entry.sha256, entry.size, entry.checked_against)
        report(ready, at_once=entry.size > SMALL_BYTES)  # of small ones many come; at the latest `Meter` speaks

    def _linked(self, file: ModelFile, entry: ManifestEntry, link: str) -> ManifestEntry:
        pointer = self._store.pointer(file)
        moved_to = self._store.link(pointer, link, self._ours(link))
        if moved_to is not None:
            report(MovedAside(file.model, str(self._store.models_dir / link), str(moved_to)))
        # On overlayfs a file of a lower layer is copied up before it is linked: the same file under another inode.
        there = stat(pointer)
        if there and (there.size, there.mtime_ns) == (entry.size, entry.mtime_ns):
            entry = replace(entry, inode=there.inode)
        return entry

    def _ours(self, link: str) -> int | None:
        """The file that we linked there earlier, of whatever commit."""
        return next((entry.inode for entry in self._manifest.files.values() if link in entry.links), None)

    def _save(self) -> None:
        manifest.save(self._path, self._manifest)
        self._unsaved, self._saved_s = False, time.monotonic()


def _key(file: ModelFile) -> str:
    return manifest_key(file.repo, file.commit, file.file)


def _bytes_of(file: ModelFile) -> tuple[str, str]:
    """What files with the same bytes have in common: a cache keeps them once for each repository."""
    return file.repo, blob_name(file)


def _by_blob(files: Iterable[ModelFile]) -> list[list[ModelFile]]:
    """Files that share their bytes, together."""
    groups: dict[tuple[str, str], list[ModelFile]] = {}
    for file in files:
        groups.setdefault(_bytes_of(file), []).append(file)
    return list(groups.values())


def _named_by_its_bytes(pointer: Path, read: Digest) -> bool:
    """Does the cache name these bytes by their own hash? Then they are right, for something else."""
    return pointer.is_symlink() and pointer.readlink().name in (read.sha256, read.git_sha1)


def _vanished(file: ModelFile) -> FetchError:
    return FetchError(
        "missing",
        f"`{file.model}`: `{file.file}` is no longer in the cache as it was when the plan was made",
        "run again: the plan then says what is to be done",
    )


def _another_pin(file: ModelFile, read: Digest) -> FetchError:
    return FetchError(
        "bytes",
        f"`{file.repo}:{file.file}` at {file.commit[:12]} has sha256 {read.sha256[:12]}...,"
        f" not {(file.sha256 or blob_name(file))[:12]}...",
        "compare with the publisher's own checksum, then correct `sha256` or `revision`",
    )


def complain(error: FetchError, file: ModelFile | None = None) -> None:
    """An error as data on stdout and for people on stderr."""
    model, path = (file.model, file.file) if file else (None, None)
    report(ModelFailure(model, path, error.kind, str(error), error.hint, error.attempt))
    print(f"error: {error}\nhint: {error.hint}", file=sys.stderr)


def main() -> int:
    # Containers with another uid read these files; root on a hardened host has 077.
    os.umask(0o022)
    try:
        request = parse(sys.stdin.buffer.read(MAX_BYTES + 1))
        return 0 if Run(request).run() else 1
    except RequestError as error:
        print(f"error: {error}\nhint: `gpuhost apply` ships the programs that fit this gpuhost", file=sys.stderr)
        return 2
    except FetchError as error:
        complain(error)
    except OSError as error:
        complain(explain_disk(error))
    return 1
