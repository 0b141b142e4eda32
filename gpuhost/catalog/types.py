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


# The kinds of values; what is said of each is in docs/reference/data.md, too.
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,62}$")]
"""A name: small letters, digits, `_`, `.`, `-`."""
StackName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
"""The name of a compose project."""
ServiceName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_.-]{0,62}$")]
"""The name of a service: variables' names begin with it, so it begins with a letter."""
AccountName = Annotated[str, StringConstraints(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")]
"""The name of an account: `useradd` takes no others."""
EnvName = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]*$")]
"""The name of an environment variable or of a secret."""
Address = Annotated[str, AfterValidator(_address)]
"""An IP address."""
Subnet = Annotated[str, AfterValidator(_subnet)]
"""An IPv4 subnet of 8 to 29 bits, such as `172.20.1.0/24`."""
AptText = Annotated[str, AfterValidator(_apt_text)]
"""A line of an apt source, with the marks `{os}`, `{suite}`, `{arch}`."""
HostPath = Annotated[str, AfterValidator(_absolute)]
"""An absolute path on the host, without `..`, spaces and signs that shells read."""
UrlPath = Annotated[str, StringConstraints(pattern=r"^/")]
"""The path of a request."""
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
"""The name of a file, without folders."""
Port = Annotated[int, Field(ge=1, le=65535)]
"""A TCP port."""
Size = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]*[kmg]b?$")]
"""A size as Docker reads it: `512m`, `28g`, in KiB, MiB, GiB."""
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""A sha256 in hex."""
Fingerprint = Annotated[str, StringConstraints(pattern=r"^[0-9A-F]{40}$")]
"""The fingerprint of an OpenPGP key in hex."""
Repository = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*$", max_length=96)]
"""A repository of the hub: `owner/name`."""
ModelLink = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w .()+-]*$", max_length=200)]
"""`<folder>/<name>` below `<data_root>/models`."""


class Entry(BaseModel):
    """Base of all: immutable, no unknown field, no silent conversion of types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class AptRepository(Entry):
    """An apt source with its signing key. URLs may hold `{os}` (debian, ubuntu), `{suite}` (trixie, noble)
    and `{arch}` (amd64, arm64)."""

    url: AptText
    """Where it is; may hold the marks."""
    suites: AptText
    """Suites, such as `{suite}`; `/` for a repository without any."""
    components: str = ""
    """Components, such as `stable`."""
    key_url: AptText
    """Where the key comes from that is not shipped; one with another fingerprint is refused."""


class Account(Entry):
    """An unprivileged account on the host, with a group of its name. No two have an id in common."""

    name: AccountName
    """Name of the user and of its group."""
    uid: int = Field(ge=1000, le=60000)
    """Number of the user."""
    gid: int = Field(ge=1000, le=60000)
    """Number of the group."""


class Secret(Entry):
    """One secret."""

    generate: Literal["token", "password", "bcrypt", "username"] | None = None
    """How it comes to be when no source has it; None: only the operator can give it."""
    derive_from: EnvName | None = None
    """For `bcrypt`: the secret whose value is hashed."""
    min_chars: int = Field(default=1, ge=1)
    """Least length in characters; a shorter one its user refuses, as late as it starts."""
    aliases: list[EnvName] = []
    """Other names under which the operator's sources may hold the same value."""
    about: str = ""
    """What it is for."""
    renew: str = ""
    """For what only the operator can give: how a new value comes to be."""

    @model_validator(mode="after")
    def _bcrypt_needs_a_source(self) -> Secret:
        if (self.generate == "bcrypt") != (self.derive_from is not None):
            refuse('`derive_from` and `generate = "bcrypt"` go together', "name the secret whose value is hashed")
        return self


class BuildImage(Entry):
    """An image built on the host from a folder under `files/`."""

    build: Name
    """The folder under `files/`."""
    args: dict[str, str] = {}
    """Build arguments, part of its spec."""


class PullImage(Entry):
    """An image pulled by reference. What marks in its command lines stand for: services/arguments.py."""

    pull: str
    """The reference: a release tag or a digest, never `latest` or `nightly`."""
    arguments: dict[str, list[str]] = {}
    """Release (the tag) -> the command line of its services, with marks; none: the templates write it."""
    refused: dict[str, str] = {}
    """Argument or environment variable that no service of this image may have -> why."""
    families: dict[str, dict[str, str]] = {}
    """Pattern of models' repositories -> argument -> the value that it must have with them."""

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
    """A Hugging Face repository at a revision, or some files of it, in the shared cache."""

    repo: Repository
    """The repository."""
    revision: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_./-]{0,200}$")] = "main"
    """A commit (40 hex), a branch or a tag."""
    gated: bool = False
    """The repository is gated or private: HF_TOKEN is sent for it."""
    allow: Annotated[list[str], Field(min_length=1)] = ["*"]
    """Which files: patterns, as huggingface_hub's `allow_patterns`."""
    ignore: list[str] = []
    """Which of those are left out: patterns, as `ignore_patterns`."""
    links: dict[RepositoryPath, ModelLink] = {}
    """Path in the repository -> `<folder>/<name>` below `<data_root>/models`, where services see it."""
    sha256: dict[RepositoryPath, Sha256] = {}
    """Path -> hash, where somebody has checked it; another file is refused."""
    licence: str = ""
    """A note, with the page where it is accepted."""

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
    DNS server."""

    subnet: Subnet
    """Its addresses."""
    egress: bool = False
    """Its containers reach what lies behind the host (the internet, the LAN), not the host itself."""


class Install(Entry):
    """Software that a script makes once on the host, in a one-shot container; shared read-only by the services that
    name it.

    The script makes its things in /app and ends with a stamp (`.gpuhost/installed.json`, whose first field is the spec
    that it was given as INSTALL_SPEC).
    What it takes from the network is told by the names of its variables, from which `gpuhost lock` resolves its
    packages: `X_URL` and `X_REF`, a git repository, whose requirements.txt counts, and its commit; `X_INDEX_URL` and
    `X_PACKAGES`, a package index and pins that come from it; `EXTRA_REQUIREMENTS`, lines of a requirements file; a
    line of name, URL and commit in any of them, one more repository. When they are locked, the file is at
    REQUIREMENTS_LOCK.
    """

    version: Name
    """Which version it is: each has a folder of its own on the host."""
    script: str
    """A file under `files/`, run by bash in `image`."""
    image: Name
    """Entry of `images` in which the script runs, and the services that name the install."""
    environment: dict[EnvName, str] = {}
    """What the script reads."""
    memory: Size = "8g"
    """Most memory of the one-shot container."""
    cpus: float = Field(default=4, gt=0)
    """Most cores of it."""
    pids: int = Field(default=1024, ge=1)
    """Most processes and threads of it."""


class Health(Entry):
    """The container's own health check and the time it gets to become healthy."""

    path: Annotated[str, StringConstraints(pattern=r"^/")] | None = None
    """A GET inside the container must answer 200; where `auth` locks the path, its first open one is asked instead."""
    command: list[str] | None = None
    """An argv, for what is no such question. It or `path`, not both."""
    interval_s: int = Field(ge=1)
    """Seconds between two checks."""
    timeout_s: int = Field(ge=1)
    """Seconds that a check may take."""
    retries: int = Field(ge=1)
    """Failures in a row until it is unhealthy."""
    start_budget_s: int = Field(ge=1)
    """Seconds that it gets to become healthy."""

    @model_validator(mode="after")
    def _one_of_two(self) -> Health:
        if (self.path is None) == (not self.command):
            refuse("a health check is either a `path` or a `command`", "give one of the two")
        return self


class LockedRequest(Entry):
    """A request that a stranger might make and that must be refused. Choose one that does no harm where it is not, such
    as the change of a file that cannot be: verification makes it at every run, without a body."""

    method: Literal["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"]
    """HTTP method."""
    path: UrlPath
    """Path, as it is sent."""
    headers: dict[str, str] = {}
    """Headers, as they are sent."""


class Auth(Entry):
    """How a service refuses strangers, from which verification makes its questions."""

    token: EnvName
    """The secret that is sent as `Authorization: Bearer`."""
    switch: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9]*(_[a-z0-9]+)+$")] | None = None
    """A field of the data beside `services`; where that is False the service refuses nobody, and has no files for
    it."""
    locked_paths: list[UrlPath] = Field(min_length=1)
    """Asked without a token, with a wrong one, and with an empty one where there is a `token_parameter`: 401; with the
    right one: 200."""
    locked_requests: list[LockedRequest] = []
    """Made as they stand: 401."""
    open_paths: list[UrlPath] = []
    """Answer 200 to everybody."""
    token_parameter: str | None = None
    """Name of a query parameter that takes the token, too."""


class Probe(Entry):
    """One request through the published port and the answer that proves that the service does its work."""

    name: str
    """How it is called in a verdict."""
    path: UrlPath
    """Path of the request. Where the service has `auth`, the token is sent to every path but the open ones."""
    method: Literal["GET", "POST"] = "GET"
    """HTTP method."""
    headers: dict[str, str] = {}
    """Further headers."""
    body: dict[str, Any] | None = None
    """JSON to send."""
    expect_status: int = 200
    """The status that it must have."""
    json_has: dict[str, Any] | None = None
    """A part that its JSON must have."""
    contains: str | None = None
    """A text that it must hold."""


class Seed(Entry):
    """A file that is made once for a service, and then its own."""

    text: str
    """What is in it, with marks such as `{random_key}` and `{now}`."""
    renew_with: EnvName | None = None
    """A secret; when that has another value, the file is made anew and the service restarted."""


class GpuNeed(Entry):
    """The GPUs that a service uses."""

    count: int = Field(ge=1)
    """How many; several are of one model."""
    vram_mib: int | None = Field(default=None, ge=1)
    """Most memory that it takes on each, MiB; None: nobody has measured it."""
    vram_least_mib: int | None = Field(default=None, ge=1)
    """With so much it works, too, when it has a smaller card for itself, MiB: it keeps in the host's memory what does
    not fit."""

    @model_validator(mode="after")
    def _least_is_not_most(self) -> GpuNeed:
        if self.vram_least_mib is not None and (self.vram_mib is None or self.vram_least_mib > self.vram_mib):
            refuse("`vram_least_mib` is what it makes do with, and no more than `vram_mib`", "give `vram_mib` as well")
        return self


class TestLimits(Entry):
    """What a service gets in the place of its own with `profile = "test"`; None: the same."""

    memory: Size | None = None
    """In the place of `memory`."""
    cpus: float | None = Field(default=None, gt=0)
    """In the place of `cpus`."""
    shm: Size | None = None
    """In the place of `shm`."""


class GpuCheck(Entry):
    """The proof that containers reach the GPUs."""

    image: Name
    """Entry of `images` that has `python3`."""
    source: str
    """A file under `files/` that is run in it and computes on each GPU."""
    timeout_s: int = Field(default=120, ge=1)
    """Seconds that each of its questions gets."""


class Service(Entry):
    """One container: everything that concerns it comes from this entry and its template."""

    stack: StackName
    """The compose project, and so the compose file, that it belongs to."""
    image: Name
    """Entry of `images`."""
    template: str
    """File under `templates/` that gives its part of the compose file."""
    account: Account
    """Its own: it runs as it, and the account owns what the service writes."""
    port: Port
    """Port of the host on which it is published."""
    container_port: Port
    """Port on which it listens in its container."""
    bind: Address = "127.0.0.1"
    """Address of the host on which it is published; beyond loopback only with `auth`."""
    network: Name
    """Entry of `networks`; two services that name the same one reach each other."""
    memory: Size
    """Most memory; there is no swap beyond it."""
    memory_least: Size | None = None
    """A host with less memory cannot run it, and all that always run together want the sum of theirs."""
    cpus: float = Field(gt=0)
    """Most cores."""
    pids: int = Field(default=1024, ge=1)
    """Most processes and threads."""
    open_files: int = Field(default=65536, ge=64)
    """Most open files of each process."""
    shm: Size | None = None
    """Size of /dev/shm."""
    tmp: Size | None = None
    """Size of a /tmp in memory, which counts as memory of the service; None: it has no /tmp to write to."""
    gpu: GpuNeed | None = None
    """The GPUs that it wants for its work; None: none."""
    all_gpus: bool = False
    """It sees every GPU, for reading its state only (NVML); it runs where there is none, too."""
    controls_services: bool = False
    """It may ask for the state of our containers, and start and stop them (hostside/broker.py)."""
    init: bool = False
    """A process of Docker's own reaps what the service leaves behind."""
    install: Name | None = None
    """Entry of `installs` that is mounted read-only at /app."""
    folders: list[FileName] = []
    """Folders that are made for it in its data folder."""
    seeds: dict[FileName, Seed] = {}
    """Files that are made once and then belong to it."""
    config_files: dict[FileName, str] = {}
    """File -> template; read-only in the container."""
    shipped_files: dict[FileName, str] = {}
    """File -> what it is below `files/`, given as it is beside them."""
    options: dict[str, Any] = {}
    """For the template, and for marks in arguments."""
    arguments: list[str] = []
    """Added to its command."""
    models: list[Name] = []
    """Entries of `models` that it needs: fetched where it is enabled."""
    auth: Auth | None = None
    """How it refuses strangers; None: it does not."""
    secrets: list[EnvName] = []
    """What its environment may hold."""
    secret_files: dict[FileName, str] = {}
    """File in its secret folder -> text that names secrets as `{NAME}`."""
    environment: dict[EnvName, str] = {}
    """Further variables; no secrets."""
    health: Health
    """The health check of its container."""
    probes: list[Probe] = []
    """What `verify` asks beside the questions of `auth`."""
    start: Literal["always", "on-demand"] = "always"
    """An `on-demand` service is made and not started; whether it runs is then nobody's concern."""
    start_order: int = 100
    """Lower starts first."""
    stop_timeout_s: int = Field(default=30, ge=1)
    """Seconds that it may take to stop before it is killed."""
    log_size: Size = "10m"
    """How long Docker's log of it gets."""
    log_files: int = Field(default=3, ge=1)
    """How many such logs are kept."""
    test: TestLimits = TestLimits()
    """Its limits with `profile = "test"`."""

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
    """What one host should be: the whole of its `group_data`."""

    engine_source: Literal["docker", "distro"]
    """Docker's own apt repository, or the packages of Debian (13 or later) or Ubuntu."""
    engine_packages: dict[Literal["docker", "debian", "ubuntu"], list[str]]
    """Packages of the engine, by source and distribution."""
    engine_config: dict[str, Any]
    """Keys of /etc/docker/daemon.json that are ours; every other key in the file stays as it is. One that is dropped
    here is taken out there where gpuhost wrote it and nobody has changed it since; `runtimes` stay."""
    apt_repositories: dict[Literal["docker", "nvidia"], AptRepository]
    """Where the engine and NVIDIA's toolkit come from."""
    apt_key_fingerprints: dict[Literal["docker", "nvidia"], Fingerprint]
    """Fingerprints of their signing keys."""
    engine_version: Annotated[str, StringConstraints(pattern=r"^\d+\.\d+\.\d+$")] | None = None
    """Docker's own packages in this version, held; None: what is there, or the newest."""
    driver: Annotated[str, StringConstraints(pattern=r"^\d{3}$")] | None = None
    """Branch of NVIDIA's driver that is installed where a host has a card and no driver; None: the driver is yours."""
    driver_packages: dict[Literal["debian", "ubuntu"], list[str]] = {}
    """The driver's packages; `{branch}` and `{arch}` are filled in."""
    allow_reboot: bool = False
    """The host is rebooted when a driver was installed that cannot be loaded otherwise."""
    gpu_access: Literal["auto", "cdi", "runtime"] = "auto"
    """How containers get GPUs: by CDI, by the nvidia runtime, or by CDI where the Docker that runs has it."""
    gpu_check: GpuCheck | None = None
    """The proof that containers reach the GPUs; None: there is none."""
    nvidia_toolkit_version: Annotated[str, StringConstraints(pattern=r"^\d+\.\d+\.\d+-\d+$")]
    """Version of the four packages of the NVIDIA Container Toolkit, held."""
    base_packages: list[str]
    """Packages of the distribution that every host gets."""
    data_root: HostPath
    """Models, caches, outputs, installs, stacks."""
    tools_root: HostPath
    """Our programs, their venv, contexts of images."""
    state_root: HostPath
    """Stamps, manifests, backups."""
    data_mount: HostPath | None = None
    """Nothing is done while nothing is mounted there; None: not looked at."""
    disk_min_free_gib: float = Field(ge=0)
    """With less free space nothing is started."""
    memory_min_gib: float = Field(ge=0)
    """A host with less memory is refused."""
    account: Account
    """Owns models and installs; no service runs as it."""
    networks: dict[Name, Network]
    """Docker networks."""
    secrets_dir: str
    """Folder of the files of secrets, beside the inventory."""
    secrets: dict[EnvName, Secret]
    """Every secret, without its value."""
    images: dict[Name, Image]
    """Every image, built or pulled."""
    allowed_images: list[str] = []
    """Repositories that images come from (`gpuhost check`)."""
    models: dict[Name, Model]
    """Every model; those are fetched that an enabled service names."""
    hub_endpoint: str = "https://huggingface.co"
    """The Hugging Face Hub, or a mirror of it."""
    share_models: bool = True
    """Several hosts in a run take a model from the first one that has it."""
    installs: dict[Name, Install]
    """What a script installs once on the host."""
    services: dict[ServiceName, Service]
    """Every service that a host could run."""
    enabled_services: list[ServiceName]
    """Those that it runs."""
    profile: Literal["test"] | None = None
    """`test`: networks in 172.25.0.0/16, limits for tests, nothing starts by itself."""
    switched_off: list[str] = []
    """The fields that an `auth.switch` names and that are False: write such a field itself, not this one."""
    expose: list[ServiceName] = []
    """Services whose ports are bound to every address of the host; each needs `auth`."""
    verify_window_s: float = Field(gt=0)
    """Seconds during which restart counts must stand still."""

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
