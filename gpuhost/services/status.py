"""What each service of a host does now, beside what it should do. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from gpuhost.plan.sizes import about
from hostside.wire import printable

if TYPE_CHECKING:  # pyinfra and pydantic take long to import
    from gpuhost.engine.containers import Container
    from gpuhost.engine.facts import DockerReading
    from gpuhost.run.host_run import HostRun

Wanted = Literal["running", "on-demand", "skipped", "nothing"]
_COLUMNS = ("SERVICE", "STATE", "HEALTH", "PORT", "GPU", "SINCE")


@dataclass(frozen=True)
class ServiceStatus:
    """One service. `wanted`: what it should do, `nothing` when the data does not name it any more; `state`: Docker's
    word, `absent` without a container; `health`: Docker's word, "" without a health check; `gpus`: the numbers of its
    cards; `since_s`: for how many seconds it has run, or has been ended, None when nobody knows; `exit_code`: of its
    last end, None while it runs; `restarts`: by Docker, since somebody started it."""

    service: str
    wanted: Wanted
    state: str
    health: str
    port: int | None
    gpus: list[int]
    since_s: float | None
    exit_code: int | None
    restarts: int

    @property
    def ok(self) -> bool:
        """Whether it does what it should."""
        if self.wanted == "running" or (self.wanted == "on-demand" and self.state == "running"):
            return self.state == "running" and self.health in ("", "healthy")
        return True


def statuses(run: HostRun, docker: DockerReading) -> list[ServiceStatus]:
    """Every service that the host should have, those that it cannot have, and what is left of others."""
    there = _by_service(docker.containers)
    found = []
    for name, entry in run.catalog.enabled().items():
        wanted: Wanted = (
            "skipped" if name not in run.services else entry.start if entry.start == "on-demand" else "running"
        )
        found.append(_status(run, docker, name, wanted, entry.port, there.get(name)))
    left = [name for name in there if name not in run.catalog.enabled()]
    return [*found, *(_status(run, docker, name, "nothing", None, there[name]) for name in left)]


def _by_service(containers: Iterable[Container]) -> Mapping[str, Container]:
    """Its container; of several the one that runs, then the one with its name. None that is somebody's own."""
    ours = [each for each in containers if not each.own]
    ranked = sorted(ours, key=lambda each: (each.state == "running", each.name == each.service))
    return {each.service: each for each in ranked}


def _status(
    run: HostRun, docker: DockerReading, name: str, wanted: Wanted, port: int | None, there: Container | None
) -> ServiceStatus:
    entry = run.services.get(name)  # one that only reads what the cards do is not said to have them
    uuids = run.placement.gpus[name] if entry and entry.gpu else []
    gpus = sorted(card.index for card in run.reading.gpus if card.uuid in uuids)
    if there is None:
        return ServiceStatus(name, wanted, "absent", "", port, gpus, None, None, 0)
    runs = there.state in ("running", "paused", "restarting")
    from_s = there.started_s if runs else there.ended_s
    return ServiceStatus(
        service=name,
        wanted=wanted,
        state=there.state,
        health=there.health if runs else "",
        port=port,
        gpus=gpus,
        since_s=round(max(0.0, docker.now_s - from_s), 1) if from_s else None,
        exit_code=there.exit_code if there.ended_s and not runs else None,
        restarts=there.restarts,
    )


def table(services: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The services of one host (fields of ServiceStatus) as a table."""
    rows = [_COLUMNS, *map(_row, services)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    for row in rows:
        yield "  " + "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def _row(service: Mapping[str, Any]) -> tuple[str, ...]:
    state, since, code = service["state"], service["since_s"], service["exit_code"]
    if service["wanted"] == "skipped" and state == "absent":
        state = "skipped"
    if service["wanted"] == "nothing":
        state = f"{state}, retired"
    if code is not None:
        state = f"{state} ({code})"
    if service["restarts"]:
        state = f"{state}, {service['restarts']} restarts"
    cells = (
        service["service"],
        state,
        service["health"] or "-",
        str(service["port"] or "-"),
        ",".join(map(str, service["gpus"])) or "-",
        "-" if since is None else about(since),
    )
    return tuple(map(printable, cells))
