"""What must hold across the entries of a catalogue: names that exist, ports and networks apart, versions. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, get_args

from gpuhost.catalog.messages import refuse
from gpuhost.errors import suggest
from gpuhost.project import PROJECT

if TYPE_CHECKING:
    from gpuhost.catalog.types import Account, Catalog

SEED_MARKS = {"random_key", "now"}  # what stands in their place: services/operations.py
LABEL_KEY = "LABEL_HMAC_KEY"  # the secret with which fingerprints of secret values are keyed


def check(catalog: Catalog) -> None:
    """Raises PydanticCustomError, with a hint in its context, for the first thing that does not fit."""
    for rule in (
        _complete,
        _engine,
        _ports,
        _variables,
        _accounts,
        _networks,
        _names,
        _broker,
        _toolkit,
        _auth,
        _seeds,
        _shipped,
        _commits,
        _models,
        _environments,
        _passwords,
    ):
        rule(catalog)


def _complete(catalog: Catalog) -> None:
    """A site can take entries away (`None`), but not those that the stages need."""
    for field in ("engine_packages", "apt_repositories", "apt_key_fingerprints"):
        for key in get_args(get_args(type(catalog).model_fields[field].annotation)[0]):
            if key not in getattr(catalog, field):
                refuse(f"`{field}` lacks `{key}`", f"copy `{key}` from gpuhost's own group_data/all.py")
    if LABEL_KEY not in catalog.secrets:
        refuse(f"`secrets` lacks `{LABEL_KEY}`", f"copy `{LABEL_KEY}` from gpuhost's own group_data/all.py")


def _engine(catalog: Catalog) -> None:
    if catalog.engine_version and catalog.engine_source == "distro":
        refuse(
            "`engine_version` chooses among the versions of Docker's own repository",
            'leave it out, or set `engine_source = "docker"`',
        )
    if catalog.driver and set(catalog.driver_packages) != {"debian", "ubuntu"}:
        refuse("`driver_packages` lacks `debian` or `ubuntu`", "copy it from gpuhost's own group_data/all.py")
    if catalog.gpu_check and catalog.gpu_check.image not in catalog.images:
        refuse(
            f"`gpu_check.image`: there is no image `{catalog.gpu_check.image}`",
            suggest(catalog.gpu_check.image, list(catalog.images), "image"),
        )
    if catalog.gpu_check and not (PROJECT / "files" / catalog.gpu_check.source).is_file():
        refuse(f"`gpu_check.source`: there is no file `{catalog.gpu_check.source}` in files/", "name one that is there")


def _ports(catalog: Catalog) -> None:
    owner: dict[int, str] = {}
    for name, service in catalog.services.items():
        if service.port in owner:
            refuse(
                f"`services.{name}.port`: host port {service.port} is already used by `{owner[service.port]}`",
                "give one of them another port",
            )
        owner[service.port] = name


def _broker(catalog: Catalog) -> None:
    """Its socket has one group."""
    found = [name for name in catalog.enabled_services if catalog.services[name].controls_services]
    if len(found) > 1:
        refuse(
            f"`services.{found[1]}.controls_services`: `{found[0]}` controls the services of this host already",
            "leave it to one of the enabled services",
        )


def _accounts(catalog: Catalog) -> None:
    """What one service writes, no other one may touch: each runs as an account of its own."""
    accounts = {"account": catalog.account}
    accounts |= {f"services.{name}.account": service.account for name, service in catalog.services.items()}
    for field in ("name", "uid", "gid"):
        owner: dict[Any, str] = {}
        for where, account in accounts.items():
            taken = getattr(account, field)
            if taken in owner:
                refuse(
                    f"`{where}`: the {field} {taken} is that of `{owner[taken]}`, too",
                    "give each service an account of its own"
                    if field == "name"
                    else f"give each service ids of its own, such as {free_id(accounts.values())}",
                )
            owner[taken] = where


def free_id(accounts: Iterable[Account], taken: Iterable[int] = ()) -> int:
    """An id that neither these accounts nor anybody else has."""
    used = {number for account in accounts for number in (account.uid, account.gid)} | set(taken)
    return next(number for number in range(10001, 60001) if number not in used)


def _variables(catalog: Catalog) -> None:
    """In an env file each name says one thing: those of two services and of the secrets stay apart."""
    owner = {name: f"the secret `{name}`" for name in catalog.secrets}
    for service in catalog.services:
        for name in variable_names(service):
            if name in owner:
                refuse(
                    f"`services.{service}`: its variable {name} is that of {owner[name]}, too",
                    "give the service another name",
                )
            owner[name] = f"the service `{service}`"


def variable_names(service: str) -> tuple[str, str, str]:
    """The names of a service's port, memory limit and CPU limit in `.env.docker`: `COMFYUI_QWEN_PORT`, ..."""
    prefix = service.upper().replace("-", "_").replace(".", "_")
    return f"{prefix}_PORT", f"{prefix}_MEMORY_LIMIT", f"{prefix}_CPU_LIMIT"


def _networks(catalog: Catalog) -> None:
    seen: dict[str, Any] = {}
    for name, entry in catalog.networks.items():
        network = ipaddress.ip_network(entry.subnet)
        for other, taken in seen.items():
            if network.overlaps(taken):
                refuse(f"`networks.{name}`: {network} overlaps `{other}` ({taken})", "choose subnets apart")
        seen[name] = network


def _names(catalog: Catalog) -> None:
    for where, name, known, kind in _references(catalog):
        if name not in known:
            refuse(f"`{where}` names the {kind} `{name}`, which does not exist", suggest(name, known, kind))


def _references(catalog: Catalog) -> list[tuple[str, str, list[str], str]]:
    """(field, name, names that exist, kind) of every name that must exist elsewhere."""
    secrets = list(catalog.secrets)
    found = [("enabled_services", name, list(catalog.services), "service") for name in catalog.enabled_services]
    found += [("expose", name, list(catalog.services), "service") for name in catalog.expose]
    for key, secret in catalog.secrets.items():
        if secret.derive_from:
            found.append((f"secrets.{key}.derive_from", secret.derive_from, secrets, "secret"))
    for key, install in catalog.installs.items():
        found.append((f"installs.{key}.image", install.image, list(catalog.images), "image"))
    for key, service in catalog.services.items():
        where = f"services.{key}"
        found.append((f"{where}.image", service.image, list(catalog.images), "image"))
        found.append((f"{where}.network", service.network, list(catalog.networks), "network"))
        found += [(f"{where}.models", name, list(catalog.models), "model") for name in service.models]
        found += [(f"{where}.secrets", name, secrets, "secret") for name in service.secrets]
        found += [(f"{where}.secret_files", name, secrets, "secret") for name in sorted(service.secret_file_names())]
        found += [
            (f"{where}.seeds.{file}.renew_with", seed.renew_with, secrets, "secret")
            for file, seed in service.seeds.items()
            if seed.renew_with
        ]
        if service.auth:
            found.append((f"{where}.auth.token", service.auth.token, secrets, "secret"))
        if service.install:
            found.append((f"{where}.install", service.install, list(catalog.installs), "install"))
    return found


def _toolkit(catalog: Catalog) -> None:
    version = tuple(int(part) for part in catalog.nvidia_toolkit_version.partition("-")[0].split("."))
    if version < (1, 18, 0):
        refuse(
            f"`nvidia_toolkit_version`: {catalog.nvidia_toolkit_version} is too old "
            "(below 1.17.8 is open to CVE-2025-23266, below 1.18 has no CDI by default)",
            "use `1.20.0-1`",
        )


def _auth(catalog: Catalog) -> None:
    """A service that the network reaches refuses strangers; a health check never carries a token."""
    for name, service in catalog.services.items():
        if name in catalog.expose and (service.auth is None or service.auth.switch in catalog.switched_off):
            refuse(
                f"`expose` names `{name}`, which has no `auth`: everybody in the network could use it",
                "reach it by `ssh -L`, or give it `auth`",
            )
        if service.auth is None:
            if not ipaddress.ip_address(service.bind).is_loopback:
                refuse(
                    f"`services.{name}.bind`: {service.bind} is open to the network, and the service has no `auth`",
                    "bind it to 127.0.0.1 and reach it by `ssh -L`, or give it `auth`",
                )
        elif service.health.path in service.auth.locked_paths and not service.auth.open_paths:
            refuse(
                f"`services.{name}.health.path`: {service.health.path} needs the token, and no path is open",
                "name one in `auth.open_paths`, or write the check as a `command`",
            )
        if service.auth is None and not service.probes:
            refuse(
                f"`services.{name}` has neither `probes` nor `auth`: nothing would prove that it answers",
                "add a probe: a path and what its answer holds",
            )


def _seeds(catalog: Catalog) -> None:
    for name, service in catalog.services.items():
        for file, seed in service.seeds.items():
            unknown = set(re.findall(r"\{(.*?)\}", seed.text)) - SEED_MARKS
            if unknown:
                refuse(
                    f"`services.{name}.seeds.{file}.text` has the mark `{{{min(unknown)}}}`, which gpuhost does not "
                    "know",
                    f"there is: {', '.join(f'`{{{mark}}}`' for mark in sorted(SEED_MARKS))}",
                )


def _shipped(catalog: Catalog) -> None:
    """What a template makes, and what is shipped as it is, lies in one folder."""
    for name, service in catalog.services.items():
        for file in sorted(service.shipped_files.keys() & service.config_files.keys()):
            refuse(
                f"`services.{name}.shipped_files.{file}`: `config_files` makes a file of that name, too",
                "give one of them another name",
            )


def _commits(catalog: Catalog) -> None:
    """A tag or a branch can be moved to other code, between a plan and its apply, too."""
    for name, install in catalog.installs.items():
        for key, value in install.environment.items():
            if key.endswith("_REF") and not re.fullmatch(r"[0-9a-f]{40}", value):
                url = install.environment.get(f"{key.removesuffix('_REF')}_URL", "URL")
                refuse(
                    f"`installs.{name}.environment.{key}`: `{value}` is no commit, and may be another one tomorrow",
                    f"write the 40 digits that `git ls-remote {url} {value}` shows (of a tag those at `^{{}}`)",
                )


def _models(catalog: Catalog) -> None:
    """Two models under one path would replace each other at every run; a token travels encrypted."""
    owner: dict[str, str] = {}
    for name, model in catalog.models.items():
        for link in model.links.values():
            if link in owner:
                refuse(
                    f"`models.{name}.links`: `{owner[link]}` already lies at {link}", "give one of them another name"
                )
            owner[link] = name
        if model.gated and not catalog.hub_endpoint.startswith("https://"):
            refuse(
                f"`models.{name}` is gated, and `hub_endpoint` is not an https address: no token is sent there",
                "give a hub that is reached by https",
            )


def _environments(catalog: Catalog) -> None:
    """A name stands once in an environment."""
    for name, service in catalog.services.items():
        for key in sorted(service.environment.keys() & set(service.secrets)):
            refuse(
                f"`services.{name}.environment.{key}` is a secret of the service, too",
                "keep it in `secrets` alone",
            )


def _passwords(catalog: Catalog) -> None:
    """Compose labels a container with an unkeyed hash over its environment: only long random values go there."""
    for name, service in catalog.services.items():
        for secret in service.secrets:
            if catalog.secrets[secret].generate in ("password", "bcrypt"):
                refuse(
                    f"`services.{name}.secrets` names `{secret}`: a password does not belong in an environment",
                    "write it as a file: `secret_files`",
                )
