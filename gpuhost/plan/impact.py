"""What a change costs, beyond itself: which containers stop, which of them come back, what is downloaded. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from gpuhost.plan.change import Change, Impact
from gpuhost.plan.report import select

Event = dict[str, Any]

# Kinds of resources that are fetched from elsewhere; how much that is nobody knows before it is asked for.
_DOWNLOADED = {
    ("model", "fetch"),
    ("image", "pull"),
    ("image", "build"),
    ("install", "install"),
    ("install", "reinstall"),
    ("packages", "install"),
}


@dataclass(frozen=True)
class LiveContainer:
    """A container that runs when the plan is made, whoever made it. `restart`: Docker's restart policy; `ours`: it is a
    service of gpuhost's; `removed`: by Docker, when it ends (`docker run --rm`)."""

    name: str
    restart: str
    ours: bool = False
    removed: bool = False

    @property
    def comes_back(self) -> bool:
        """Whether it runs again after a reboot, by Docker itself or by our boot unit."""
        return self.restart in ("always", "unless-stopped", *(("on-failure",) if self.ours else ()))


@dataclass(frozen=True)
class Running:
    """What runs on a host. `live_restore`: containers outlive a restart of dockerd."""

    containers: Sequence[LiveContainer] = ()
    live_restore: bool = False

    @classmethod
    def of(cls, event: Event) -> Running:
        """What the event `running` of a host says."""
        return cls([LiveContainer(**container) for container in event["containers"]], event["live_restore"])


def with_impacts(changes: Iterable[Event], events: Sequence[Event]) -> list[Event]:
    """The change events of a run with what each costs; `events`: all of the run, which say what runs on each host."""
    running = _running(events)
    return [
        {**event, "impact": asdict(impact)}
        for event in changes
        if (impact := with_impact(Change.of(event), running.get(event["host"], Running())).impact)
    ]


def foreign_stops(changes: Iterable[Event], events: Sequence[Event]) -> dict[str, list[str]]:
    """host -> the containers that gpuhost did not make and that these changes (with their impacts) stop."""
    running, found = _running(events), dict[str, list[str]]()
    for event in changes:
        impact = Change.of(event).impact
        foreign = [each.name for each in running.get(event["host"], Running()).containers if not each.ours]
        for name in foreign:
            if impact and name in impact.stops and name not in found.setdefault(event["host"], []):
                found[event["host"]].append(name)
    return {host: names for host, names in found.items() if names}


def _running(events: Sequence[Event]) -> dict[str, Running]:
    return {event["host"]: Running.of(event) for event in select(events, "running")}


def with_impact(change: Change, running: Running) -> Change:
    """The change with what it costs on a host where this runs."""
    return replace(change, impact=_impact(change, running))


def _impact(change: Change, running: Running) -> Impact:
    kind, name, action = change.resource.kind, change.resource.name, change.action
    unknown = None if (kind, action) in _DOWNLOADED else 0
    download = change.impact.download_bytes if change.impact else unknown  # some rules know it
    foreign_first = sorted(running.containers, key=lambda each: each.ours)
    every = tuple(each.name for each in foreign_first)
    if kind == "engine" and not running.live_restore:
        # What stops is started again by the step that restarts dockerd (engine/operations.py).
        return Impact(every, tuple(each.name for each in foreign_first if not each.removed), download)
    if (kind, action) == ("driver", "reboot"):
        return Impact(every, tuple(each.name for each in foreign_first if each.comes_back), download)
    if kind == "service" and action != "unpause" and name in every:
        return Impact((name,), () if action == "remove" else (name,), download)
    neighbours = change.impact.neighbour_bytes if change.impact else {}
    return Impact(download_bytes=download, neighbour_bytes=neighbours)
