"""The services of a catalogue as a table for documents. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gpuhost.catalog.types import Catalog, Service

_HEAD = ("service", "port", "starts", "model", "VRAM", "RAM", "auth", "health")


def markdown(catalog: Catalog) -> list[str]:
    """A line a service, in start order, enabled or not."""
    entries = sorted(catalog.services.items(), key=lambda item: (item[1].start_order, item[0]))
    rows = [_HEAD, ["---"] * len(_HEAD), *(list(_cells(catalog, name, entry)) for name, entry in entries)]
    return [_line(row) for row in rows]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def _cells(catalog: Catalog, name: str, entry: Service) -> Iterator[str]:
    yield name if name in catalog.enabled_services else f"{name} (not enabled)"
    yield str(entry.port)
    yield "always" if entry.start == "always" else "on demand"
    yield ", ".join(dict.fromkeys(catalog.models[model].repo for model in entry.models)) or "none"
    yield _vram(entry)
    yield entry.memory if entry.memory_least is None else f"{entry.memory}; the host {entry.memory_least} at least"
    yield f"`{entry.auth.token}`" if entry.auth else "none"
    asked = f"`{entry.health_path}`" if entry.health_path else f"`{' '.join(entry.health.command or [])}`"
    yield f"{asked}, {entry.health.start_budget_s} s to start"


def _vram(entry: Service) -> str:
    if entry.gpu is None:
        return "none, reads all" if entry.all_gpus else "none"
    each = "not measured" if entry.gpu.vram_mib is None else f"{entry.gpu.vram_mib} MiB"
    if entry.gpu.vram_least_mib:
        each += f", {entry.gpu.vram_least_mib} will do"
    return each if entry.gpu.count == 1 else f"{each} on each of {entry.gpu.count}"
