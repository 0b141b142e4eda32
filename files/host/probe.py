"""Observes services on this host: waits until they are healthy, asks them, watches that they stay up.

    probe.py [--wait-only] < document.json

One JSON line a service on stdout, for `gpuhost.verdict` to judge; talk on stderr. The document:

    {"window_s": 5, "services": [{"name", "container", "stack", "port", "host", "start_budget_s", "probes": [
        {"name", "method", "path", "headers": {}, "secret_header": {"name", "value"} | null, "body": null | {},
         "timeout_s": 30, "expect": {"status": 200, "json": {...}, "contains": "..."}}]}]}

Exit: 0 everything was observed, whatever was seen; 2 the document is wrong; 3 Docker does not answer.
`--wait-only` (ordered start) only waits, and exits 0 when all are healthy, else 1.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, TextIO

from answers import Answer, Expectation, Probe, ask
from containers import Containers, DockerUnavailable, Observation, end_of_waiting
from redaction import Redactor, header_secrets

POLL_S = 0.25
PROBE_TIMEOUT_S = 30.0


class DocumentError(Exception):
    """The document on stdin cannot be used; `str()` says why and quotes no value of it."""


@dataclass(frozen=True)
class Service:
    """One service of the document."""

    name: str
    container: str
    stack: str
    port: int
    host: str
    start_budget_s: float
    probes: list[Probe]


@dataclass
class Watch:
    """What is seen of one service while the program runs. `outcome` ends the waiting."""

    service: Service
    first: Observation | None = None
    last: Observation | None = None
    first_at_s: float = 0.0
    last_at_s: float = 0.0
    deadline_s: float = 0.0
    outcome: str | None = None
    waited_s: float = 0.0
    answers: list[Answer] = field(default_factory=list)


@dataclass(frozen=True)
class Clock:
    """Time, so that tests need none of it."""

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep


def parse(text: str) -> tuple[float, list[Service], Redactor]:
    """(window_s, services, redactor of every secret in the document). Raises `DocumentError`."""
    try:
        document = json.loads(text)
        services = [_service(entry) for entry in document["services"]]
        window_s = float(document["window_s"])
    except KeyError as error:
        raise DocumentError(f"the document has no field {error}") from error
    except (ValueError, TypeError, AttributeError) as error:
        # The text of these errors may quote a value, and a value may be a secret.
        raise DocumentError(f"the document is not of the known form ({type(error).__name__})") from error
    secrets = [
        secret
        for service in services
        for probe in service.probes
        if probe.secret_header
        for secret in header_secrets(probe.secret_header[1])
    ]
    return window_s, services, Redactor(secrets)


def _service(entry: dict[str, Any]) -> Service:
    return Service(
        name=str(entry["name"]),
        container=str(entry["container"]),
        stack=str(entry["stack"]),
        port=int(entry["port"]),
        host=str(entry["host"]),
        start_budget_s=float(entry["start_budget_s"]),
        probes=[_probe(probe) for probe in entry["probes"]],
    )


def _probe(entry: dict[str, Any]) -> Probe:
    secret = entry.get("secret_header")
    return Probe(
        name=str(entry["name"]),
        method=str(entry["method"]),
        path=str(entry["path"]),
        headers=dict(entry.get("headers") or {}),
        secret_header=(str(secret["name"]), str(secret["value"])) if secret else None,
        body=entry.get("body"),
        expect=Expectation(**entry["expect"]),
        timeout_s=float(entry.get("timeout_s", PROBE_TIMEOUT_S)),
    )


def wait(watches: list[Watch], containers: Containers, clock: Clock) -> None:
    """Polls all services together until each is ready, clearly dead or out of its start budget."""
    began_s = clock.monotonic()
    while True:
        for watch in [watch for watch in watches if watch.outcome is None]:
            observe(watch, containers, clock)
            out_of_time = clock.monotonic() >= watch.deadline_s
            watch.outcome = end_of_waiting(watch.first, watch.last, out_of_time)
            watch.waited_s = clock.monotonic() - began_s
        if all(watch.outcome for watch in watches):
            return
        clock.sleep(POLL_S)


def observe(watch: Watch, containers: Containers, clock: Clock) -> None:
    """Reads the container once; the first time, its start budget begins at its own start."""
    before, watch.last = watch.last, containers.observe(watch.service.container)
    watch.last_at_s = clock.monotonic()
    if watch.first is None and watch.last is not None:
        watch.first, watch.first_at_s = watch.last, watch.last_at_s
        started_s = watch.last.started_s()
        # A container that has been up for an hour has had its budget; a wall clock that jumped gives no more.
        used_s = 0.0 if started_s is None else max(0.0, clock.wall() - started_s)
        watch.deadline_s = watch.last_at_s + max(0.0, watch.service.start_budget_s - used_s)
    if watch.last and (before is None or (before.state, before.health) != (watch.last.state, watch.last.health)):
        print(f"{watch.service.name}: {watch.last.state}, health {watch.last.health}", file=sys.stderr)


def probe_and_hold(watches: list[Watch], containers: Containers, clock: Clock, window_s: float) -> None:
    """Asks the ready services, and looks again when `window_s` has passed: one window for all of them.

    One after another, not together: two services that generate at once on one GPU fail for want of memory,
    which is no fault of either.
    """
    ready = [watch for watch in watches if watch.outcome == "ready"]
    for watch in ready:
        watch.first = None
        observe(watch, containers, clock)
    began_s = clock.monotonic()
    for watch in ready:
        base_url = f"http://{_in_url(watch.service.host)}:{watch.service.port}"
        watch.answers = [ask(base_url, probe) for probe in watch.service.probes]
    while ready and (left_s := began_s + window_s - clock.monotonic()) > 0:
        clock.sleep(left_s)
    for watch in ready:
        observe(watch, containers, clock)


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def report(watch: Watch, containers: Containers, since_wall_s: float, until_wall_s: float) -> dict[str, Any]:
    """One service's line, without its window; secrets still in it."""
    service, last = watch.service, watch.last
    fine = watch.outcome == "ready" and all(answer.ok for answer in watch.answers)
    fine = fine and last is not None and last.ready and not restarted(watch)
    container: dict[str, Any] = {"exists": False}
    if watch.first and last:
        container = _container(watch, watch.first, last)
        if last.state == "running" and restarted(watch):
            exit_code, oom_killed = containers.deaths(last.id, since_wall_s, until_wall_s)
            container["exit_code"] = last.exit_code if exit_code is None else exit_code
            container["oom_killed"] = last.oom_killed or oom_killed
    return {
        "service": service.name,
        "stack": service.stack,
        "port": service.port,
        "start_budget_s": service.start_budget_s,
        "outcome": watch.outcome,
        "waited_s": round(watch.waited_s, 3),
        "container": container,
        "probes": [asdict(answer) for answer in watch.answers],
        "log_tail": containers.log_tail(last.id) if last and not fine else [],
    }


def restarted(watch: Watch) -> bool:
    """Was it another run of the container at the last look than at the first?"""
    looks = [(look.id, look.restart_count, look.started_at) for look in (watch.first, watch.last) if look]
    return len(set(looks)) > 1


def _container(watch: Watch, first: Observation, last: Observation) -> dict[str, Any]:
    return {
        "exists": True,
        "id": last.id,
        "state": last.state,
        "health": last.health,
        "health_log": last.health_log,
        # Another container under the same name counts its restarts from nothing.
        "restart_count": first.restart_count if first.id == last.id else 0,
        "restart_count_after": last.restart_count,
        "oom_killed": last.oom_killed,
        "exit_code": last.exit_code,
        "error": last.error,
        "started_at": first.started_at,
        "started_at_after": last.started_at,
        "observed_s": round(watch.last_at_s - watch.first_at_s, 3),
    }


def run(text: str, out: TextIO, wait_only: bool, clock: Clock) -> int:
    """The program without its process: document in, lines out, exit status returned."""
    window_s, services, redactor = parse(text)
    try:
        containers = Containers()
        watches = [Watch(service) for service in services]
        began_wall_s = clock.wall()
        wait(watches, containers, clock)
        if not wait_only:
            probe_and_hold(watches, containers, clock, window_s)
        for watch in watches:
            line = report(watch, containers, began_wall_s, clock.wall())
            print(json.dumps(redactor.deep(line)), file=out, flush=True)
    except DockerUnavailable as error:
        print(f"error: Docker does not answer: {redactor.text(str(error))}", file=sys.stderr)
        print("hint: `systemctl status docker` says why", file=sys.stderr)
        return 3
    return int(wait_only and any(watch.outcome != "ready" for watch in watches))


def main(argv: list[str]) -> int:
    if argv not in ([], ["--wait-only"]):
        print("error: unknown argument\nhint: probe.py [--wait-only] < document.json", file=sys.stderr)
        return 2
    try:
        return run(sys.stdin.read(), sys.stdout, wait_only=bool(argv), clock=Clock())
    except DocumentError as error:
        print(f"error: {error}\nhint: `gpuhost verify` writes this document", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
