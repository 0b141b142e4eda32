"""Everything that passes between the control side and the programs on a host. Standard library only.

A request goes to a program's stdin as one JSON document, answers come back as JSON lines on its stdout; `wire` reads
and writes them. Times are Unix nanoseconds, 0 = never, where a name ends in `_ns`; seconds where it ends in `_s`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

from hostside.wire import WireError, from_host

# -- hostside.verify ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Expectation:
    """The right answer. `json`: a subset of it; `contains`: a piece of its text; None = not looked at."""

    status: int
    json: Any
    contains: str | None


@dataclass(frozen=True)
class Header:
    """A header whose value is secret."""

    name: str
    value: str = field(repr=False)


@dataclass(frozen=True)
class Probe:
    """One request through the published port. `body`: sent as JSON, None = no body."""

    name: str
    method: str
    path: str
    headers: dict[str, str]
    secret_header: Header | None
    body: Any
    expect: Expectation
    timeout_s: float


@dataclass(frozen=True)
class ServiceToVerify:
    """One service: `host` and `port` are where it is published, `start_budget_s` counts from its container's start.
    `check_s`: in which Docker's next health check has ended, once the start is over."""

    name: str
    container: str
    stack: str
    port: int
    host: str
    start_budget_s: float
    probes: list[Probe]
    check_s: float = 0.0


@dataclass(frozen=True)
class VerifyRequest:
    """`window_s`: for how long the services are watched while and after they are asked."""

    window_s: float
    services: list[ServiceToVerify]


@dataclass(frozen=True)
class ProbeAnswer:
    """What came back to one request.

    `status` None: nothing did, and `error` says in which way; `ok`: it is as expected, and `detail` says what differs;
    `authenticated`: the request carried the secret header.
    """

    name: str
    status: int | None
    ok: bool
    detail: str
    seconds: float
    authenticated: bool
    expected_status: int
    error: Literal["connect", "timeout", "broken"] | None


@dataclass(frozen=True)
class ContainerSeen:
    """A container at the first and at the last look (`..._after`), `observed_s` apart.

    `state`, `health`, `started_at` in Docker's words; `health` None: it has no health check; `health_log`: the last
    check's output; `error` is Docker's own (a port that was taken); `exit_code`: of its last end, 0 when there is none.
    """

    id: str
    state: str
    health: str | None
    health_log: str
    restart_count: int
    restart_count_after: int
    oom_killed: bool
    exit_code: int
    error: str
    started_at: str
    started_at_after: str
    observed_s: float


@dataclass(frozen=True)
class Held:
    """A folder or file of the host that a container that runs has at `target`. `held`: what it has there,
    `device:inode`; `now`: what lies at `source` on the host at this moment, None when nothing does."""

    source: str
    target: str
    held: str | None
    now: str | None


@dataclass(frozen=True)
class ServiceSeen:
    """One service, as it was seen. `outcome`: how the waiting for it ended, after `waited_s`; `container` None: there
    is none; `log_tail`: its last lines when something is wrong, secrets removed; `holds`: what it has of the host."""

    service: str
    stack: str
    port: int
    start_budget_s: float
    outcome: Literal["ready", "dead", "absent", "timeout"]
    waited_s: float
    container: ContainerSeen | None
    probes: list[ProbeAnswer]
    log_tail: list[str]
    holds: list[Held] = field(default_factory=list)


# -- hostside.logs -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LogRequest:
    """The last `tail` lines of a service's container, and what comes when it is to `follow`; `secrets`: to mask."""

    service: str
    tail: int
    follow: bool
    secrets: list[str] = field(repr=False)


# -- hostside.secret_audit ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EnvFileQuery:
    """An env file to read; `plain`: the variables in it that are no secret, whose values are shown."""

    path: str
    plain: list[str]


@dataclass(frozen=True)
class SecretFileQuery:
    """A secret file to read, and the template (`{NAME}\\n`) that it was made from."""

    path: str
    template: str


@dataclass(frozen=True)
class SecretAuditRequest:
    """`key`: of the fingerprints; `containers`: the variables to look for in the environment of every container of
    ours, None = Docker is not asked."""

    key: str = field(repr=False)
    env_files: list[EnvFileQuery]
    secret_files: list[SecretFileQuery]
    containers: list[str] | None


@dataclass(frozen=True)
class HeldVariable:
    """A variable of an env file: the fingerprint (64 hex) of its value, and the value when it is no secret."""

    fingerprint: str
    value: str | None = None


@dataclass(frozen=True)
class HeldFile:
    """A secret file: name -> fingerprint of what it holds, None when it does not fit its template."""

    fingerprints: dict[str, str] | None
    modified_ns: int


@dataclass(frozen=True)
class HoldingContainer:
    """A container of ours, running or not. `env`: name -> fingerprint, of the variables asked for; `added`: of all
    that its image does not give it."""

    name: str
    service: str
    state: str
    started_ns: int
    env: dict[str, str]
    added: dict[str, str]


@dataclass(frozen=True)
class SecretAuditAnswer:
    """`env_files`: path -> name -> variable; `secret_files`: path -> file; what is not there is left out. `now_ns`: the
    host's clock."""

    env_files: dict[str, dict[str, HeldVariable]]
    secret_files: dict[str, HeldFile]
    containers: list[HoldingContainer]
    now_ns: int


# -- hostside.models ---------------------------------------------------------------------------------------------------

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


# -- hostside.model_peer -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GivenFile:
    """A file that may be given: `at`: below the cache; `size`: bytes, with another size it is not given."""

    at: str
    size: int


@dataclass(frozen=True)
class GiveRequest:
    """The files that may be given, and no other; `cache_dir`: the hub's cache."""

    files: list[GivenFile]
    cache_dir: str


@dataclass(frozen=True)
class TakenFile:
    """A file as it is asked for; `etag`: by which the hub knows its bytes."""

    repo: str
    commit: str
    file: str
    size: int
    etag: str


@dataclass(frozen=True)
class TakeRequest:
    """The files that the other side gives, in the order of its request; `secret`: who knows it may ask for them."""

    files: list[TakenFile]
    secret: str = field(repr=False)


@dataclass(frozen=True)
class TakeReady:
    """`port`: of the loopback, where they are asked for."""

    port: int


# -- hostside.model_prune ----------------------------------------------------------------------------------------------


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


# -- hostside.model_import ---------------------------------------------------------------------------------------------


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


# -- hostside.trees ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TreeRequest:
    """`folder`: what was made; `manifest`: the file that says what it holds, in a folder of root."""

    folder: str
    manifest: str


@dataclass(frozen=True)
class TreeEntry:
    """One thing in a folder. `mode`: permission bits; `text`: the sha256 of a file ("" = not read, because its size is
    another or it cannot be read), the target of a link; `size`: bytes, of a file only; `mount`: a folder of another
    filesystem."""

    kind: Literal["file", "folder", "link", "mount", "other"]
    mode: int
    uid: int
    gid: int
    text: str
    size: int


@dataclass(frozen=True)
class TreeDifference:
    """`path`: below the folder; `recorded` None: it was added; `found` None: it is gone."""

    path: str
    recorded: TreeEntry | None
    found: TreeEntry | None


@dataclass(frozen=True)
class TreeSeen:
    """A folder, compared with its manifest.

    `state`: `recorded`, the manifest says what it holds; `unfinished`: a run that was killed has begun to make it;
    `unknown`: there is no manifest, so nothing was compared. `disk_bytes`: what it takes; `differing`: how many things
    are not as recorded, the `first` of them one by one; `touched`: how many files have their bytes, with other times or
    another inode, and the first of them.
    """

    state: Literal["recorded", "unfinished", "unknown"]
    disk_bytes: int
    differing: int
    first: list[TreeDifference]
    touched: int
    first_touched: str


# -- hostside.gpu_proof ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GpuChainRequest:
    """`devices`: the names by which containers ask for GPUs, each looked at in a container of its own; `source`: the
    program that is run there, in `image`, for at most `timeout_s`."""

    devices: list[str]
    access: Literal["cdi", "runtime"]
    image: str
    source: str
    timeout_s: int


@dataclass(frozen=True)
class EngineSeen:
    """What Docker says of itself. `devices`: those of CDI that it found, None when it is too old to say; `said`: its
    words when it says nothing else."""

    runtimes: list[str]
    cdi_folders: list[str]
    devices: list[str] | None
    said: str


@dataclass(frozen=True)
class ComputingGpu:
    """A GPU as a container has it. `wrong`: how many of its results are not right, None when it computed nothing, and
    then `error` is CUDA's name of the reason."""

    uuid: str
    wrong: int | None
    error: str


@dataclass(frozen=True)
class GpuContainerSeen:
    """A container that asked for a device (None: for none). `ran`: the program in it said something, else `said` is
    why not; `device_files`: of the cards, in it; `driver`: CUDA's library is in it."""

    device: str | None
    ran: bool
    device_files: list[str]
    driver: bool
    gpus: list[ComputingGpu]
    said: str


@dataclass(frozen=True)
class GpuChainSeen:
    """Every link of the chain. `uuids`: that nvidia-smi names, `said` its words when it names none; `device_files`:
    those of the host; `toolkit`: its version, "" when it does not say."""

    uuids: list[str]
    said: str
    device_files: list[str]
    toolkit: str
    engine: EngineSeen
    containers: list[GpuContainerSeen]
