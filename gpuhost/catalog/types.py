"""The types of `group_data/`: what a host should be, validated once, before any host is contacted.

Every model refuses unknown fields. Cross references (a service that names an image, a model, a secret, a network,
another service's port) are checked on the whole catalogue. Errors become `Problem`s that name the file, the field
and what to do.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from gpuhost.catalog import profiles
from gpuhost.catalog.checks import check
from gpuhost.catalog.lock import RepositoryPath
from gpuhost.catalog.messages import explain, refuse
from gpuhost.errors import UserError
from gpuhost.models.patterns import chosen
from hostside import placeholders


def _absolute(path: str) -> str:
    if not PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise PydanticCustomError(
            "gpuhost",
            "`{path}` is not an absolute path",
            {"path": path, "hint": "write a full path such as `/srv/genai`"},
        )
    # It stands in shell scripts, compose files and a systemd unit: none of them has to quote it.
    if not re.fullmatch(r"[A-Za-z0-9/._+@-]+", path):
        refuse(
            f"`{path}` has a space or a sign that shells or systemd read",
            "use letters, digits, `.`, `_`, `-`, `+`, `@`",
        )
    return str(PurePosixPath(path))  # without `//`, `/./` and a last `/`: as Docker writes it


def _address(text: str) -> str:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        refuse(f"`{text}` is no IP address", "write one such as `127.0.0.1` or `::1`")
    return str(ipaddress.ip_address(text))


def _subnet(text: str) -> str:
    try:
        network = ipaddress.IPv4Network(text)
    except ValueError as error:
        refuse(str(error), "write an IPv4 subnet such as `172.20.1.0/24`")
    if not 8 <= network.prefixlen <= 29:
        refuse(f"`{text}` has room for {network.num_addresses} addresses", "write one such as `172.20.1.0/24`")
    return str(network)


_APT_MARKS = ("os", "suite", "arch")


def _apt_text(text: str) -> str:
    """Filled in later by str.format, with the marks alone; a line of an apt source."""
    shown = ", ".join(f"`{{{mark}}}`" for mark in _APT_MARKS)
    left = re.sub(r"\{(\w+)\}", lambda found: "" if found[1] in _APT_MARKS else found[0], text)
    if "{" in left or "}" in left:
        refuse(f"`{text}` has a mark that gpuhost does not know", f"there is: {shown}")
    if not text.isprintable() or not text.strip():
        refuse(f"`{text}` is not one line of text", "write it as it stands in an apt source")
    return text


Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,62}$")]
StackName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]  # a compose project
ServiceName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_.-]{0,62}$")]  # begins variables' names
AccountName = Annotated[str, StringConstraints(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")]  # useradd takes no others
EnvName = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]*$")]
Address = Annotated[str, AfterValidator(_address)]
Subnet = Annotated[str, AfterValidator(_subnet)]
AptText = Annotated[str, AfterValidator(_apt_text)]
HostPath = Annotated[str, AfterValidator(_absolute)]
UrlPath = Annotated[str, StringConstraints(pattern=r"^/")]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
Port = Annotated[int, Field(ge=1, le=65535)]
Size = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]*[kmg]b?$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Fingerprint = Annotated[str, StringConstraints(pattern=r"^[0-9A-F]{40}$")]
Repository = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*$", max_length=96)]
ModelLink = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w .()+-]*$", max_length=200)]


class Entry(BaseModel):
    """Base of all: immutable, no unknown field, no silent conversion of types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class AptRepository(Entry):
    """An apt source with its signing key. URLs may hold `{os}` (debian, ubuntu), `{suite}` (trixie, noble)
    and `{arch}` (amd64, arm64)."""

    url: AptText
    suites: AptText
    components: str = ""
    key_url: AptText


class Account(Entry):
    """An unprivileged account on the host, with a group of its name. No two have an id in common."""

    name: AccountName
    uid: int = Field(ge=1000, le=60000)
    gid: int = Field(ge=1000, le=60000)


class Secret(Entry):
    """One secret. `generate`: how it comes to be when no source has it; None = only the operator can give it.

    `min_chars`: a shorter one its user refuses, as late as it starts; `derive_from`: for `bcrypt`, the secret whose
    value is hashed; `aliases`: other names under which the operator's sources may hold the same value; `renew`: for
    what only the operator can give, how a new value comes to be.
    """

    generate: Literal["token", "password", "bcrypt", "username"] | None = None
    derive_from: EnvName | None = None
    min_chars: int = Field(default=1, ge=1)
    aliases: list[EnvName] = []
    about: str = ""
    renew: str = ""

    @model_validator(mode="after")
    def _bcrypt_needs_a_source(self) -> Secret:
        if (self.generate == "bcrypt") != (self.derive_from is not None):
            refuse('`derive_from` and `generate = "bcrypt"` go together', "name the secret whose value is hashed")
        return self


class BuildImage(Entry):
    """An image built on the host from a folder under `files/`; `args` are build arguments (part of its spec)."""

    build: Name
    args: dict[str, str] = {}


class PullImage(Entry):
    """An image pulled by reference: a release tag or a digest, never `latest` or `nightly`.

    `arguments`: release (the tag) -> the command line of its services, with marks (services/arguments.py); none: the
    templates write it. `refused`: argument or environment variable that no service of this image may have -> why.
    `families`: pattern of models' repositories -> argument -> the value that it must have with them.
    """

    pull: str
    arguments: dict[str, list[str]] = {}
    refused: dict[str, str] = {}
    families: dict[str, dict[str, str]] = {}

    @property
    def release(self) -> str:
        """The tag, "" when there is none."""
        return self.pull.rsplit("/", 1)[-1].partition("@")[0].partition(":")[2]

    @model_validator(mode="after")
    def _pinned(self) -> PullImage:
        tag = self.release
        if "@sha256:" not in self.pull and (tag == "" or "latest" in tag or "nightly" in tag):
            refuse(f"image `{self.pull}` is not pinned", "name a release tag (`:v0.9.2`) or a digest (`@sha256:...`)")
        return self


def _image_kind(value: Any) -> str | None:
    """Which of the two an image is, so that a fault in it is one problem, as a fault of that kind."""
    if isinstance(value, Entry):  # it is written
        return type(value).__name__
    kinds = {"pull": "PullImage", "build": "BuildImage"}
    return next((kind for field, kind in kinds.items() if isinstance(value, dict) and field in value), None)


Image = Annotated[
    Annotated[BuildImage, Tag("BuildImage")] | Annotated[PullImage, Tag("PullImage")],
    Discriminator(
        _image_kind,
        custom_error_type="gpuhost",
        custom_error_message="it is neither built nor pulled",
        custom_error_context={"hint": "write `build` (a folder under files/) or `pull` (a reference)"},
    ),
]


class Model(Entry):
    """A Hugging Face repository at a revision, or some files of it, in the shared cache.

    `revision`: a commit (40 hex), a branch or a tag; `allow`, `ignore`: which files, as huggingface_hub's
    `allow_patterns` and `ignore_patterns`; `links`: path in the repository -> `<folder>/<name>` below models/;
    `sha256`: path -> hex, where somebody has checked it; `gated`: the repository is gated or private, so HF_TOKEN is
    sent for it; `licence`: a note, with the page where it is accepted.
    """

    repo: Repository
    revision: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_./-]{0,200}$")] = "main"
    gated: bool = False
    allow: Annotated[list[str], Field(min_length=1)] = ["*"]
    ignore: list[str] = []
    links: dict[RepositoryPath, ModelLink] = {}
    sha256: dict[RepositoryPath, Sha256] = {}
    licence: str = ""

    @model_validator(mode="after")
    def _named_files_are_chosen(self) -> Model:
        if ".." in self.revision.split("/"):
            refuse(f"`revision`: `{self.revision}` is no revision", "give a commit, a branch or a tag")
        for field, paths in (("links", self.links), ("sha256", self.sha256)):
            for path in sorted(paths.keys() - set(chosen(paths, self.allow, self.ignore))):
                refuse(f"`{field}` names `{path}`, which `allow` and `ignore` leave out", "let `allow` name it, too")
        return self


class Network(Entry):
    """A Docker network. Its containers reach each other, and nothing else: neither the host nor another network, nor a
    DNS server. `egress`: nor the host, but what lies behind it (the internet, the LAN)."""

    subnet: Subnet
    egress: bool = False


class Install(Entry):
    """Software that a script makes once on the host, in a one-shot container; shared read-only by the services that
    name it.

    `script`: a file under `files/`, run by bash in `image` with `environment`; it makes its things in /app and ends
    with a stamp (`.gpuhost/installed.json`, whose first field is the spec that it was given as INSTALL_SPEC).
    What it takes from the network is told by the names of its variables, from which `gpuhost lock` resolves its
    packages: `X_URL` and `X_REF`, a git repository, whose requirements.txt counts, and its commit; `X_INDEX_URL` and
    `X_PACKAGES`, a package index and pins that come from it; `EXTRA_REQUIREMENTS`, lines of a requirements file; a
    line of name, URL and commit in any of them, one more repository. When they are locked, the file is at
    REQUIREMENTS_LOCK. `memory`, `cpus`, `pids`: the limits of that container.
    """

    version: Name
    script: str
    image: Name
    environment: dict[EnvName, str] = {}
    memory: Size = "8g"
    cpus: float = Field(default=4, gt=0)
    pids: int = Field(default=1024, ge=1)


class Health(Entry):
    """The container's own health check and the time it gets to become healthy. Seconds.

    `path`: a GET inside the container must answer 200; where the service's `auth` locks that path, its first open path
    is asked instead. `command`: an argv, for what is no such question. One of the two.
    """

    path: Annotated[str, StringConstraints(pattern=r"^/")] | None = None
    command: list[str] | None = None
    interval_s: int = Field(ge=1)
    timeout_s: int = Field(ge=1)
    retries: int = Field(ge=1)
    start_budget_s: int = Field(ge=1)

    @model_validator(mode="after")
    def _one_of_two(self) -> Health:
        if (self.path is None) == (not self.command):
            refuse("a health check is either a `path` or a `command`", "give one of the two")
        return self


class LockedRequest(Entry):
    """A request that a stranger might make and that must be refused. Choose one that does no harm where it is not, such
    as the change of a file that cannot be: verification makes it at every run, without a body."""

    method: Literal["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"]
    path: UrlPath
    headers: dict[str, str] = {}


class Auth(Entry):
    """How a service refuses strangers. Verification asks each of `locked_paths` without a token, with a wrong one and
    (where `token_parameter` names a query parameter that takes the token, too) with an empty one: 401; with the right
    one: 200. Each of `locked_requests` it makes as it stands: 401. `open_paths` answer 200 to everybody.

    `token`: the secret that is sent as `Authorization: Bearer`; `switch`: a field of the data beside
    `services`; where that is False the service refuses nobody, and has no files for it.
    """

    token: EnvName
    switch: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9]*(_[a-z0-9]+)+$")] | None = None
    locked_paths: list[UrlPath] = Field(min_length=1)
    locked_requests: list[LockedRequest] = []
    open_paths: list[UrlPath] = []
    token_parameter: str | None = None


class Probe(Entry):
    """One request through the published port and the answer that proves that the service does its work.

    Where the service has `auth`, the token is sent to every path but the open ones. `json_has`: a subset of the JSON
    answer.
    """

    name: str
    path: UrlPath
    method: Literal["GET", "POST"] = "GET"
    headers: dict[str, str] = {}
    body: dict[str, Any] | None = None
    expect_status: int = 200
    json_has: dict[str, Any] | None = None
    contains: str | None = None


class Seed(Entry):
    """A file that is made once for a service, and then its own. `text`: with marks such as `{random_key}` and `{now}`;
    `renew_with`: a secret; when that has another value, the file is made anew and the service restarted."""

    text: str
    renew_with: EnvName | None = None


class GpuNeed(Entry):
    """How many GPUs a service uses, several being of one model, and how much memory it takes on each (MiB); None:
    nobody has measured it. `vram_least_mib`: with so much it works, too, when it has a smaller card for itself: it then
    keeps in the host's memory what does not fit."""

    count: int = Field(ge=1)
    vram_mib: int | None = Field(default=None, ge=1)
    vram_least_mib: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _least_is_not_most(self) -> GpuNeed:
        if self.vram_least_mib is not None and (self.vram_mib is None or self.vram_least_mib > self.vram_mib):
            refuse("`vram_least_mib` is what it makes do with, and no more than `vram_mib`", "give `vram_mib` as well")
        return self


class TestLimits(Entry):
    """What a service gets in the place of its own with `profile = "test"`; None: the same."""

    memory: Size | None = None
    cpus: float | None = Field(default=None, gt=0)
    shm: Size | None = None


class GpuCheck(Entry):
    """The proof that containers reach the GPUs: `image` has `python3`, `source` (a file under `files/`) is run in it
    and computes on each GPU; each of its questions gets `timeout_s`."""

    image: Name
    source: str
    timeout_s: int = Field(default=120, ge=1)


class Service(Entry):
    """One container: everything that concerns it comes from this entry and its template.

    `account`: its own, as which it runs and which owns what it writes; `network`: two services that name the same one
    reach each other; `memory`, `shm`: limits such as "28g" (there is no swap beyond it); `memory_least`: a host with
    less memory cannot run it, and all that always run together want the sum of theirs; `cpus`: cores; `pids`:
    processes and threads; `open_files`: of each process; `tmp`: the size of a /tmp in memory, which counts as memory of
    the service; `all_gpus`: every GPU for reading its state only (NVML); it runs where there is none, too;
    `controls_services`: it may ask for the state of our containers, and start and stop them (hostside/broker.py);
    `init`: a process of Docker's own reaps what the service leaves behind; `install`: what is mounted read-only at
    /app; `folders`: made for the service in its data folder; `seeds`: files that are made once and then belong to the
    service; `config_files`: file -> template; `shipped_files`: file -> what it is below files/, given as it is beside
    them; `options`: for the template and for marks in arguments; `arguments`:
    added to its command; `secrets`: what its environment may hold; `secret_files`: file in the service's secret folder
    -> text that names secrets as `{NAME}`; `start`: an `on-demand` service is made and not started, and whether it runs
    is then nobody's concern; `start_order`: lower starts first; `stop_timeout_s`: how long it may take to stop before
    it is killed; `log_size`, `log_files`: how long Docker's log of it gets, and how many are kept; `test`: its limits
    with `profile = "test"`.
    """

    stack: StackName
    image: Name
    template: str
    account: Account
    port: Port
    container_port: Port
    bind: Address = "127.0.0.1"
    network: Name
    memory: Size
    memory_least: Size | None = None
    cpus: float = Field(gt=0)
    pids: int = Field(default=1024, ge=1)
    open_files: int = Field(default=65536, ge=64)
    shm: Size | None = None
    tmp: Size | None = None
    gpu: GpuNeed | None = None
    all_gpus: bool = False
    controls_services: bool = False
    init: bool = False
    install: Name | None = None
    folders: list[FileName] = []
    seeds: dict[FileName, Seed] = {}
    config_files: dict[FileName, str] = {}
    shipped_files: dict[FileName, str] = {}
    options: dict[str, Any] = {}
    arguments: list[str] = []
    models: list[Name] = []
    auth: Auth | None = None
    secrets: list[EnvName] = []
    secret_files: dict[FileName, str] = {}
    environment: dict[EnvName, str] = {}
    health: Health
    probes: list[Probe] = []
    start: Literal["always", "on-demand"] = "always"
    start_order: int = 100
    stop_timeout_s: int = Field(default=30, ge=1)
    log_size: Size = "10m"
    log_files: int = Field(default=3, ge=1)
    test: TestLimits = TestLimits()

    @property
    def gpu_count(self) -> int:
        """How many GPUs it has for itself."""
        return self.gpu.count if self.gpu else 0

    @property
    def health_path(self) -> str | None:
        """What its health check asks for, None when that is a command."""
        path = self.health.path
        return self.auth.open_paths[0] if path and self.auth and path in self.auth.locked_paths else path

    def container_secrets(self) -> list[str]:
        """The secrets that its container gets, in its environment or as files, each once, sorted."""
        return sorted({*self.secrets, *self.secret_file_names()})

    def secret_names(self) -> set[str]:
        """Every secret that this entry names, wherever it does."""
        renewing = {seed.renew_with for seed in self.seeds.values() if seed.renew_with}
        return {*self.container_secrets(), *renewing, *([self.auth.token] if self.auth else [])}

    def secret_file_names(self) -> set[str]:
        """The secrets that its secret files hold."""
        return {name for text in self.secret_files.values() for name in placeholders.names(text)}


class Catalog(Entry):
    """What one host should be: the whole of its `group_data`. Field by field documented in group_data/all.py."""

    engine_source: Literal["docker", "distro"]
    engine_packages: dict[Literal["docker", "debian", "ubuntu"], list[str]]
    engine_config: dict[str, Any]
    apt_repositories: dict[Literal["docker", "nvidia"], AptRepository]
    apt_key_fingerprints: dict[Literal["docker", "nvidia"], Fingerprint]
    engine_version: Annotated[str, StringConstraints(pattern=r"^\d+\.\d+\.\d+$")] | None = None
    driver: Annotated[str, StringConstraints(pattern=r"^\d{3}$")] | None = None
    driver_packages: dict[Literal["debian", "ubuntu"], list[str]] = {}
    allow_reboot: bool = False
    gpu_access: Literal["auto", "cdi", "runtime"] = "auto"
    gpu_check: GpuCheck | None = None
    nvidia_toolkit_version: Annotated[str, StringConstraints(pattern=r"^\d+\.\d+\.\d+-\d+$")]
    base_packages: list[str]
    data_root: HostPath
    tools_root: HostPath
    state_root: HostPath
    data_mount: HostPath | None = None
    disk_min_free_gib: float = Field(ge=0)
    memory_min_gib: float = Field(ge=0)
    account: Account
    networks: dict[Name, Network]
    secrets_dir: str
    secrets: dict[EnvName, Secret]
    images: dict[Name, Image]
    allowed_images: list[str] = []
    models: dict[Name, Model]
    hub_endpoint: str = "https://huggingface.co"
    share_models: bool = True
    installs: dict[Name, Install]
    services: dict[ServiceName, Service]
    enabled_services: list[ServiceName]
    profile: Literal["test"] | None = None
    switched_off: list[str] = []
    expose: list[ServiceName] = []
    verify_window_s: float = Field(gt=0)

    @model_validator(mode="after")
    def _whole(self) -> Catalog:
        check(self)
        return self

    def accounts(self) -> dict[str, Account]:
        """Field -> account: the one that owns what is shared, and that of each service that this host runs."""
        return {"account": self.account} | {
            f"services.{name}.account": service.account for name, service in self.enabled().items()
        }

    def enabled(self) -> dict[str, Service]:
        """The services that this host runs, in start order."""
        chosen = {name: self.services[name] for name in self.enabled_services}
        return dict(sorted(chosen.items(), key=lambda item: (item[1].start_order, item[0])))


def load(data: Mapping[str, Any], file_of: Callable[[str], str] = lambda key: "group_data") -> Catalog:
    """Validate a host's data. `file_of` tells which file gave a dotted field, for the messages.

    Raises UserError with each mistake once.
    """
    try:
        # What its fields make of it has to fit together, too.
        return Catalog.model_validate(
            profiles.applied(Catalog.model_validate(profiles.without_switches(data))).model_dump()
        )
    except ValidationError as error:
        raise UserError(*explain(error.errors(), data, file_of, Catalog)) from None
