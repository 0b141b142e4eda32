"""Which services must be created again, and why. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .facts.docker import Container
from .reconcile import Change


@dataclass(frozen=True)
class Stamps:
    """What a service's container must carry: `spec` and, None while they are still to be generated, `secrets`."""

    spec: str
    secrets: str | None


def reason(wanted: Stamps, container: Container | None) -> str | None:
    """Why a service must be (re)created; None when the right one runs."""
    if container is None:
        return "no container"
    if container.spec != wanted.spec:
        return "its entry, template, image or install changed"
    if container.secrets != wanted.secrets:
        return "it runs with another secret"
    if container.state != "running":
        return f"it is {container.state}"
    return None


def reconcile(wanted: Mapping[str, Stamps], observed: Mapping[str, Container]) -> list[Change]:
    """In the order of `wanted`, which is the start order."""
    changes = []
    for name, stamps in wanted.items():
        why = reason(stamps, observed.get(name))
        if why:
            changes.append(Change("stacks", name, "recreate" if name in observed else "create", why))
    return changes
