"""What must hold across the entries of a catalogue: names that exist, ports and networks apart, versions. Pure."""

from __future__ import annotations

import ipaddress
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, get_args

from gpuhost.catalog.messages import refuse, suggest

if TYPE_CHECKING:
    from gpuhost.catalog.types import Catalog

LABEL_KEY = "LABEL_HMAC_KEY"  # the secret with which fingerprints of secret values are keyed


def check(catalog: Catalog) -> None:
    """Raises PydanticCustomError, with a hint in its context, for the first thing that does not fit."""
    for rule in (_complete, _ports, _networks, _names, _toolkit, _logins, _models, _passwords):
        rule(catalog)


def _complete(catalog: Catalog) -> None:
    """A name that replaces these replaces them whole: each must still have all that stages look up in it."""
    for field in ("engine_packages", "apt_repositories", "apt_key_fingerprints"):
        for key in get_args(get_args(type(catalog).model_fields[field].annotation)[0]):
            if key not in getattr(catalog, field):
                refuse(f"`{field}` lacks `{key}`", f"copy `{key}` from gpuhost's own group_data/all.py")
    if LABEL_KEY not in catalog.secrets:
        refuse(f"`secrets` lacks `{LABEL_KEY}`", f"copy `{LABEL_KEY}` from gpuhost's own group_data/all.py")


def _ports(catalog: Catalog) -> None:
    owner: dict[int, str] = {}
    for name, service in catalog.services.items():
        if service.port in owner:
            refuse(
                f"`services.{name}.port`: host port {service.port} is already used by `{owner[service.port]}`",
                f"give `{name}` another port",
            )
        owner[service.port] = name


def _networks(catalog: Catalog) -> None:
    seen: dict[str, Any] = {}
    for name, subnet in catalog.networks.items():
        try:
            network = ipaddress.ip_network(subnet)
        except ValueError as error:
            refuse(f"`networks.{name}`: {error}", "write a subnet such as `172.20.0.0/16`")
        for other, taken in seen.items():
            if network.overlaps(taken):
                refuse(f"`networks.{name}`: {subnet} overlaps `{other}` ({taken})", "choose subnets apart")
        seen[name] = network


def _names(catalog: Catalog) -> None:
    for where, name, known, kind in _references(catalog):
        if name not in known:
            refuse(f"`{where}` names the {kind} `{name}`, which does not exist", suggest(name, known, kind))


def _references(catalog: Catalog) -> list[tuple[str, str, list[str], str]]:
    """(field, name, names that exist, kind) of every name that must exist elsewhere."""
    found = [("enabled_services", name, list(catalog.services), "service") for name in catalog.enabled_services]
    for key, secret in catalog.secrets.items():
        if secret.derive_from:
            found.append((f"secrets.{key}.derive_from", secret.derive_from, list(catalog.secrets), "secret"))
    for key, install in catalog.comfyui.items():
        found.append((f"comfyui.{key}.image", install.image, list(catalog.images), "image"))
    for key, service in catalog.services.items():
        where = f"services.{key}"
        found += [(f"{where}.image", service.image, list(catalog.images), "image")]
        found += [(f"{where}.network", service.network, list(catalog.networks), "network")]
        found += [(f"{where}.models", name, list(catalog.models), "model") for name in service.models]
        named = {"secrets": service.secrets, "secret_files": sorted(service.secret_file_names())}
        named["probes"] = [probe.token for probe in service.probes if probe.token]
        for field, names in named.items():
            found += [(f"{where}.{field}", name, list(catalog.secrets), "secret") for name in names]
        if service.comfyui:
            found.append((f"{where}.comfyui", service.comfyui, list(catalog.comfyui), "ComfyUI install"))
    return found


def _toolkit(catalog: Catalog) -> None:
    version = tuple(int(part) for part in catalog.nvidia_toolkit_version.partition("-")[0].split("."))
    if version < (1, 18, 0):
        refuse(
            f"`nvidia_toolkit_version`: {catalog.nvidia_toolkit_version} is too old "
            "(below 1.17.8 is open to CVE-2025-23266, below 1.18 has no CDI by default)",
            "use `1.20.0-1`",
        )


def _logins(catalog: Catalog) -> None:
    for name, service in catalog.services.items():
        install = catalog.comfyui.get(service.comfyui) if service.comfyui else None
        if service.login and (install is None or install.login is None):
            refuse(
                f"`services.{name}.login`: the service names no ComfyUI install with a login",
                "name one in `comfyui` whose entry has `login`, or set `login` to False",
            )


def _models(catalog: Catalog) -> None:
    """Two models in one place would take it from each other at every run."""
    owner: dict[tuple[str, str], str] = {}
    for name, model in catalog.models.items():
        place = (model.folder, PurePosixPath(model.file).name)
        if place in owner:
            refuse(
                f"`models.{name}`: `{owner[place]}` already lies at {'/'.join(place)}",
                "give one of them another `folder`",
            )
        owner[place] = name


def _passwords(catalog: Catalog) -> None:
    """Compose labels a container with an unkeyed hash over its environment: only long random values go there."""
    for name, service in catalog.services.items():
        for secret in service.secrets:
            if catalog.secrets[secret].generate in ("password", "bcrypt"):
                refuse(
                    f"`services.{name}.secrets` names `{secret}`: a password does not belong in an environment",
                    "write it as a file: `secret_files`",
                )
