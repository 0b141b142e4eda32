"""The NVIDIA Container Toolkit: its packages and the CDI specification. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import yaml

from gpuhost import yaml_text
from gpuhost.engine.rules import CDI_VERSION, merge, too_old
from gpuhost.gpu.facts import Gpu
from gpuhost.plan.change import Change, Resource

# One version for all four, or apt cannot resolve them.
TOOLKIT = (
    "nvidia-container-toolkit",
    "nvidia-container-toolkit-base",
    "libnvidia-container-tools",
    "libnvidia-container1",
)
_RUNTIME = {"runtimes": {"nvidia": {"args": [], "path": "nvidia-container-runtime"}}}  # as nvidia-ctk writes it
CDI_FILE = "/var/run/cdi/nvidia.yaml"
# Make it at boot and after driver updates; shipped since toolkit 1.18.
REFRESH_UNITS = ("nvidia-cdi-refresh.path", "nvidia-cdi-refresh.service")


def access(asked: Literal["auto", "cdi", "runtime"], engine: str) -> tuple[Literal["cdi", "runtime"], str]:
    """How containers get GPUs, and why. `engine`: version of the Docker that runs, "" when none does yet."""
    least = ".".join(map(str, CDI_VERSION))
    if asked == "runtime":
        return "runtime", '`gpu_access = "runtime"`'
    if asked == "auto" and too_old(engine, CDI_VERSION):
        return "runtime", f"Docker {engine} runs here, CDI needs {least} or later"
    return "cdi", f"Docker {least} or later" if asked == "auto" else '`gpu_access = "cdi"`'


def engine_config(wanted: Mapping[str, Any], way: Literal["cdi", "runtime"], gpus: Sequence[Gpu]) -> Mapping[str, Any]:
    """Our keys of daemon.json: those of the data and, where containers get GPUs that way, the nvidia runtime."""
    return merge(wanted, _RUNTIME if gpus and way == "runtime" else {})


def whole(gpus: Iterable[Gpu]) -> list[Gpu]:
    """The GPUs that a service can have: not those that are cut into instances."""
    return [gpu for gpu in gpus if not gpu.mig]


def device_names(uuids: Sequence[str], wsl: bool) -> list[str]:
    """GPUs by the names that a container asks for. WSL2 has one device for all cards, which the toolkit calls `all`."""
    return ["all"] if wsl and uuids else list(uuids)


def units(states: Mapping[str, str]) -> list[Change]:
    """The toolkit's units to enable. `states`: unit -> systemd's word, of those that are there."""
    return [
        Change("gpu", Resource("unit", unit), "enable", f"it is {state}: no CDI specification would be made at boot")
        for unit, state in states.items()
        if unit in REFRESH_UNITS and state in ("disabled", "masked")
    ]


def devices(text: str) -> list[str]:
    """The device names in a CDI file; none in one that is absent or cannot be read."""
    try:
        return [str(device["name"]) for device in yaml_text.read(text)["devices"]]
    except (yaml.YAMLError, KeyError, TypeError):
        return []


def stamped(text: str | None) -> dict[str, Any] | None:
    """What a stamp says; None when there is none or, after a power cut, it cannot be read."""
    try:
        value = json.loads(text or "")
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def reconcile(wanted: dict[str, object], stamp: dict[str, object] | None, devices: Iterable[str]) -> list[Change]:
    """Refresh the CDI file when it was made for other GPUs, another driver or toolkit, or lacks a GPU.

    `devices`: the device names in the file, for example `GPU-...`.
    """
    absent = sorted(set(map(str, wanted["gpus"])) - set(devices)) if isinstance(wanted["gpus"], list) else []
    if stamp is None:
        why = "never made by us"
    elif differing := [key for key in wanted if wanted[key] != stamp.get(key)]:
        why = f"made for another {', '.join(differing)}"
    elif absent:
        why = f"it does not name {', '.join(absent)}"
    else:
        return []
    return [Change("gpu", Resource("CDI specification", CDI_FILE), "refresh", why)]
