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
    service of gpuhost's."""

    name: str
    restart: str
    ours: bool = False

    @property
    def comes_back(self) -> bool:
        """Whether it runs again after a restart of Docker, by Docker itself or by our boot unit."""
        return self.restart in ("always", "unless-stopped", *(("on-failure",) if self.ours else ()))


def with_impacts(changes: Iterable[Event], events: Sequence[Event]) -> list[Event]:
    """The change events of a run with what each costs; `events`: all of the run, which say what runs on each host."""
    running = {
        event["host"]: [LiveContainer(**container) for container in event["containers"]]
        for event in select(events, "running")
    }
    return [
        {**event, "impact": asdict(impact)}
        for event in changes
        if (impact := with_impact(Change.of(event), running.get(event["host"], ())).impact)
    ]


def with_impact(change: Change, running: Sequence[LiveContainer]) -> Change:
    """The change with what it costs on a host where these containers run."""
    return replace(change, impact=_impact(change, running))


def _impact(change: Change, running: Sequence[LiveContainer]) -> Impact:
    kind, name, action = change.resource.kind, change.resource.name, change.action
    unknown = None if (kind, action) in _DOWNLOADED else 0
    download = change.impact.download_bytes if change.impact else unknown  # some rules know it
    if kind == "engine":
        back = tuple(each.name for each in running if each.comes_back)
        return Impact(tuple(each.name for each in running), back, download)
    if kind == "service" and action != "unpause" and name in {each.name for each in running}:
        return Impact((name,), () if action == "remove" else (name,), download)
    return Impact(download_bytes=download)
