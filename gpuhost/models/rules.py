"""What is to be done with each model, and why. Pure: stats are compared with the manifest, nothing is read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from gpuhost.catalog.lock import LockedFile, LockedModel
from gpuhost.catalog.types import Model
from gpuhost.errors import Problem, suggest
from gpuhost.models.facts import FileStat, ModelsReading
from gpuhost.models.patterns import chosen
from gpuhost.plan.change import Change, Difference, Impact, Resource
from gpuhost.plan.sizes import size
from hostside import hub_cache
from hostside.protocol.models import ManifestEntry, ModelAction, ModelFile, ModelRef, manifest_key

COMMIT = re.compile(r"[0-9a-f]{40}")
FILE_MODE = 0o644  # containers of other uids read it, and nobody else writes it
Source = Literal["lock", "host", "hub"]


@dataclass(frozen=True)
class Wanted:
    """A model as it should be on a host: `commit`, `files` (path -> what it is), and who said so: `lock` a lock.json;
    `host` the host, which noted it when it was resolved first; `hub` the hub, now."""

    name: str
    model: Model
    commit: str
    files: Mapping[str, LockedFile]
    source: Source

    @property
    def bytes(self) -> int:
        """All of its files."""
        return sum(file.size for file in self.files.values())


@dataclass(frozen=True)
class PlannedFile:
    """One file with its action, and why. `fetch_bytes`: what of it comes over the network; `giver`: the host that gives
    it, "" for the hub."""

    file: ModelFile
    reason: str
    fetch_bytes: int = 0
    giver: str = ""

    def in_short(self) -> str:
        """What a plan says of it."""
        source = f" from {self.giver}" if self.giver else ""
        return f"{self.file.action}, {size(self.file.size)}{source}"


@dataclass(frozen=True)
class PlannedModel:
    """A model with which something is to be done. `ref`: the name that its revision is to have in the cache."""

    name: str
    files: Sequence[PlannedFile]
    ref: ModelRef | None

    @property
    def fetch_bytes(self) -> int:
        """Of its files that are not there."""
        return sum(each.fetch_bytes for each in self.files)

    @property
    def given_bytes(self) -> dict[str, int]:
        """The hosts that give some of its files -> how many bytes."""
        given: Counter[str] = Counter()
        for each in self.files:
            if each.giver:
                given[each.giver] += each.fetch_bytes
        return dict(given)

    @property
    def action(self) -> ModelAction:
        """What is done with it, by the most costly."""
        actions = {each.file.action for each in self.files}
        return "fetch" if "fetch" in actions else "verify" if "verify" in actions else "link"

    def change(self) -> Change:
        """As a plan shows it: the files one by one, with their sizes."""
        diff = tuple(Difference(each.file.file, None, each.in_short()) for each in self.files)
        impact = Impact(download_bytes=self.fetch_bytes, neighbour_bytes=self.given_bytes)
        return Change("models", Resource("model", self.name), self.action, self._reason(), diff, impact=impact)

    def _reason(self) -> str:
        if not self.files:
            assert self.ref
            return f"the cache does not know `{self.ref.revision}` as commit {self.ref.commit[:12]}"
        given = [f"{size(count)} from {host}" for host, count in self.given_bytes.items()]
        return "; ".join([*self._causes(), *given])

    def _causes(self) -> list[str]:
        if len(self.files) == 1:
            return [self.files[0].reason]
        counted = Counter(each.reason for each in self.files)
        return [f"{reason} ({count} file{'s' if count != 1 else ''})" for reason, count in counted.most_common(3)]


def wanted(name: str, model: Model, found: LockedModel, source: Source) -> Wanted | Problem:
    """The model with its files at a commit, or why the data and what was found do not fit."""
    paths = chosen(found.files, model.allow, model.ignore)
    where = f"`models.{name}`"
    if not paths:
        what = f"{where}: no file of `{model.repo}` at `{model.revision}` matches `allow` and `ignore`"
        return Problem(what, _again(source, "correct the patterns"))
    for path in (*model.links, *model.sha256):
        if path not in paths:
            what = f"{where} names `{path}`, which `{model.repo}` has not at `{model.revision}`"
            return Problem(what, _again(source, suggest(path, paths, "file")))
    for path, sha256 in model.sha256.items():
        if found.files[path].sha256 != sha256:
            said = (found.files[path].sha256 or "no sha256")[:12]
            what = f"{where}: `{path}` has sha256 {said}... at `{model.revision}`, not {sha256[:12]}..."
            hint = (
                "the publisher changed it, or the data are wrong: compare with his own checksum, then correct `sha256`"
            )
            return Problem(what, f"{hint} or `revision`")
    return Wanted(name, model, found.commit, {path: found.files[path] for path in paths}, source)


def _again(source: Source, hint: str) -> str:
    return f"{hint}; where the data changed, `gpuhost lock` resolves it anew" if source == "lock" else hint


def reconcile(
    models: Sequence[Wanted], reading: ModelsReading, models_dir: str, cache_dir: str, owner: int
) -> list[PlannedModel]:
    """The models with which something is to be done, in the order of `models`. `owner`: the uid whose they are."""
    found = [_planned(each, reading, models_dir, cache_dir, owner) for each in models]
    return [each for each in found if each.files or each.ref]


def _planned(wanted: Wanted, reading: ModelsReading, models_dir: str, cache_dir: str, owner: int) -> PlannedModel:
    model, files = wanted.model, []
    for path, known in wanted.files.items():
        links = [model.links[path]] if path in model.links else []
        found = _to_do(wanted, path, known, links, reading, models_dir, cache_dir, owner)
        if found:
            comes = found[0] == "fetch" and not _has_blob(model.repo, known, reading, cache_dir)
            files.append(PlannedFile(_file(wanted, path, known, found[0]), found[1], known.size if comes else 0))
    return PlannedModel(wanted.name, files, _ref(wanted, reading, cache_dir))


def _file(wanted: Wanted, path: str, known: LockedFile, action: ModelAction) -> ModelFile:
    model = wanted.model
    return ModelFile(
        model=wanted.name,
        repo=model.repo,
        commit=wanted.commit,
        file=path,
        size=known.size,
        sha256=known.sha256,
        git_sha1=known.git_sha1,
        links=[model.links[path]] if path in model.links else [],
        action=action,
        gated=model.gated,
        known_from="lock" if wanted.source == "lock" else "hub",
    )


def _to_do(
    wanted: Wanted,
    path: str,
    known: LockedFile,
    links: Sequence[str],
    reading: ModelsReading,
    models_dir: str,
    cache_dir: str,
    owner: int,
) -> tuple[ModelAction, str] | None:
    """What is to be done with one file, and why; None when it is as it should be."""
    repo, commit = wanted.model.repo, wanted.commit
    entry = reading.manifest.files.get(manifest_key(repo, commit, path))
    at = hub_cache.snapshot(cache_dir, repo, commit, path)
    cached = reading.cached.get(at)
    if cached is None:
        return "fetch", "it is gone from the cache" if entry else "it is not there"
    if entry is None:
        return "verify", "it is in the cache and was never verified"
    if why := _unproved(entry, known, at, cached):
        return "verify", why
    if cached.uid != owner:  # who could change it at any time: its bytes are read into a file of our own
        return "verify", f"it belongs to uid {cached.uid}, not to the account (uid {owner})"
    if cached.mode != FILE_MODE:
        return "link", f"its mode is {cached.mode:03o}, not {FILE_MODE:03o}"
    return next((("link", why) for link in links if (why := _unlinked(f"{models_dir}/{link}", cached, reading))), None)


def _unproved(entry: ManifestEntry, known: LockedFile, at: str, cached: FileStat) -> str | None:
    """Why the bytes must be read again; None when the manifest vouches for them."""
    if entry.path != at:
        return f"it was verified in another cache, as {entry.path}"
    if cached != FileStat(entry.size, entry.mtime_ns, entry.inode):
        return "the file changed since it was verified"
    if known.sha256 not in (None, entry.sha256):
        return "its sha256 is not the expected one"
    if known.sha256 is None and entry.git_sha1 != known.git_sha1:
        return "it was never compared with what it should be" if entry.git_sha1 is None else "its bytes are others"
    return "it was never compared with a known hash" if entry.checked_against == "none" else None


def _unlinked(path: str, cached: FileStat, reading: ModelsReading) -> str | None:
    """Why the models folder must get its link to a file that is right; None when it has it."""
    if path not in reading.links:
        return "it is not in the models folder"
    return None if reading.links[path] == cached else "another file is in its place in the models folder"


def _has_blob(repo: str, known: LockedFile, reading: ModelsReading, cache_dir: str) -> bool:
    """True when another revision has the same bytes: nothing is downloaded for them."""
    name = known.sha256 or known.git_sha1
    there = reading.blobs.get(f"{cache_dir}/{hub_cache.folder_name(repo)}/blobs/{name}")
    return there is not None and there.size == known.size


def _ref(wanted: Wanted, reading: ModelsReading, cache_dir: str) -> ModelRef | None:
    """The name that the cache must get for a branch, so that its readers find the commit offline."""
    repo, revision = wanted.model.repo, wanted.model.revision
    if COMMIT.fullmatch(revision):
        return None
    path = f"{cache_dir}/{hub_cache.folder_name(repo)}/refs/{revision}"
    return None if reading.refs.get(path) == wanted.commit else ModelRef(repo, revision, wanted.commit)


def to_verify(wanted: Wanted, reading: ModelsReading, cache_dir: str) -> PlannedModel | None:
    """The model with every file that is there to be read again; None when there is none."""
    files = [
        PlannedFile(_file(wanted, path, known, "verify"), "every file is hashed")
        for path, known in wanted.files.items()
        if hub_cache.snapshot(cache_dir, wanted.model.repo, wanted.commit, path) in reading.cached
    ]
    return PlannedModel(wanted.name, files, None) if files else None


# -- what is on the host -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelStatus:
    """One model, or what is left of one, on a host.

    `state`: `complete` all files are there and verified; `partial` some are; `absent` none is; `unused` no service of
    this host needs them. `files`, `bytes`: what it has, as far as it is known; `disk_bytes`: on this disk, of files
    that have several names once; `verified_ns`: when the file was last read whose turn is the longest ago, 0 = never;
    `checked_against`: whose hashes: `lock`, `hub`, `none` (of one of them nobody knew a hash)."""

    name: str
    repo: str
    revision: str
    commit: str
    state: Literal["complete", "partial", "absent", "unused"]
    files: int
    bytes: int
    disk_bytes: int
    verified_ns: int
    checked_against: str
    used_by: Sequence[str]
    licence: str = ""


def status(
    models: Sequence[Wanted],
    unresolved: Mapping[str, Model],
    used_by: Mapping[str, Sequence[str]],
    reading: ModelsReading,
    models_dir: str,
    cache_dir: str,
    owner: int,
) -> list[ModelStatus]:
    """Every model that this host needs or has. `unresolved`: those of which nobody here knows the files."""
    open_actions = {each.name: each for each in reconcile(models, reading, models_dir, cache_dir, owner)}
    found = [_status_of(each, open_actions.get(each.name), used_by.get(each.name, ()), reading) for each in models]
    found += [
        ModelStatus(name, model.repo, model.revision, "", "absent", 0, 0, 0, 0, "none", used_by.get(name, ()))
        for name, model in unresolved.items()
    ]
    return [*found, *map(_status_of_left, reclaimable(models, unresolved, reading))]


def _status_of_left(left: Reclaimable) -> ModelStatus:
    first, whole = left.entries[0], sum(each.size for each in left.entries)
    verified, against = _proof(left.entries)
    return ModelStatus(
        left.name,
        first.repo,
        first.commit,
        first.commit,
        "unused",
        len(left.entries),
        whole,
        left.disk_bytes,
        verified,
        against,
        (),
    )


def _status_of(
    wanted: Wanted, planned: PlannedModel | None, used_by: Sequence[str], reading: ModelsReading
) -> ModelStatus:
    keys = [manifest_key(wanted.model.repo, wanted.commit, path) for path in wanted.files]
    wrong = {each.file.file for each in planned.files} if planned else set()
    right = [path for path in wanted.files if path not in wrong]
    entries = [entry for key in keys if (entry := reading.manifest.files.get(key)) and entry.file in right]
    verified, against = _proof(entries) if not wrong else (0, "none")
    state: Literal["complete", "partial", "absent"] = "complete" if not wrong else "partial" if right else "absent"
    return ModelStatus(
        wanted.name,
        wanted.model.repo,
        wanted.model.revision,
        wanted.commit,
        state,
        len(wanted.files),
        wanted.bytes,
        _on_disk(entries),
        verified,
        against,
        used_by,
        wanted.model.licence,
    )


def _proof(entries: Sequence[ManifestEntry]) -> tuple[int, str]:
    against = {entry.checked_against for entry in entries}
    verified = min(entry.verified_ns for entry in entries)
    return verified, next((each for each in ("none", "hub", "lock") if each in against), "none")


def _on_disk(entries: Sequence[ManifestEntry]) -> int:
    return sum({entry.inode: entry.size for entry in entries}.values())


# -- what nobody needs any more ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reclaimable:
    """Files of the manifest that no service of this host needs. `disk_bytes`: what their removal frees: not what
    another revision or another model has as well."""

    name: str
    entries: Sequence[ManifestEntry]
    disk_bytes: int

    def change(self) -> Change:
        """As a plan shows it."""
        first = self.entries[0]
        reason = f"no service of this host uses {first.repo} at {first.commit[:12]}: {size(self.disk_bytes)} on disk"
        diff = tuple(Difference(each.file, size(each.size), None) for each in self.entries)
        return Change("models", Resource("model", self.name), "remove", reason, diff)


def reclaimable(models: Sequence[Wanted], unresolved: Mapping[str, Model], reading: ModelsReading) -> list[Reclaimable]:
    """What may be removed, by model and commit. Of a repository whose wanted files are not known, nothing."""
    wanted = {manifest_key(each.model.repo, each.commit, path) for each in models for path in each.files}
    unknown = {model.repo for model in unresolved.values()}
    kept = {entry.inode for key, entry in reading.manifest.files.items() if key in wanted or entry.repo in unknown}
    left: dict[tuple[str, str, str], list[ManifestEntry]] = {}
    for key, entry in sorted(reading.manifest.files.items()):
        if key not in wanted and entry.repo not in unknown:
            left.setdefault((entry.model, entry.repo, entry.commit), []).append(entry)
    names = Counter(name for name, _, _ in left) + Counter(each.name for each in models)
    return [
        Reclaimable(
            name if names[name] == 1 else f"{name}@{commit[:12]}",
            entries,
            _on_disk([each for each in entries if each.inode not in kept and each.path in reading.cached]),
        )
        for (name, _, commit), entries in left.items()
    ]


def unpinned(models: Sequence[Wanted]) -> Iterator[tuple[str, str]]:
    """(model, what it was taken for) of those whose revision is a name that nobody locked."""
    for each in models:
        revision = each.model.revision
        if each.source != "lock" and not COMMIT.fullmatch(revision):
            by = "as the hub says now" if each.source == "hub" else "as when this host asked first"
            yield each.name, f"`{revision}` of {each.model.repo} is {each.commit[:12]}, {by}; `gpuhost lock` pins it"
