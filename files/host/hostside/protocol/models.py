"""What passes between the control side and `hostside.models`. Standard library only."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Literal

from hostside.wire import WireError, from_host

ModelAction = Literal["fetch", "verify", "link"]


@dataclass(frozen=True)
class ModelFile:
    """One file of a model, and the one thing to do with it.

    `model`: its name in the catalogue; `commit`: 40 hex; `file`: path in the repository; `size`: bytes. `sha256`: of
    the bytes, known of LFS files; `git_sha1`: git's blob id, which decides where there is no sha256; `known_from`: who
    said so. `links`: paths below the models folder, hard links to the cached file; none: it is only in the cache.
    `gated`: the hub wants to know who asks. `peers`: addresses at which neighbours answer as a hub does; asked first.

    `fetch`: have it in the cache; `verify`: hash the file that the cache shows; `link`: link that file, which is as the
    manifest says, into the models folder.
    """

    model: str
    repo: str
    commit: str
    file: str
    size: int
    sha256: str | None
    git_sha1: str | None
    links: list[str]
    action: ModelAction
    gated: bool
    known_from: Literal["lock", "hub"] = "hub"
    peers: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ModelRef:
    """A branch's name in the cache, by which huggingface_hub, vLLM and diffusers find the commit offline."""

    repo: str
    revision: str
    commit: str


@dataclass(frozen=True)
class ModelsRequest:
    """`refs`: written once all files are there; `cache_dir`: the hub's cache itself (`.../huggingface/hub`); `stall_s`:
    how long a download may stand still; `token`: of an account of the hub, sent for gated files only; `peer_secret`:
    what the files' peers want to be told."""

    files: list[ModelFile]
    refs: list[ModelRef]
    cache_dir: str
    models_dir: str
    manifest: str
    stall_s: float
    token: str | None = field(default=None, repr=False)
    peer_secret: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class ModelReady:
    """A file is there and linked. `checked_against` "none": no hash of it was known, its bytes were only read."""

    model: str
    file: str
    state: Literal["downloaded", "verified", "linked"]
    commit: str
    sha256: str
    bytes: int
    checked_against: Literal["lock", "hub", "none"]
    event: Literal["model"] = "model"


@dataclass(frozen=True)
class DownloadPlan:
    """What is about to be downloaded (what an earlier run left half is not counted), and the room that there is."""

    files: int
    download_bytes: int
    free_bytes: int
    event: Literal["plan"] = "plan"


@dataclass(frozen=True)
class Progress:
    """How far a file is (`model`, `file`), or all that is downloaded (both None). `bytes`: of `total_bytes`, with what
    an earlier run left; `bytes_per_s`: of late; `eta_s` None: nothing moves."""

    model: str | None
    file: str | None
    bytes: int
    total_bytes: int
    bytes_per_s: float
    eta_s: float | None
    event: Literal["progress"] = "progress"


@dataclass(frozen=True)
class MovedAside:
    """A file that we do not vouch for was in the way, and where it is now."""

    model: str
    moved_from: str
    moved_to: str
    event: Literal["moved_aside"] = "moved_aside"


@dataclass(frozen=True)
class Stalled:
    """A download stood still for `stall_s`; it is asked for again."""

    model: str
    file: str
    stall_s: float
    attempt: int
    event: Literal["stalled"] = "stalled"


@dataclass(frozen=True)
class Retrying:
    """The `attempt`th failed, because of `cause`; the next is made after `pause_s`. `peer`: it was a neighbour that
    was asked."""

    model: str
    file: str
    attempt: int
    pause_s: float
    cause: str
    peer: bool
    event: Literal["retrying"] = "retrying"


@dataclass(frozen=True)
class ModelFailure:
    """`kind`: gated, token, licence, missing, network, disk, bytes, filesystem; `model`, `file` None: it concerns all;
    `attempt`: the one after which the program gave up."""

    model: str | None
    file: str | None
    kind: str
    message: str
    hint: str
    attempt: int
    event: Literal["error"] = "error"


@dataclass(frozen=True)
class ModelsDone:
    """Every file of the request is there. `downloaded_bytes`: what came over the network in this run; `needed_bytes`:
    what was missing at its start; `peer_bytes`: what of the downloaded ones neighbours gave."""

    files: int
    downloaded_bytes: int
    needed_bytes: int
    peer_bytes: int
    event: Literal["done"] = "done"


ModelEvent = ModelReady | DownloadPlan | Progress | MovedAside | Stalled | Retrying | ModelFailure | ModelsDone
_EVENTS: dict[str, type[ModelEvent]] = {
    "model": ModelReady,
    "plan": DownloadPlan,
    "progress": Progress,
    "moved_aside": MovedAside,
    "stalled": Stalled,
    "retrying": Retrying,
    "error": ModelFailure,
    "done": ModelsDone,
}


def model_event(line: str) -> ModelEvent:
    """The event of a line that hostside.models printed. Raises WireError."""
    try:
        kind = _EVENTS[json.loads(line)["event"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise WireError("the line is no event of a known kind") from None
    return from_host(kind, line)


@dataclass(frozen=True)
class ManifestEntry:
    """One file that is there.

    `path`: the file in the hub's cache, through its snapshot link; `links`: its names below the models folder;
    `sha256`: what its bytes had when they were last read, at `verified_ns`; `git_sha1`: None where a sha256 was known;
    `checked_against`: whose hash they were compared with. `size` (bytes), `mtime_ns` and `inode` tell whether they are
    still the same.
    """

    model: str
    repo: str
    commit: str
    file: str
    path: str
    size: int
    mtime_ns: int
    inode: int
    sha256: str
    git_sha1: str | None
    links: list[str]
    verified_ns: int
    checked_against: Literal["lock", "hub", "none"]


@dataclass(frozen=True)
class Manifest:
    """What was fetched on a host: `<repo>@<commit>:<file>` -> entry. It lies there as one JSON file."""

    files: dict[str, ManifestEntry] = field(default_factory=dict)
    version: Literal[2] = 2


def manifest_key(repo: str, commit: str, file: str) -> str:
    """The name of a file in the manifest."""
    return f"{repo}@{commit}:{file}"
