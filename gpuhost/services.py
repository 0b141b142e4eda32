"""Which services must be created again, and why. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Set
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


def reconcile(
    wanted: Mapping[str, Stamps], observed: Mapping[str, Container], promised: Set[tuple[str, str]] = frozenset()
) -> list[Change]:
    """In the order of `wanted`, which is the start order.

    Whether a container runs is a volatile reading: one that restarts may run a moment later. It decides once, in the
    plan; `promised` holds what the plan said, as (name, action).
    """
    changes = []
    for name, stamps in wanted.items():
        why = reason(stamps, observed.get(name))
        if why is None and (name, "recreate") in promised:
            why = "it did not run when the plan was made"
        if why:
            changes.append(Change("stacks", name, "recreate" if name in observed else "create", why))
    return changes
