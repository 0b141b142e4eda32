"""Which services must be created again, and why. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Literal

from gpuhost.engine.facts import Container
from gpuhost.plan.change import Change, Resource

Cause = Literal["", "secret"]
WILL_BE_WRITTEN = float("inf")


@dataclass(frozen=True)
class Stamps:
    """What a service's container must carry: `spec` and, None while they are still to be generated, `secrets`: the
    fingerprint of each secret that it was created with, as JSON."""

    spec: str
    secrets: str | None


@dataclass(frozen=True)
class Clock:
    """`written_s`: service -> when the newest file that its process reads at its start was written (Unix time, or
    WILL_BE_WRITTEN); `now_s`: the host's time. A file from the future says nothing: a clock was set back."""

    written_s: Mapping[str, float]
    now_s: float

    def outdated(self, service: str, started_s: float) -> bool:
        """True when the process started before its files became what they are."""
        written = self.written_s.get(service, 0.0)
        return written == WILL_BE_WRITTEN or started_s < written <= self.now_s


def reason(
    name: str, wanted: Stamps, container: Container | None, clock: Clock | None, cut_off: bool
) -> tuple[str, Cause] | None:
    """Why a service must be (re)created, and whether only a secret asks for it; None when the right one runs.

    What a run left that was cut off while it changed a secret is a matter of that secret.
    """
    if container is None:
        return "no container", ""
    if container.spec != wanted.spec:
        return "its entry, template, image or install changed", ""
    if cut_off:
        return "a run was cut off while it made its container", "secret"
    if container.secrets != wanted.secrets:
        return f"it runs with another {_differing(wanted.secrets, container.secrets)}", "secret"
    if container.state == "created":
        return "it was made and never started", "secret"
    if container.state != "running":
        return f"it is {container.state}", ""
    if clock and clock.outdated(name, container.started_s):
        return "it read its files before they became what they should be", "secret"
    return None


def _differing(wanted: str | None, seen: str) -> str:
    """The names of the secrets that differ; `secret` when that cannot be told."""
    try:
        before, after = json.loads(seen), json.loads(wanted or "")
        names = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    except (ValueError, AttributeError):
        return "secret"
    return ", ".join(names) or "secret"


def reconcile(
    wanted: Mapping[str, Stamps],
    observed: Mapping[str, Container],
    promised: Set[tuple[str, str]] = frozenset(),
    clock: Clock | None = None,
    cut_off: Set[str] = frozenset(),
) -> list[Change]:
    """In the order of `wanted`, which is the start order.

    Whether a container runs is a volatile reading: one that restarts may run a moment later. It decides once, in the
    plan; `promised` holds what the plan said, as (name, action).
    """
    changes = []
    for name, stamps in wanted.items():
        why = reason(name, stamps, observed.get(name), clock, name in cut_off)
        if why is None and (name, "recreate") in promised:
            why = "it did not run when the plan was made", ""
        if why:
            changes.append(
                Change(
                    "stacks",
                    Resource("service", name),
                    "recreate" if name in observed else "create",
                    why[0],
                    cause=why[1],
                )
            )
    return changes
