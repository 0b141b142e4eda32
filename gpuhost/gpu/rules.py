"""The NVIDIA Container Toolkit: its packages and the CDI specification. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import yaml

from gpuhost.plan.change import Change, Resource

# One version for all four, or apt cannot resolve them.
TOOLKIT = (
    "nvidia-container-toolkit",
    "nvidia-container-toolkit-base",
    "libnvidia-container-tools",
    "libnvidia-container1",
)
CDI_FILE = "/var/run/cdi/nvidia.yaml"


def devices(text: str) -> list[str]:
    """The device names in a CDI file; none in one that is absent or cannot be read."""
    try:
        return [str(device["name"]) for device in yaml.safe_load(text)["devices"]]
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
        return [Change("gpu", Resource("CDI specification", CDI_FILE), "refresh", "never made by us")]
    differing = [key for key in wanted if wanted[key] != stamp.get(key)]
    if differing:
        return [
            Change(
                "gpu", Resource("CDI specification", CDI_FILE), "refresh", f"made for another {', '.join(differing)}"
            )
        ]
    if absent:
        return [
            Change("gpu", Resource("CDI specification", CDI_FILE), "refresh", f"it does not name {', '.join(absent)}")
        ]
    return []
