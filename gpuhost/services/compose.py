"""A service's spec: what its container is made from, read from the compose file that is rendered for it. Pure.

The stamp in the label `gpuhost.spec` is this spec. Secrets stand in it as keyed fingerprints; a comment in a template,
the order of its keys and the labels for people are no part of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from gpuhost import yaml_text
from gpuhost.engine.containers import (
    AS_WRITTEN,
    CDI,
    NAMESPACES,
    UNLIMITED,
    Container,
    shared,
    size_bytes,
    size_text,
    swap_text,
)
from gpuhost.plan.change import Difference
from gpuhost.plan.spec import Spec, differences
from gpuhost.services.forms import normal
from hostside import labels

# compose's name of a field -> ours, which is the one in the catalogue
_NAMES = {
    "mem_limit": "memory",
    "pids_limit": "pids",
    "shm_size": "shm",
}
# Labels of which a container may keep an old value: nothing that runs depends on them.
_IGNORED_LABELS = {labels.MODELS, labels.SPEC}

# Docker's value of a field that the compose file leaves out.
_DEFAULTS: dict[str, Any] = {
    **{name: default for name, (_, default) in AS_WRITTEN.items()},
    "restart": "no",
    "memory": "0",
    "mem_reservation": "0",
    "cpus": "0",
    "pids": 0,
    "read_only": False,
    "init": False,
    "namespaces": [],
    "devices": [],
    "privileged": False,
    "cap_add": [],
    "cap_drop": [],
    "security_opt": [],
    "group_add": [],
    "tmpfs": [],
    "dns": [],
    "extra_hosts": [],
    "sysctls": {},
    "networks": [],
    "ports": [],
    "gpus": [],
    "volumes": {},
}
# What a container has of its image, unless somebody asks otherwise.
_OF_IMAGE = ("user", "command", "entrypoint", "working_dir", "stop_signal", "healthcheck")
# daemon.json has defaults for some: a container then shows what nobody asked for.
_COMPARED_WHEN_ASKED = ("image", *_OF_IMAGE, "runtime", "shm", "swap", "ulimits", "logging")


def of_compose(
    fragment: str,
    variables: Mapping[str, str],
    files: Mapping[str, str],
    secret_files: Mapping[str, str],
    fingerprints: Mapping[str, str | None],
) -> dict[str, Any]:
    """The spec of the one service in a compose fragment.

    `variables`: name -> value of what is no secret; `files`: path -> digest of what its process reads at its start;
    `secret_files`: file -> template; `fingerprints`: secret -> of its value, None while it is still to be generated.
    """
    [(name, compose)] = yaml_text.read(fragment).items()
    resolved = {key: _resolved(value, variables) for key, value in compose.items()}
    made = {_NAMES.get(key, key): value for key, value in normal(resolved).items()}
    if "memswap_limit" in made:
        made["swap"] = swap_text(*(size_bytes(str(made[key])) for key in ("memory", "memswap_limit")))
        del made["memswap_limit"]
    for field in ("memory", "mem_reservation", "shm"):
        if field in made:
            made[field] = size_text(size_bytes(str(made[field])))
    made["namespaces"] = sorted(name for name in NAMESPACES if shared(made.pop(name, "")))
    if "cpus" in made:
        made["cpus"] = f"{float(made['cpus']):g}"
    made["labels"] = {key: text for key, text in made.get("labels", {}).items() if key not in _IGNORED_LABELS}
    made["volumes"] = {each["target"]: _volume(each) for each in made.get("volumes", [])}
    made["gpus"] = _gpus(made.pop("deploy", {}))
    return {
        "name": name,
        **made,
        "files": dict(files),
        "secret_files": dict(secret_files),
        "secrets": dict(fingerprints),
    }


def changed_settings(spec: Spec, container: Container) -> tuple[Difference, ...]:
    """What somebody changed of a container since it was made from this spec: a limit, a port, a network, a mount."""
    wanted = {**_DEFAULTS, **_of_image(spec, container), **spec}
    fields = [*_DEFAULTS, *(field for field in _COMPARED_WHEN_ASKED if field in wanted)]
    seen: dict[str, Any] = {field: container.settings.get(field) for field in fields}
    if seen.get("swap") == UNLIMITED:  # what Docker makes of any limit on a kernel that does not count swap
        seen["swap"] = wanted["swap"]
    # A volume or a tmpfs is no folder of the host.
    wanted["volumes"] = {at: source for at, source in wanted["volumes"].items() if source.startswith("/")}
    if "ulimits" in spec:
        seen["ulimits"] = {name: limits for name, limits in seen["ulimits"].items() if name in spec["ulimits"]}
    if "logging" in spec:
        asked = spec["logging"].get("options", {})
        kept = {key: text for key, text in seen["logging"]["options"].items() if key in asked}
        seen["logging"] = {**seen["logging"], "options": kept}
    if "healthcheck" in spec:
        seen["healthcheck"] = {
            key: seen["healthcheck"].get(key) if _comparable(asked) else asked
            for key, asked in spec["healthcheck"].items()
        }
    return differences(seen, {field: wanted[field] for field in fields})


def _of_image(spec: Spec, container: Container) -> dict[str, Any]:
    """What the container should have of its image. An image's command belongs to its own entrypoint."""
    return {**container.image_settings, **({"command": []} if spec.get("entrypoint") else {})}


def _comparable(asked: Any) -> bool:
    """True for a field of a health check that is written as containers.py writes it: compose has more ways."""
    return not isinstance(asked, str) or re.fullmatch(r"\d+s", asked) is not None


def environment_of(spec: Spec) -> dict[str, str | None]:
    """name -> value of each variable that a container of this spec has besides its image's; None for one that holds a
    secret, or whose text only compose knows."""
    return {name: _plain(value) for name, value in (spec.get("environment") or {}).items()}


def _plain(value: Any) -> str | None:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    return value if isinstance(value, str) and not re.search(r"\$\{\w+\}", value) else None


def secret_differences(diff: Sequence[Difference]) -> list[str]:
    """The names of the secrets among the differing fields."""
    return [each.field.removeprefix("secrets.") for each in diff if each.field.startswith("secrets.")]


def _resolved(value: Any, variables: Mapping[str, str]) -> Any:
    """As compose reads it: `${NAME}` is the variable (one that is unknown here, a secret, stays a name), `$$` a `$`."""
    if isinstance(value, str):
        return re.sub(r"\$(\$|\{(\w+)\})", lambda m: "$" if m[1] == "$" else variables.get(m[2], m[0]), value)
    if isinstance(value, Mapping):
        return {key: _resolved(each, variables) for key, each in value.items()}
    if isinstance(value, list):
        return [_resolved(each, variables) for each in value]
    return value


def _volume(volume: Mapping[str, Any]) -> str:
    return f"{volume.get('source', '')}{':ro' if volume.get('read_only') else ''}"


def _gpus(deploy: Mapping[str, Any]) -> list[str]:
    devices = deploy.get("resources", {}).get("reservations", {}).get("devices", [])
    return [name.removeprefix(CDI) for device in devices for name in device["device_ids"]]
