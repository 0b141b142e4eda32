"""Services x GPUs -> who runs where, or why not. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gpuhost.catalog.types import Service
from gpuhost.host.facts import Gpu


@dataclass(frozen=True)
class Placement:
    """`gpus`: service -> UUIDs of its GPUs ([] without one); `skipped`: service -> why it does not run here."""

    gpus: dict[str, list[str]]
    skipped: dict[str, str]


def place(services: Mapping[str, Service], gpus: Sequence[Gpu]) -> Placement:
    """Give each service the first GPUs that it needs, by UUID (an index may be inverted between boots)."""
    chosen: dict[str, list[str]] = {}
    skipped: dict[str, str] = {}
    ordered = sorted(gpus, key=lambda gpu: (-gpu.vram_mib, gpu.uuid))
    for name, service in services.items():
        if service.gpus > len(ordered):
            have = f"this host has {len(ordered)}" if ordered else "this host has none"
            skipped[name] = f"it needs {service.gpus} NVIDIA GPU{'s' if service.gpus > 1 else ''}, {have}"
        elif service.all_gpus:
            chosen[name] = [gpu.uuid for gpu in ordered]
        else:
            chosen[name] = [gpu.uuid for gpu in ordered[: service.gpus]]
    return Placement(chosen, skipped)
