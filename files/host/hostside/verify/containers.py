"""What Docker says of one container, and when that is an end of waiting."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import docker.errors  # type: ignore[import-untyped]

from hostside.docker_engine import FAILURES, DockerUnavailable, connect
from hostside.protocol.verify import Held
from hostside.timestamps import unix_ns

LOG_LINES = 20
LOG_LINE_CHARS = 500
LOOP_RESTARTS = 3  # one restart may be a race at start; three are a loop

Outcome = Literal["ready", "dead", "absent", "timeout"]

_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class Observation:
    """One `docker inspect`. `health` is None when the container has no health check; `health_log` is the
    last check's output; `error` is Docker's own (a port that was taken, a device that is missing); `pid`: 0 when it
    does not run; `binds`: (folder or file of the host, where it has it)."""

    id: str
    state: str
    health: str | None
    health_log: str
    restart_count: int
    oom_killed: bool
    exit_code: int
    error: str
    started_at: str
    pid: int = 0
    binds: tuple[tuple[str, str], ...] = ()

    @property
    def ready(self) -> bool:
        return self.state == "running" and self.health in (None, "healthy")

    def started_s(self) -> float | None:
        """The start as Unix time, None before the first."""
        found_ns = unix_ns(self.started_at)
        return found_ns / 10**9 if found_ns else None


def end_of_waiting(first: Observation | None, last: Observation | None, out_of_time: bool) -> Outcome | None:
    """How the waiting for a container ends; None = keep waiting.

    A container that is unhealthy within its budget may still become healthy, so only time ends that.
    """
    if first is None or last is None:
        return "absent"
    if last.state in ("exited", "dead", "removing") or (last.state == "created" and last.error):
        return "dead"
    restarts = last.restart_count - (first.restart_count if first.id == last.id else 0)
    looping = last.state == "restarting" and (last.oom_killed or last.restart_count >= LOOP_RESTARTS)
    if looping or restarts >= LOOP_RESTARTS:
        return "dead"
    if last.ready:
        return "ready"
    return "timeout" if out_of_time else None


class Containers:
    """Reads containers through the docker SDK. Raises `DockerUnavailable`."""

    def __init__(self) -> None:
        self._api = connect()

    def observe(self, name: str) -> Observation | None:
        """None when there is no such container."""
        try:
            return _observation(self._api.inspect_container(name))
        except docker.errors.NotFound:
            return None
        except FAILURES as error:
            raise DockerUnavailable(str(error)) from error

    def log_tail(self, container_id: str) -> list[str]:
        """The last lines that the container wrote, both streams, without colours."""
        try:
            raw = self._api.logs(container_id, tail=LOG_LINES)
        except docker.errors.NotFound:
            return []
        except FAILURES as error:
            return [f"(the log cannot be read: {error})"]
        lines = _ANSI.sub("", raw.decode("utf-8", "replace")).splitlines()
        return [line[:LOG_LINE_CHARS] for line in lines[-LOG_LINES:]]

    def deaths(self, container_id: str, since_s: float, until_s: float) -> tuple[int | None, bool]:
        """(exit code of the last death, was any OOM) between two Unix times, from Docker's event log.

        A container that runs again has lost both from its state.
        """
        filters = {"container": container_id, "event": ["die", "oom"]}
        exit_code, oom = None, False
        try:
            events = self._api.events(since=since_s, until=until_s, filters=filters, decode=True)
            for event in events:
                oom = oom or event["Action"] == "oom"
                if event["Action"] == "die":
                    exit_code = int(event["Actor"]["Attributes"]["exitCode"])
        except FAILURES as error:
            raise DockerUnavailable(str(error)) from error
        return exit_code, oom


def _observation(inspected: dict[str, Any]) -> Observation:
    state = inspected["State"]
    health = state.get("Health") or {}
    checks = health.get("Log") or []
    return Observation(
        id=inspected["Id"],
        state=state["Status"],
        health=None if health.get("Status") in (None, "none") else health["Status"],
        health_log=" ".join(checks[-1].get("Output", "").split())[:LOG_LINE_CHARS] if checks else "",
        restart_count=inspected.get("RestartCount", 0),
        oom_killed=bool(state.get("OOMKilled")),
        exit_code=state.get("ExitCode", 0),
        error=state.get("Error", "")[:LOG_LINE_CHARS],
        started_at=state.get("StartedAt", ""),
        pid=state.get("Pid", 0),
        binds=tuple(
            (each["Source"], each["Destination"]) for each in inspected.get("Mounts", []) if each["Type"] == "bind"
        ),
    )


def holds(seen: Observation, proc: str = "/proc") -> list[Held]:
    """What a container that runs has of the host, by its process's view of its files; nothing is opened."""
    if not seen.pid:
        return []
    return [
        Held(source, target, _inode(f"{proc}/{seen.pid}/root{target}"), _inode(source)) for source, target in seen.binds
    ]


def _inode(path: str) -> str | None:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return f"{found.st_dev}:{found.st_ino}"
