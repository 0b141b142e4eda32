"""Fetches model files from the Hugging Face hub into the shared cache and links them into the models folder.

    fetch_models.py < document.json

    {"models": [{"name", "repo", "revision", "file", "dest", "sha256": null | hex}],
     "cache_dir", "models_dir", "manifest", "stall_s": 120}

`dest` is the file's name relative to `models_dir`; `cache_dir` is the hub cache itself (`.../huggingface/hub`).
The token comes from the file that HF_TOKEN_PATH names, else from $CREDENTIALS_DIRECTORY/hf_token, else there is
none. HF_ENDPOINT names another hub. JSON lines on stdout, each with `event`: model, plan, progress, moved_aside,
stalled, error, done. Exit: 0 every model is there and verified; 1 not; 2 the document is wrong.

All state is on disk and made to be interrupted: killed at any moment and run again, it finishes. A run that finds
everything in place only reads stats: no request, no write.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import manifest
from hub_errors import FetchError, explain
from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
from store import Store, digest
from watchdog import Meter, Watchdog

_COMMIT = re.compile(r"[0-9a-f]{40}")
RETRY_AFTER_S = (2.0, 8.0)
STALL_S = 120.0

T = TypeVar("T")


class DocumentError(Exception):
    """The document on stdin cannot be used; `str()` says why."""


@dataclass(frozen=True)
class Model:
    """One wanted model, as the document names it."""

    name: str
    repo: str
    revision: str
    file: str
    dest: str
    sha256: str | None


@dataclass(frozen=True)
class Remote:
    """What the hub has of a model: `size` in bytes; `etag` names the cached blob."""

    commit: str
    etag: str
    size: int


@dataclass(frozen=True)
class Wish:
    """The whole document."""

    models: list[Model]
    cache_dir: Path
    models_dir: Path
    manifest: Path
    stall_s: float


def parse(text: str) -> Wish:
    """Raises `DocumentError`."""
    try:
        document = json.loads(text)
        wish = Wish(
            models=[Model(**entry) for entry in document["models"]],
            cache_dir=Path(document["cache_dir"]),
            models_dir=Path(document["models_dir"]),
            manifest=Path(document["manifest"]),
            stall_s=float(document.get("stall_s", STALL_S)),
        )
    except KeyError as error:
        raise DocumentError(f"the document has no field {error}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise DocumentError(f"the document is not of the known form: {error}") from error
    for model in wish.models:
        dest = PurePosixPath(model.dest)
        if dest.is_absolute() or ".." in dest.parts or not dest.name:
            raise DocumentError(f"`dest` of `{model.name}` is not a path below the models folder: `{model.dest}`")
    return wish


def read_token(environ: Mapping[str, str]) -> str | None:
    """The token's value, never from the command line. Raises `FetchError` when its file cannot be read."""
    if "HF_TOKEN_PATH" in environ:
        path = Path(environ["HF_TOKEN_PATH"])
    elif "CREDENTIALS_DIRECTORY" in environ:
        path = Path(environ["CREDENTIALS_DIRECTORY"], "hf_token")
        if not path.exists():
            return None
    else:
        return None
    try:
        return path.read_text().strip() or None
    except OSError as error:
        raise FetchError(
            "token",
            f"the token's file `{path}` cannot be read: {error.strerror}",
            "check the path in `HF_TOKEN_PATH`, or unset it when no model is gated",
        ) from error


def say(event: str, **fields: Any) -> None:
    """One line of output; one write, because the watchdog's thread says things too."""
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


class Fetch:
    """One run over one document."""

    def __init__(self, wish: Wish, document: str, token: str | None) -> None:
        self._wish = wish
        self._document = document
        self._token = token
        self._store = Store(wish.cache_dir, wish.models_dir)
        self._entries = manifest.load(wish.manifest)

    def run(self) -> bool:
        """True when every model is there. Raises `FetchError` for what stops the whole run."""
        if self._store.has_leftovers() or not all(map(self._is_present, self._wish.models)):
            self._store.prepare()
            with self._alone():
                # Another run may have worked while this one waited for it.
                self._entries = manifest.load(self._wish.manifest)
                self._store.clean_up()
                if not self._change():
                    return False
        else:
            for model in self._wish.models:
                self._done(model, "present")
        say("done", models=len(self._wish.models), downloaded_bytes=Meter.written)
        return True

    def _change(self) -> bool:
        settled = self._each(self._wish.models, self._settle)
        if settled is None:
            return False
        remotes = self._each([model for model, is_there in settled if not is_there], self._ask)
        if remotes is None:
            return False
        need = {
            (model.repo, remote.etag): remote.size
            for model, remote in remotes
            if not self._store.has_blob(model.repo, remote.etag)
        }
        if remotes:
            free_bytes = self._store.check_free(sum(need.values()))
            say("plan", models=len(remotes), download_bytes=sum(need.values()), free_bytes=free_bytes)
        with self._store.in_flight(need) if need else contextlib.nullcontext():
            return all(self._fetched(model, remote) for model, remote in remotes)

    def _fetched(self, model: Model, remote: Remote) -> bool:
        """False ends the run: what stops one download (network, disk) stops the next one too, after minutes."""
        try:
            self._fetch(model, remote)
        except FetchError as error:
            complain(error, model.name)
            return False
        return True

    def _each(self, models: list[Model], action: Callable[[Model], T]) -> list[tuple[Model, T]] | None:
        """`action` of every model; None when one failed. All failures are told at once, not one a run."""
        done, ok = [], True
        for model in models:
            try:
                done.append((model, action(model)))
            except FetchError as error:
                ok = False
                complain(error, model.name)
        return done if ok else None

    def _is_present(self, model: Model) -> bool:
        """Everything as the manifest says: only stats are read."""
        entry = self._entries.get(model.name)
        if entry is None or not _is_of(entry, model) or model.sha256 not in (None, entry.sha256):
            return False
        pointer = self._store.pointer(model.repo, entry.commit, model.file)
        return entry.path == str(pointer) and entry.is_unchanged() and self._store.is_linked(pointer, model.dest)

    def _settle(self, model: Model) -> bool:
        """Makes the model present out of what the cache holds, without a request. False = it must be fetched."""
        if self._is_present(model):
            self._done(model, "present")
            return True
        entry = self._entries.get(model.name)
        if entry is not None and not _is_of(entry, model):
            entry = None
        commit = entry.commit if entry else model.revision
        if not _COMMIT.fullmatch(commit):
            return False
        pointer = self._store.pointer(model.repo, commit, model.file)
        if not pointer.exists():
            return False
        if entry and entry.path == str(pointer) and entry.is_unchanged() and model.sha256 in (None, entry.sha256):
            self._keep(model, commit, entry.sha256, "relinked")
            return True
        read, etag = digest(pointer), self._store.etag(pointer)
        if read.agrees(model.sha256 or (entry.sha256 if entry else None), etag):
            self._keep(model, commit, read.sha256, "verified")
            return True
        if read.sha256 == etag:
            # The bytes are the hub's; it is the pin that is another's. A typing error must not cost the download.
            raise _wrong_bytes(model, read.sha256)
        self._store.discard(pointer, model.dest)
        return False

    def _ask(self, model: Model) -> Remote:
        url = hf_hub_url(model.repo, model.file, revision=model.revision)
        seen = self._try(model, lambda: get_hf_file_metadata(url, token=self._token or False))
        if seen.commit_hash is None or seen.etag is None or seen.size is None:
            raise FetchError("network", f"what answers at {url} is not a hub", "check HF_ENDPOINT and the proxy")
        if model.sha256 and len(seen.etag) == len(model.sha256) and seen.etag != model.sha256:
            raise _wrong_bytes(model, seen.etag)
        return Remote(seen.commit_hash, seen.etag, seen.size)

    def _fetch(self, model: Model, remote: Remote) -> None:
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

    def _download(self, model: Model, remote: Remote) -> None:
        with Watchdog(
            self._wish.stall_s,
            on_progress=lambda done: say("progress", name=model.name, bytes=done, total_bytes=remote.size),
            on_stall=lambda: self._start_over(model),
        ):
            self._try(
                model,
                lambda: hf_hub_download(
                    model.repo,
                    model.file,
                    revision=remote.commit,
                    cache_dir=self._wish.cache_dir,
                    token=self._token or False,
                    tqdm_class=Meter,
                ),
            )

    def _try(self, model: Model, action: Callable[[], T]) -> T:
        """Runs `action`, again after a while when its failure may pass. Raises `FetchError` only."""
        for pause_s in (*RETRY_AFTER_S, None):
            try:
                return action()
            except Exception as error:
                known = explain(error, model.repo, model.revision, model.file, self._token is not None)
                if not known.transient or pause_s is None:
                    raise known from error
                print(f"{known}; again in {pause_s:g} s", file=sys.stderr)
                time.sleep(pause_s)
        raise AssertionError("the last pause is None")

    def _start_over(self, model: Model) -> None:
        """Replaces this process, whose download hangs in native code, by one that downloads over plain HTTP."""
        if "HF_HUB_DISABLE_XET" in os.environ:
            complain(
                FetchError(
                    "network",
                    f"the download of `{model.name}` stood still for {self._wish.stall_s:g} s, twice",
                    "check the network of this host, then run again",
                ),
                model.name,
            )
            os._exit(1)
        say("stalled", name=model.name, stall_s=self._wish.stall_s)
        with os.fdopen(os.memfd_create("document"), "w") as document:
            document.write(self._document)
            document.flush()
            os.lseek(document.fileno(), 0, os.SEEK_SET)
            os.dup2(document.fileno(), 0)
        environ = {**os.environ, "HF_HUB_DISABLE_XET": "1"}
        os.execve(sys.executable, [sys.executable, __file__], environ)

    def _keep(self, model: Model, commit: str, sha256: str, state: str) -> None:
        """Links a verified file and writes it down, at once: a kill later costs no second hash."""
        pointer = self._store.pointer(model.repo, commit, model.file)
        before = self._entries.get(model.name)
        moved_to = self._store.link(pointer, model.dest, before.inode if before else None)
        if moved_to is not None:
            say("moved_aside", name=model.name, dest=model.dest, moved_to=str(moved_to))
        stat = pointer.stat()
        self._entries[model.name] = manifest.Entry(
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
        manifest.save(self._wish.manifest, self._entries)
        self._done(model, state)

    def _done(self, model: Model, state: str) -> None:
        entry = self._entries[model.name]
        say("model", name=model.name, state=state, commit=entry.commit, sha256=entry.sha256, bytes=entry.size)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One fetch at a time in one cache. The kernel frees the lock when its process dies."""
        with (self._wish.cache_dir / ".gpuhost-fetch.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print("another fetch works in this cache: waiting for it", file=sys.stderr)
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _is_of(entry: manifest.Entry, model: Model) -> bool:
    spec = (model.repo, model.revision, model.file, model.dest)
    return (entry.repo, entry.revision, entry.file, entry.dest) == spec


def _wrong_bytes(model: Model, sha256: str) -> FetchError:
    wanted = f"{model.sha256[:12]}..." if model.sha256 else "what the hub announces"
    return FetchError(
        "bytes",
        f"`{model.repo}:{model.file}` at `{model.revision}` has sha256 {sha256[:12]}..., not {wanted}",
        "the file on the hub or what lies between has changed: compare with the publisher's own checksum,"
        " then correct `sha256` or `revision`",
    )


def complain(error: FetchError, name: str | None = None) -> None:
    """An error as data on stdout and as talk on stderr."""
    say("error", name=name, kind=error.kind, message=str(error), hint=error.hint)
    print(f"error: {error}\nhint: {error.hint}", file=sys.stderr)


def main() -> int:
    # Containers with another uid read these files; root on a hardened host has 077.
    os.umask(0o022)
    document = sys.stdin.read()
    try:
        wish = parse(document)
        return 0 if Fetch(wish, document, read_token(os.environ)).run() else 1
    except DocumentError as error:
        print(f"error: {error}\nhint: see the head of fetch_models.py for its form", file=sys.stderr)
        return 2
    except FetchError as error:
        complain(error)
    except OSError as error:
        complain(explain(error, "", "", str(error.filename), has_token=False))
    return 1


if __name__ == "__main__":
    sys.exit(main())
