"""Carries out the plan for model files: fetches, verifies or links each, as the request says; decides nothing.

    python -m hostside.models < request

The request is a `protocol.ModelsRequest`: the files that the plan named, each with its action. A file that has not the
action `fetch` is never downloaded, and the token, which is written nowhere, is sent for none that is not gated.
HF_ENDPOINT names another hub. Events (`protocol.ModelEvent`) on stdout. Exit: 0 every file is there and verified;
1 not; 2 the request is wrong.

All state is on disk and made to be interrupted: killed at any moment, planned and run again, it finishes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal, TypeVar

from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

from hostside.models import manifest
from hostside.models.hub_errors import FetchError, explain
from hostside.models.store import Store, digest
from hostside.models.watchdog import Meter, Watchdog
from hostside.protocol import (
    DownloadPlan,
    ManifestEntry,
    ModelEvent,
    ModelFailure,
    ModelFile,
    ModelReady,
    ModelsDone,
    ModelsRequest,
    MovedAside,
    Progress,
    Stalled,
)
from hostside.wire import MAX_BYTES, WireError, from_json, to_json

RETRY_AFTER_S = (2.0, 8.0)
_COMMIT = re.compile(r"[0-9a-f]{40}")

T = TypeVar("T")


class RequestError(Exception):
    """The request on stdin cannot be used; `str()` says why."""


@dataclass(frozen=True)
class Remote:
    """What the hub has of a model: `size` in bytes; `etag` names the cached blob."""

    commit: str
    etag: str
    size: int


def parse(text: str | bytes) -> ModelsRequest:
    """Raises `RequestError`."""
    try:
        request = from_json(ModelsRequest, text)
    except WireError as error:
        raise RequestError(f"the request cannot be read: {error}") from error
    for model in request.models:
        for field, path in (("dest", model.dest), ("file", model.file)):
            parts = PurePosixPath(path)
            if parts.is_absolute() or ".." in parts.parts or not parts.name:
                raise RequestError(f"`{field}` of `{model.name}` is not a path below its folder: `{path}`")
        if model.action == "fetch" and model.commit is not None:
            raise RequestError(f"`{model.name}` is to be fetched, and the commit is for the hub to say")
        if model.action != "fetch" and not _COMMIT.fullmatch(model.commit or ""):
            raise RequestError(f"`commit` of `{model.name}` is not 40 hex digits")
    return request


def report(event: ModelEvent) -> None:
    """One line of output; one write, because the watchdog's thread reports things too."""
    sys.stdout.write(to_json(event) + "\n")
    sys.stdout.flush()


class Run:
    """One run over one request."""

    def __init__(self, request: ModelsRequest) -> None:
        self._request = request
        self._store = Store(Path(request.cache_dir), Path(request.models_dir))
        self._manifest_path = Path(request.manifest)
        self._finished: set[str] = set()

    def run(self) -> bool:
        """True when every file is there. Raises `FetchError` for what stops the whole run."""
        self._store.prepare()
        with self._alone():
            self._manifest = manifest.load(self._manifest_path)
            self._store.clean_up()
            if not self._act():
                return False
        report(ModelsDone(models=len(self._request.models), downloaded_bytes=Meter.written))
        return True

    def _act(self) -> bool:
        """What costs no download comes first, and whether everything can be downloaded before the first byte is."""
        linked = self._each("link", self._link)
        verified = self._each("verify", self._verify)
        remotes = self._each("fetch", self._ask)
        if linked is None or verified is None or remotes is None:
            return False
        need = {
            (model.repo, remote.etag): remote.size
            for model, remote in remotes
            if not self._store.has_blob(model.repo, remote.etag)
        }
        if remotes:
            free_bytes = self._store.check_free(sum(need.values()))
            report(DownloadPlan(models=len(remotes), download_bytes=sum(need.values()), free_bytes=free_bytes))
        with self._store.in_flight(need) if need else contextlib.nullcontext():
            return all(self._fetched(model, remote) for model, remote in remotes)

    def _each(self, action: str, act: Callable[[ModelFile], T]) -> list[tuple[ModelFile, T]] | None:
        """`act` on every file of an action; None when one failed. All failures are reported at once, not one a run."""
        done, ok = [], True
        for model in self._request.models:
            if model.action != action:
                continue
            try:
                done.append((model, act(model)))
            except FetchError as error:
                ok = False
                complain(error, model.name)
        return done if ok else None

    def _link(self, model: ModelFile) -> None:
        """The cached file is as the manifest says, and was when it was hashed: only its link is missing."""
        entry = self._manifest.models.get(model.name)
        pointer = self._pointer(model)
        if entry is None or entry.path != str(pointer) or _stat(pointer) != (entry.size, entry.mtime_ns, entry.inode):
            raise _vanished(model)
        self._link_into_models(model, pointer)
        self._record(model, replace(entry, dest=model.dest), "linked")

    def _verify(self, model: ModelFile) -> None:
        """Reads the cached file's bytes again. Wrong ones are set aside, not fetched: that is for the next plan."""
        pointer = self._pointer(model)
        there = _stat(pointer)
        if there is None:
            raise _vanished(model)
        found = f"it has {there[0]} bytes, not {model.size}"
        if model.size in (None, there[0]):
            read, etag = digest(pointer), self._store.etag(pointer)
            if read.agrees(model.sha256, etag):
                self._keep(model, str(model.commit), read.sha256, "verified")
                return
            if read.sha256 == etag:
                # The bytes are the hub's; it is the pin that is another's. A typing error must not cost the download.
                raise _wrong_bytes(model, read.sha256)
            found = f"its sha256 is {read.sha256[:12]}..."
        was, moved_to = self._store.set_aside(pointer, model.dest)
        report(MovedAside(name=model.name, moved_from=str(was), moved_to=str(moved_to)))
        raise FetchError(
            "bytes",
            f"`{model.name}` changed since it was fetched: {found}; it is now {moved_to}",
            "run again: it is then fetched",
        )

    def _ask(self, model: ModelFile) -> Remote:
        url = hf_hub_url(model.repo, model.file, revision=model.revision)
        seen = self._try(model, lambda: get_hf_file_metadata(url, token=self._token(model) or False))
        if seen.commit_hash is None or seen.etag is None or seen.size is None:
            raise FetchError("network", f"what answers at {url} is not a hub", "check HF_ENDPOINT and the proxy")
        if model.sha256 and len(seen.etag) == len(model.sha256) and seen.etag != model.sha256:
            raise _wrong_bytes(model, seen.etag)
        return Remote(seen.commit_hash, seen.etag, seen.size)

    def _fetched(self, model: ModelFile, remote: Remote) -> bool:
        """False ends the run: what stops one download (network, disk) stops the next one too, after minutes."""
        try:
            self._fetch(model, remote)
        except FetchError as error:
            complain(error, model.name)
            return False
        return True

    def _fetch(self, model: ModelFile, remote: Remote) -> None:
        """Downloads, reads the bytes once, links. Wrong bytes are removed and fetched once more."""
        pointer = self._store.pointer(model.repo, remote.commit, model.file)
        for _ in range(2):
            self._download(model, remote)
            read = digest(pointer)
            if read.agrees(model.sha256, remote.etag):
                self._keep(model, remote.commit, read.sha256, "downloaded")
                return
            self._store.discard(pointer, model.dest)
        raise _wrong_bytes(model, read.sha256)

    def _download(self, model: ModelFile, remote: Remote) -> None:
        with Watchdog(
            self._request.stall_s,
            on_progress=lambda done: report(Progress(name=model.name, bytes=done, total_bytes=remote.size)),
            on_stall=lambda: self._start_over(model),
        ):
            self._try(
                model,
                lambda: hf_hub_download(
                    model.repo,
                    model.file,
                    revision=remote.commit,
                    cache_dir=self._request.cache_dir,
                    token=self._token(model) or False,
                    tqdm_class=Meter,
                ),
            )

    def _try(self, model: ModelFile, action: Callable[[], T]) -> T:
        """Runs `action`, again after a while when its failure may pass. Raises `FetchError` only."""
        for pause_s in (*RETRY_AFTER_S, None):
            try:
                return action()
            except Exception as error:
                known = explain(error, model.repo, model.revision, model.file, self._token(model) is not None)
                if not known.transient or pause_s is None:
                    raise known from error
                print(f"{known}; again in {pause_s:g} s", file=sys.stderr)
                time.sleep(pause_s)
        raise AssertionError("the last pause is None")

    def _start_over(self, model: ModelFile) -> None:
        """Replaces this process, whose download hangs in native code, by one that downloads over plain HTTP what is
        left to do."""
        stall_s = self._request.stall_s
        if "HF_HUB_DISABLE_XET" in os.environ:
            what = f"the download of `{model.name}` stood still for {stall_s:g} s, twice"
            complain(FetchError("network", what, "check the network of this host, then run again"), model.name)
            os._exit(1)
        report(Stalled(name=model.name, stall_s=stall_s))
        left = replace(self._request, models=[each for each in self._request.models if each.name not in self._finished])
        with os.fdopen(os.memfd_create("request"), "w") as request:
            request.write(to_json(left))
            request.flush()
            os.lseek(request.fileno(), 0, os.SEEK_SET)
            os.dup2(request.fileno(), 0)
        environ = {**os.environ, "HF_HUB_DISABLE_XET": "1"}
        os.execve(sys.executable, [sys.executable, "-I", "-B", "-m", "hostside.models"], environ)

    def _keep(self, model: ModelFile, commit: str, sha256: str, state: Literal["downloaded", "verified"]) -> None:
        """Links a verified file and writes it down, at once: a kill later costs no second hash."""
        pointer = self._store.pointer(model.repo, commit, model.file)
        self._link_into_models(model, pointer)
        stat = pointer.stat()
        entry = ManifestEntry(
            repo=model.repo,
            revision=model.revision,
            file=model.file,
            dest=model.dest,
            commit=commit,
            path=str(pointer),
            size=stat.st_size,
            mtime_ns=stat.st_mtime_ns,
            inode=stat.st_ino,
            sha256=sha256,
        )
        self._record(model, entry, state)

    def _link_into_models(self, model: ModelFile, pointer: Path) -> None:
        """What is in its place and not ours is moved aside."""
        before = self._manifest.models.get(model.name)
        moved_to = self._store.link(pointer, model.dest, before.inode if before else None)
        if moved_to is not None:
            was = Path(self._request.models_dir, model.dest)
            report(MovedAside(name=model.name, moved_from=str(was), moved_to=str(moved_to)))

    def _record(
        self, model: ModelFile, entry: ManifestEntry, state: Literal["downloaded", "verified", "linked"]
    ) -> None:
        self._manifest.models[model.name] = entry
        manifest.save(self._manifest_path, self._manifest)
        self._finished.add(model.name)
        report(ModelReady(model.name, state, entry.commit, entry.sha256, entry.size))

    def _token(self, model: ModelFile) -> str | None:
        """None without one, too: False, not None, keeps the hub's client from looking for one by itself."""
        return self._request.token if model.gated else None

    def _pointer(self, model: ModelFile) -> Path:
        return self._store.pointer(model.repo, str(model.commit), model.file)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One fetch at a time in one cache. The kernel frees the lock when its process dies."""
        with Path(self._request.cache_dir, ".gpuhost-fetch.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print("another fetch works in this cache: waiting for it", file=sys.stderr)
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _stat(path: Path) -> tuple[int, int, int] | None:
    """Size, mtime (ns) and inode of a file; None when there is none."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


def _vanished(model: ModelFile) -> FetchError:
    return FetchError(
        "missing",
        f"`{model.name}` is no longer in the cache as it was when the plan was made",
        "run again: the plan then says what is to be done",
    )


def _wrong_bytes(model: ModelFile, sha256: str) -> FetchError:
    wanted = f"{model.sha256[:12]}..." if model.sha256 else "what the hub announces"
    return FetchError(
        "bytes",
        f"`{model.repo}:{model.file}` at `{model.revision}` has sha256 {sha256[:12]}..., not {wanted}",
        "the file on the hub or what lies between has changed: compare with the publisher's own checksum,"
        " then correct `sha256` or `revision`",
    )


def complain(error: FetchError, name: str | None = None) -> None:
    """An error as data on stdout and for people on stderr."""
    report(ModelFailure(name=name, kind=error.kind, message=str(error), hint=error.hint))
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
        complain(explain(error, "", "", str(error.filename), has_token=False))
    return 1
