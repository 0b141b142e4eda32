"""The types of `group_data/`: what a host should be, validated once, before any host is contacted.

Every model refuses unknown fields. Cross references (a service that names an image, a model, a secret, a network,
another service's port) are checked on the whole catalogue. Errors become `Problem`s that name the file, the field
and what to do.
"""

from __future__ import annotations

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

from gpuhost.catalog.checks import check
from gpuhost.catalog.messages import explain, refuse
from gpuhost.errors import UserError
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
    return path


Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,62}$")]
EnvName = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]*$")]
HostPath = Annotated[str, AfterValidator(_absolute)]
Port = Annotated[int, Field(ge=1, le=65535)]
Size = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]*[kmg]b?$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Fingerprint = Annotated[str, StringConstraints(pattern=r"^[0-9A-F]{40}$")]


class Entry(BaseModel):
    """Base of all: immutable, no unknown field, no silent conversion of types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class AptRepository(Entry):
    """An apt source with its signing key. URLs may hold `{os}` (debian, ubuntu) and `{suite}` (trixie, noble)."""

    url: str
    suites: str
    components: str = ""
    key_url: str


class Account(Entry):
    """The unprivileged account that owns the data and runs the services; ids are fixed so that images can name them."""

    name: Name
    uid: int = Field(ge=1000, le=60000)
    gid: int = Field(ge=1000, le=60000)


class Secret(Entry):
    """One secret. `generate`: how it comes to be when no source has it; None = only the operator can give it.

    `derive_from`: for `bcrypt`, the secret whose value is hashed. `aliases`: other names under which the operator's
    sources may hold the same value; `renew`: for what only the operator can give, how a new value comes to be.
    """

    generate: Literal["token", "password", "bcrypt", "username"] | None = None
    derive_from: EnvName | None = None
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
    """An image pulled by reference: a release tag or a digest, never `latest` or `nightly`."""

    pull: str

    @model_validator(mode="after")
    def _pinned(self) -> PullImage:
        tag = self.pull.rsplit("/", 1)[-1].partition("@")[0].partition(":")[2]
        if "@sha256:" not in self.pull and (tag == "" or "latest" in tag or "nightly" in tag):
            refuse(f"image `{self.pull}` is not pinned", "name a release tag (`:v0.9.2`) or a digest (`@sha256:...`)")
        return self


def _image_kind(value: Any) -> str | None:
    """Which of the two an image is, so that a fault in it is told once, as a fault of that kind."""
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
    """One file of a Hugging Face repository, linked into `models/<folder>/`.

    `revision`: a commit (40 hex) or a branch; `sha256`: hex, when somebody has checked it.
    """

    repo: Annotated[str, StringConstraints(pattern=r"^[\w.-]+/[\w.-]+$")]
    file: str
    folder: Name
    revision: str = "main"
    sha256: Sha256 | None = None


class Checkout(Entry):
    """A git repository at a pinned ref: a 40-hex commit, or a tag."""

    url: str
    ref: str = Field(min_length=1)


class ComfyUI(Entry):
    """One ComfyUI install, shared read-only by the services that name it in `comfyui`.

    `extra_requirements`: lines for pip beside ComfyUI's own, to pin what it leaves open; `login`: ComfyUI-Login, None
    for an install without authentication.
    """

    version: Name
    source: Checkout
    image: Name
    torch_index_url: str
    torch_packages: list[str] = Field(min_length=1)
    extra_requirements: list[str] = []
    login: Checkout | None = None
    extra_nodes: dict[Name, Checkout] = {}


class Health(Entry):
    """The container's own health check (`command` is an argv) and the time it gets to become healthy. Seconds."""

    command: list[str] = Field(min_length=1)
    interval_s: int = Field(ge=1)
    timeout_s: int = Field(ge=1)
    retries: int = Field(ge=1)
    start_budget_s: int = Field(ge=1)


class Probe(Entry):
    """One request through the published port and the answer that proves the service.

    `token`: the secret sent in `Authorization: Bearer`; `json_has`: a subset of the JSON answer.
    """

    name: str
    path: str = Field(pattern=r"^/")
    method: Literal["GET", "POST"] = "GET"
    token: EnvName | None = None
    headers: dict[str, str] = {}
    body: dict[str, Any] | None = None
    expect_status: int = 200
    json_has: dict[str, Any] | None = None
    contains: str | None = None


class Service(Entry):
    """One container: everything that concerns it comes from this entry and its template.

    `memory`, `shm`: limits such as "28g"; `cpus`: cores; `gpus`: how many whole GPUs; `all_gpus`: every GPU for reading
    its state only (NVML); it runs where there is none, too; `docker_socket`: it
    may talk to Docker (that is root on the host); `secrets`: what its environment may hold; `secret_files`:
    file in the service's secret folder -> text that names secrets as `{NAME}`; `start_order`: lower starts first.
    """

    stack: Name
    image: Name
    template: str
    port: Port
    container_port: Port
    bind: Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F.:]+$")] = "127.0.0.1"
    network: Name = "genai"
    memory: Size
    cpus: float = Field(gt=0)
    shm: Size | None = None
    gpus: int = Field(default=0, ge=0)
    all_gpus: bool = False
    docker_socket: bool = False
    comfyui: Name | None = None
    login: bool = False
    models: list[Name] = []
    secrets: list[EnvName] = []
    secret_files: dict[str, str] = {}
    environment: dict[EnvName, str] = {}
    health: Health
    probes: list[Probe] = Field(min_length=1)
    start_order: int = 100

    def secret_names(self) -> set[str]:
        """Every secret that this entry names, wherever it does."""
        probed = {probe.token for probe in self.probes if probe.token}
        return {*self.secrets, *self.secret_file_names(), *probed}

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
    nvidia_toolkit_version: Annotated[str, StringConstraints(pattern=r"^\d+\.\d+\.\d+-\d+$")]
    base_packages: list[str]
    data_root: HostPath
    tools_root: HostPath
    state_root: HostPath
    data_mount: HostPath | None = None
    disk_min_free_gib: float = Field(ge=0)
    memory_min_gib: float = Field(ge=0)
    account: Account
    networks: dict[Name, str]
    secrets_dir: str
    secrets: dict[EnvName, Secret]
    images: dict[Name, Image]
    models: dict[Name, Model]
    hub_endpoint: str = "https://huggingface.co"
    comfyui: dict[Name, ComfyUI]
    services: dict[Name, Service]
    enabled_services: list[Name]
    verify_window_s: float = Field(gt=0)

    @model_validator(mode="after")
    def _whole(self) -> Catalog:
        check(self)
        return self

    def enabled(self) -> dict[str, Service]:
        """The services that this host runs, in start order."""
        chosen = {name: self.services[name] for name in self.enabled_services}
        return dict(sorted(chosen.items(), key=lambda item: (item[1].start_order, item[0])))


def load(data: Mapping[str, Any], file_of: Callable[[str], str] = lambda key: "group_data") -> Catalog:
    """Validate a host's data. `file_of` tells which file defines a top-level key, for the messages.

    Raises UserError with one problem per fault.
    """
    try:
        return Catalog.model_validate(dict(data))
    except ValidationError as error:
        raise UserError(*(explain(detail, file_of, Catalog) for detail in error.errors())) from None
