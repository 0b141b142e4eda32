"""The types of `group_data/`: what a host should be, validated once, before any host is contacted.

Every model refuses unknown fields. Cross references (a service that names an image, a model, a secret, a network,
another service's port) are checked on the whole catalogue. Errors become `Problem`s that name the file, the field
and what to do.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, NoReturn, get_args, get_origin

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
from pydantic_core import ErrorDetails, PydanticCustomError

from .errors import Problem, UserError


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
LABEL_KEY = "LABEL_HMAC_KEY"  # the secret with which stamps over secret values are keyed
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
        return {name for text in self.secret_files.values() for name in re.findall(r"\{([A-Z0-9_]+)\}", text)}


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
        self._check_complete()
        self._check_ports()
        self._check_networks()
        self._check_references()
        self._check_toolkit()
        self._check_logins()
        self._check_models()
        self._check_passwords()
        return self

    def _check_complete(self) -> None:
        """A name that replaces these replaces them whole: each must still have all that stages look up in it."""
        for field in ("engine_packages", "apt_repositories", "apt_key_fingerprints"):
            for key in get_args(get_args(type(self).model_fields[field].annotation)[0]):
                if key not in getattr(self, field):
                    refuse(f"`{field}` lacks `{key}`", f"copy `{key}` from gpuhost's own group_data/all.py")
        if LABEL_KEY not in self.secrets:
            refuse(f"`secrets` lacks `{LABEL_KEY}`", f"copy `{LABEL_KEY}` from gpuhost's own group_data/all.py")

    def _check_ports(self) -> None:
        owner: dict[int, str] = {}
        for name, service in self.services.items():
            if service.port in owner:
                refuse(
                    f"`services.{name}.port`: host port {service.port} is already used by `{owner[service.port]}`",
                    f"give `{name}` another port",
                )
            owner[service.port] = name

    def _check_networks(self) -> None:
        seen: dict[str, Any] = {}
        for name, subnet in self.networks.items():
            try:
                network = ipaddress.ip_network(subnet)
            except ValueError as error:
                refuse(f"`networks.{name}`: {error}", "write a subnet such as `172.20.0.0/16`")
            for other, taken in seen.items():
                if network.overlaps(taken):
                    refuse(f"`networks.{name}`: {subnet} overlaps `{other}` ({taken})", "choose subnets apart")
            seen[name] = network

    def _check_references(self) -> None:
        for where, name, known, kind in self._references():
            if name not in known:
                refuse(f"`{where}` names the {kind} `{name}`, which does not exist", suggest(name, known, kind))

    def _references(self) -> list[tuple[str, str, list[str], str]]:
        """(field, name, names that exist, kind) of every name that must exist elsewhere."""
        found = [("enabled_services", name, list(self.services), "service") for name in self.enabled_services]
        for key, secret in self.secrets.items():
            if secret.derive_from:
                found.append((f"secrets.{key}.derive_from", secret.derive_from, list(self.secrets), "secret"))
        for key, install in self.comfyui.items():
            found.append((f"comfyui.{key}.image", install.image, list(self.images), "image"))
        for key, service in self.services.items():
            where = f"services.{key}"
            found += [(f"{where}.image", service.image, list(self.images), "image")]
            found += [(f"{where}.network", service.network, list(self.networks), "network")]
            found += [(f"{where}.models", name, list(self.models), "model") for name in service.models]
            named = {"secrets": service.secrets, "secret_files": sorted(service.secret_file_names())}
            named["probes"] = [probe.token for probe in service.probes if probe.token]
            for field, names in named.items():
                found += [(f"{where}.{field}", name, list(self.secrets), "secret") for name in names]
            if service.comfyui:
                found.append((f"{where}.comfyui", service.comfyui, list(self.comfyui), "ComfyUI install"))
        return found

    def _check_toolkit(self) -> None:
        version = tuple(int(part) for part in self.nvidia_toolkit_version.partition("-")[0].split("."))
        if version < (1, 18, 0):
            refuse(
                f"`nvidia_toolkit_version`: {self.nvidia_toolkit_version} is too old "
                "(below 1.17.8 is open to CVE-2025-23266, below 1.18 has no CDI by default)",
                "use `1.20.0-1`",
            )

    def _check_logins(self) -> None:
        for name, service in self.services.items():
            install = self.comfyui.get(service.comfyui) if service.comfyui else None
            if service.login and (install is None or install.login is None):
                refuse(
                    f"`services.{name}.login`: the service names no ComfyUI install with a login",
                    "name one in `comfyui` whose entry has `login`, or set `login` to False",
                )

    def _check_models(self) -> None:
        """Two models in one place would take it from each other at every run."""
        owner: dict[tuple[str, str], str] = {}
        for name, model in self.models.items():
            place = (model.folder, PurePosixPath(model.file).name)
            if place in owner:
                refuse(
                    f"`models.{name}`: `{owner[place]}` already lies at {'/'.join(place)}",
                    "give one of them another `folder`",
                )
            owner[place] = name

    def _check_passwords(self) -> None:
        """Compose labels a container with an unkeyed hash over its environment: only long random values go there."""
        for name, service in self.services.items():
            for secret in service.secrets:
                if self.secrets[secret].generate in ("password", "bcrypt"):
                    refuse(
                        f"`services.{name}.secrets` names `{secret}`: a password does not belong in an environment",
                        "write it as a file: `secret_files`",
                    )

    def enabled(self) -> dict[str, Service]:
        """The services that this host runs, in start order."""
        chosen = {name: self.services[name] for name in self.enabled_services}
        return dict(sorted(chosen.items(), key=lambda item: (item[1].start_order, item[0])))


def refuse(what: str, hint: str) -> NoReturn:
    """Refuse a value inside a validator with a sentence and a hint."""
    raise PydanticCustomError("gpuhost", "{what}", {"what": what, "hint": hint})


def suggest(name: str, known: list[str], kind: str) -> str:
    """A hint: the nearest known name, else the list of what there is."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean `{near[0]}`?" if near else f"there is: {', '.join(sorted(known)) or f'no {kind} yet'}"


def load(data: Mapping[str, Any], file_of: Callable[[str], str] = lambda key: "group_data") -> Catalog:
    """Validate a host's data. `file_of` tells which file defines a top-level key, for the messages.

    Raises UserError with one problem per fault.
    """
    try:
        return Catalog.model_validate(dict(data))
    except ValidationError as error:
        raise UserError(*(_problem(detail, file_of) for detail in error.errors())) from None


# How pydantic's kinds of fault read to a person who writes group_data.
_HINTS: dict[str, str] = {
    "missing": "add this field",
    "greater_than_equal": "the least is {ge}",
    "less_than_equal": "the most is {le}",
    "greater_than": "it must be above {gt}",
    "literal_error": "it is one of {expected}",
    "int_type": "write a whole number without quotes",
    "float_type": "write a number without quotes",
    "string_type": "write a text in quotes",
    "bool_type": "write `True` or `False`",
    "list_type": "write a list: `[...]`",
    "dict_type": "write a dict: `{{...}}`",
    "model_type": "write a dict: `{{...}}`",
    "too_short": "give at least {min_length}",
    "string_too_short": "it must not be empty",
}

# What the patterns above ask for, in words.
_FORMS: dict[str, str] = {
    r"^[a-z0-9][a-z0-9_.-]{0,62}$": "small letters, digits, `-`, `_` and `.`",
    r"^[A-Z][A-Z0-9_]*$": "capitals, digits and `_`, as in `HF_TOKEN`",
    r"^[1-9][0-9]*[kmg]b?$": "a whole number and `k`, `m` or `g`, as in `28g`",
    r"^[0-9a-f]{64}$": "64 hex digits in small letters",
    r"^[0-9A-F]{40}$": "40 hex digits in capitals, without spaces",
    r"^[0-9a-fA-F.:]+$": "an IP address, as in `127.0.0.1`",
    r"^[\w.-]+/[\w.-]+$": "`owner/name`",
    r"^\d+\.\d+\.\d+-\d+$": "a full package version, as in `1.20.0-1`",
    r"^/": "a path that begins with `/`",
}


def _problem(detail: ErrorDetails, file_of: Callable[[str], str]) -> Problem:
    # pydantic adds the chosen member of a union, and that a key is meant, to the path: no fields of the user's.
    path = [str(part) for part in detail["loc"] if str(part) not in ("BuildImage", "PullImage", "[key]")]
    context = detail.get("ctx", {})
    if detail["type"] == "gpuhost":
        key = path[0] if path else str(context["what"]).lstrip("`").split("`")[0].split(".")[0]
        where = f"`{'.'.join(path)}`: " if path else ""
        return Problem(f"{file_of(key)}: {where}{detail['msg']}", str(context["hint"]))
    field = ".".join(path)
    if detail["type"] == "extra_forbidden":
        return Problem(
            f"{file_of(path[0])}: `{field}` is not a field that gpuhost knows",
            suggest(path[-1], _fields(detail["loc"]), "field"),
        )
    if detail["type"] == "string_pattern_mismatch":
        what = f"{file_of(path[0])}: `{field}`: `{_short(detail['input'])}` is not of the right form"
        return Problem(what, f"write {_FORMS.get(context['pattern'], context['pattern'])}")
    got = "" if detail["type"] in ("missing", "too_short", "string_too_short") else f", not `{_short(detail['input'])}`"
    what = f"{file_of(path[0])}: `{field}`: {detail['msg'][0].lower()}{detail['msg'][1:]}{got}"
    hint = _HINTS.get(detail["type"], "see group_data/all.py for the form of this field")
    return Problem(what, hint.format(**context))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _fields(location: Sequence[int | str]) -> list[str]:
    """The field names of the model that holds the last part of `location`, pydantic's path to an unknown field."""
    kind: Any = Catalog
    for part in location[:-1]:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            kind = kind.model_fields[str(part)].annotation
        elif get_origin(kind) in (list, dict):
            kind = get_args(kind)[-1]
        else:
            kind = next(member for member in map(_plain, get_args(kind)) if member.__name__ == part)
        kind = _plain(kind)
    return list(kind.model_fields)


def _plain(kind: Any) -> Any:
    """A type without its annotations and its `| None`."""
    while get_origin(kind) is Annotated or type(None) in get_args(kind):
        kind = get_args(kind)[0]
    return kind
