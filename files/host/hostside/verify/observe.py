"""Observes services on this host: waits until they are healthy, asks them, watches that they stay up.

    python -m hostside.verify [--wait-only] < request

The request is a `VerifyRequest`; the answer, for `gpuhost.verify.verdict` to judge, one `ServiceSeen` a
service on stdout, progress on stderr. Exit: 0 everything was observed, whatever was seen; 2 the request is wrong;
3 Docker does not answer. `--wait-only` (ordered start) only waits, and exits 0 when all are healthy, else 1.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TextIO

from hostside.docker_engine import DockerUnavailable
from hostside.protocol.verify import ContainerSeen, ProbeAnswer, ServiceSeen, ServiceToVerify, VerifyRequest
from hostside.redaction import Redactor, header_secrets
from hostside.verify.answers import ask
from hostside.verify.containers import Containers, Observation, Outcome, end_of_waiting, holds
from hostside.wire import MAX_BYTES, WireError, from_json, to_json

POLL_S = 0.25


@dataclass
class Watch:
    """What is seen of one service while the program runs. `outcome` ends the waiting."""

    service: ServiceToVerify
    first: Observation | None = None
    last: Observation | None = None
    first_at_s: float = 0.0
    last_at_s: float = 0.0
    deadline_s: float = 0.0
    outcome: Outcome | None = None
    waited_s: float = 0.0
    answers: list[ProbeAnswer] = field(default_factory=list)


@dataclass(frozen=True)
class Clock:
    """Time, so that tests need none of it."""

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep


def redactor_of(request: VerifyRequest) -> Redactor:
    """Knows every secret in the request."""
    headers = (probe.secret_header for service in request.services for probe in service.probes)
    return Redactor(secret for header in headers if header for secret in header_secrets(header.value))


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
        # But a dockerd that was restarted under it knows its health only after the next check.
        least_s = watch.service.check_s if watch.last.health == "starting" else 0.0
        watch.deadline_s = watch.last_at_s + max(least_s, watch.service.start_budget_s - used_s)
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


def seen(watch: Watch, containers: Containers, since_wall_s: float, until_wall_s: float) -> ServiceSeen:
    """What is to be said of one service; secrets still in it."""
    service, last = watch.service, watch.last
    fine = watch.outcome == "ready" and all(answer.ok for answer in watch.answers)
    fine = fine and last is not None and last.ready and not restarted(watch)
    container = None
    if watch.first and last:
        container = _container(watch, watch.first, last)
        if last.state == "running" and restarted(watch):
            exit_code, oom_killed = containers.deaths(last.id, since_wall_s, until_wall_s)
            container = replace(
                container,
                exit_code=last.exit_code if exit_code is None else exit_code,
                oom_killed=last.oom_killed or oom_killed,
            )
    return ServiceSeen(
        service=service.name,
        stack=service.stack,
        port=service.port,
        start_budget_s=service.start_budget_s,
        outcome=watch.outcome or "timeout",
        waited_s=round(watch.waited_s, 3),
        container=container,
        probes=watch.answers,
        log_tail=containers.log_tail(last.id) if last and not fine else [],
        holds=holds(last) if last else [],
    )


def redacted(found: ServiceSeen, redactor: Redactor) -> ServiceSeen:
    """The same without secrets: whatever a container or a service wrote may quote one."""
    container = found.container and replace(
        found.container,
        health_log=redactor.text(found.container.health_log),
        error=redactor.text(found.container.error),
    )
    return replace(
        found,
        container=container,
        probes=[replace(answer, detail=redactor.text(answer.detail)) for answer in found.probes],
        log_tail=[redactor.text(line) for line in found.log_tail],
    )


def restarted(watch: Watch) -> bool:
    """Was it another run of the container at the last look than at the first?"""
    looks = [(look.id, look.restart_count, look.started_at) for look in (watch.first, watch.last) if look]
    return len(set(looks)) > 1


def _container(watch: Watch, first: Observation, last: Observation) -> ContainerSeen:
    return ContainerSeen(
        id=last.id,
        state=last.state,
        health=last.health,
        health_log=last.health_log,
        # Another container under the same name counts its restarts from nothing.
        restart_count=first.restart_count if first.id == last.id else 0,
        restart_count_after=last.restart_count,
        oom_killed=last.oom_killed,
        exit_code=last.exit_code,
        error=last.error,
        started_at=first.started_at,
        started_at_after=last.started_at,
        observed_s=round(watch.last_at_s - watch.first_at_s, 3),
    )


def run(request: VerifyRequest, out: TextIO, wait_only: bool, clock: Clock) -> int:
    """The program without its process: request in, lines out, exit status returned."""
    redactor = redactor_of(request)
    try:
        containers = Containers()
        watches = [Watch(service) for service in request.services]
        began_wall_s = clock.wall()
        wait(watches, containers, clock)
        if not wait_only:
            probe_and_hold(watches, containers, clock, request.window_s)
        for watch in watches:
            line = redacted(seen(watch, containers, began_wall_s, clock.wall()), redactor)
            print(to_json(line), file=out)
    except DockerUnavailable as error:
        print(f"error: Docker does not answer: {redactor.text(str(error))}", file=sys.stderr)
        print("hint: `systemctl status docker` says why", file=sys.stderr)
        return 3
    return int(wait_only and any(watch.outcome != "ready" for watch in watches))


def main(argv: list[str]) -> int:
    if argv not in ([], ["--wait-only"]):
        print("error: unknown argument\nhint: python -m hostside.verify [--wait-only] < request", file=sys.stderr)
        return 2
    try:
        request = from_json(VerifyRequest, sys.stdin.buffer.read(MAX_BYTES + 1))
    except WireError as error:
        print(f"error: the request cannot be read: {error}", file=sys.stderr)
        print("hint: `gpuhost apply` ships the programs that fit this gpuhost", file=sys.stderr)
        return 2
    return run(request, sys.stdout, wait_only=bool(argv), clock=Clock())
