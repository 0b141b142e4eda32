"""What a change costs, beyond itself: which containers stop, which of them come back and when, what is downloaded, what
it takes of the disk. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from gpuhost.host.measures import Measure, name_of
from gpuhost.plan.change import Change, Impact, Reboot
from gpuhost.plan.report import select

Event = dict[str, Any]

# What is fetched from elsewhere, and takes its time and place; how much that is nobody knows before it is asked for.
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


@dataclass(frozen=True)
class Measured:
    """What was measured on a host, the last time that something was done and now. `bytes_per_s`: of the last fetch of
    models, None when none was measured; `free_bytes`: folder -> free on its file system, one folder each; `data`,
    `docker`: the folder among those where models and installs, and where images go; `proof_s`: how long services are
    watched at the end of a run."""

    measures: Mapping[tuple[str, str], Measure] = field(default_factory=dict)
    bytes_per_s: int | None = None
    free_bytes: Mapping[str, int] = field(default_factory=dict)
    data: str = ""
    docker: str = ""
    proof_s: float = 0.0

    @classmethod
    def of(cls, event: Event, bytes_per_s: int | None) -> Measured:
        """What the event `measured` of a host says."""
        measures = [Measure(**each) for each in event["measures"]]
        return cls(
            {(each.kind, each.name): each for each in measures},
            bytes_per_s,
            *(event[name] for name in ("free_bytes", "data", "docker", "proof_s")),
        )


UNMEASURED = Measured()


def measured(events: Sequence[Event]) -> dict[str, Measured]:
    """host -> what was measured there."""
    speeds = {event["host"]: event["bytes_per_s"] for event in select(events, "speed")}
    return {event["host"]: Measured.of(event, speeds.get(event["host"])) for event in select(events, "measured")}


def with_impacts(changes: Iterable[Event], events: Sequence[Event]) -> list[Event]:
    """The change events of a run with what each costs; `events`: all of the run, which say what runs on each host and
    what was measured there."""
    running, seen = _running(events), measured(events)
    return [
        {**event, "impact": asdict(impact)}
        for event in changes
        for host in [event["host"]]
        if (impact := with_impact(Change.of(event), running.get(host, Running()), seen.get(host, UNMEASURED)).impact)
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


def with_impact(change: Change, running: Running, seen: Measured = UNMEASURED) -> Change:
    """The change with what it costs on a host where this runs and that was measured."""
    told = change.impact or _told(change)  # some rules know more
    return replace(change, impact=replace(told, **_stopping(change, told, running), **_taking(change, told, seen)))


def _told(change: Change) -> Impact:
    """What the change itself says, when no rule says more."""
    kind, action = change.resource.kind, change.action
    if (kind, action) in _DOWNLOADED:
        return Impact(download_bytes=None, disk_bytes=None)
    return Impact(starts=kind == "service" and action in ("create", "recreate"))


def _stopping(change: Change, told: Impact, running: Running) -> dict[str, Any]:
    """Which containers end, and which of them run again."""
    kind, name, action = change.resource.kind, change.resource.name, change.action
    foreign_first = sorted(running.containers, key=lambda each: each.ours)
    every = tuple(each.name for each in foreign_first)
    if kind == "engine" and not running.live_restore:
        # What stops is started again by the step that restarts dockerd (engine/operations.py).
        return {"stops": every, "restarts": tuple(each.name for each in foreign_first if not each.removed)}
    if (kind, action) == ("driver", "reboot"):
        return {"stops": every, "restarts": tuple(each.name for each in foreign_first if each.comes_back)}
    if kind == "service" and action != "unpause" and name in every:
        return {"stops": (name,), "restarts": (name,) if told.starts else ()}
    return {"stops": (), "restarts": ()}


_REBOOTS: dict[str, Reboot] = {"reboot": "by gpuhost", "ask for a reboot": "by you"}


def _taking(change: Change, told: Impact, seen: Measured) -> dict[str, Any]:
    """How long it takes, and what of the disk, by the last time."""
    kind, name, action = change.resource.kind, change.resource.name, change.action
    if kind == "model":
        fetched = told.download_bytes
        known = seen.bytes_per_s if fetched else 1
        return {"disk_bytes": fetched, "seconds": fetched / known if fetched is not None and known else None}
    last = seen.measures.get((kind, name_of(kind, name)))
    seconds = last.seconds if last else None
    if (kind, action) in _DOWNLOADED:
        return {"disk_bytes": last.disk_bytes if last else told.disk_bytes, "seconds": seconds}
    if kind == "driver":
        return {"seconds": None, "reboot": _REBOOTS.get(action, "no")}
    takes = told.starts if kind == "service" else (kind, action) == ("engine", "restart")
    return {"seconds": seconds} if takes else {}
