"""Judges what hostside.verify saw: are the services up, and if not, why not and what to do. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from gpuhost.services.binds import is_lost, lost_reason
from hostside.protocol.verify import ContainerSeen, ServiceSeen

LOG_LINES = 20


@dataclass(frozen=True)
class Failure:
    """Why one service is not up: `cause` is one sentence, `hint` something to do.

    `exit_code`: of the container's last end, None when it never ended; `log_tail`: its last lines, secrets removed.
    """

    service: str
    cause: str
    hint: str
    exit_code: int | None
    log_tail: list[str]


@dataclass(frozen=True)
class Verdict:
    """`ok` when every service that was looked at is up and answers as it should."""

    ok: bool
    failures: list[Failure]


class _Finding(NamedTuple):
    cause: str
    hint: str


def judge(observations: Iterable[ServiceSeen]) -> Verdict:
    """One verdict over all services.

    Each has at most one failure, the cause nearest to the root: a container that died says nothing about its port.
    """
    failures = [failure for seen in observations if (failure := _failure(seen))]
    return Verdict(ok=not failures, failures=failures)


def _failure(seen: ServiceSeen) -> Failure | None:
    container = seen.container
    finding = _finding(seen, container)
    if finding is None:
        return None
    return Failure(
        service=seen.service,
        cause=finding.cause,
        hint=finding.hint,
        exit_code=container.exit_code if container and _has_ended(container) else None,
        log_tail=seen.log_tail[-LOG_LINES:],
    )


def _finding(seen: ServiceSeen, container: ContainerSeen | None) -> _Finding | None:
    if container is None:
        return _Finding("no container", "`gpuhost apply` makes it; `gpuhost plan` shows what else is missing")
    # The order is the rank: the first that finds something names the cause.
    for look in (_restarting, _ended, _bereft, _not_healthy, _authentication, _unreachable, _answers):
        finding = look(seen, container)
        if finding:
            return finding
    return None


def _restarting(seen: ServiceSeen, container: ContainerSeen) -> _Finding | None:
    if not _has_restarted(container) and container.state != "restarting":
        return None
    restarts = container.restart_count_after - container.restart_count
    if restarts > 0:
        times = "1 restart" if restarts == 1 else f"{restarts} restarts"
        loop = f"restarts in a loop ({times} in {container.observed_s:.0f} s)"
    elif container.state == "restarting":
        loop = f"restarts in a loop ({container.restart_count_after} restarts so far)"
    else:
        return _Finding(
            f"was started anew while it was watched ({container.observed_s:.0f} s)",
            "somebody or another program restarted it: run `gpuhost verify` again when that is over",
        )
    end = _end(container)
    return _Finding(f"{loop}: {end.cause}", end.hint)


def _ended(seen: ServiceSeen, container: ContainerSeen) -> _Finding | None:
    if container.state == "running":
        return None
    if container.state == "created":
        cause = container.error or "it was made and never started"
        return _Finding(f"did not start: {cause}", "remove what Docker names, then `gpuhost apply`")
    if container.state == "paused":
        return _Finding("is paused", f"`docker unpause {seen.service}`")
    return _end(container)


def _bereft(seen: ServiceSeen, container: ContainerSeen) -> _Finding | None:
    """What it makes in a folder that was removed is lost, however well it answers."""
    lost = next(filter(is_lost, seen.holds), None)
    return _Finding(lost_reason(lost), "`gpuhost apply` makes its container anew") if lost else None


# What an exit code says beyond itself: code -> (meaning, hint).
_EXIT_CODES = {
    0: ("it ended by itself", "a service must stay: look at its command and at the end of its log"),
    125: ("Docker could not run it", "`docker inspect` and `journalctl -u docker` say why"),
    126: ("its command cannot be executed", "the image or a mount lacks the right to execute: look at the command"),
    127: ("its command does not exist", "a file that the command names is not in the image or not mounted"),
    134: ("the program aborted", "the log's last lines hold the reason; a CUDA or driver mismatch is common"),
    139: ("segmentation fault", "a native library crashed: compare driver, CUDA and torch versions"),
    143: ("stopped by SIGTERM", "somebody stopped it; `gpuhost apply` starts it again"),
}


def _end(container: ContainerSeen) -> _Finding:
    """Why the container's last run ended."""
    code = container.exit_code
    if container.oom_killed:
        return _Finding(
            f"exited with code {code}: killed by the kernel for memory (OOM)",
            "raise its `memory` in group_data above its largest weight file plus headroom, or give it a smaller model",
        )
    if code == 137:
        return _Finding(
            "exited with code 137 without OOM: killed from outside",
            "not its memory limit: `docker kill`, a stop that took too long, or the host's own OOM killer"
            " (`journalctl -k | grep -i oom`)",
        )
    meaning, hint = _EXIT_CODES.get(code, ("the program failed", "the log's last lines hold the reason"))
    detail = f" ({container.error})" if container.error else ""
    return _Finding(f"exited with code {code}: {meaning}{detail}", hint)


def _not_healthy(seen: ServiceSeen, container: ContainerSeen) -> _Finding | None:
    if container.health == "unhealthy":
        said = container.health_log or "its health check says nothing"
        return _Finding(f"unhealthy: {said}", "the health check inside the container fails: see the log")
    if seen.outcome == "timeout" and container.health_log:
        return _Finding(
            f"not healthy within {seen.start_budget_s:g} s: {container.health_log}",
            "that is what its health check says, which asks inside the container: "
            f"docker inspect -f '{{{{json .Config.Healthcheck.Test}}}}' {seen.service}",
        )
    if seen.outcome == "timeout":
        return _Finding(
            f"not healthy within {seen.start_budget_s:g} s",
            "see what it does in the log; when it only needs longer, raise `start_budget_s` in group_data",
        )
    if container.health == "starting":
        return _Finding(
            "its health check began anew while it was watched",
            "run `gpuhost verify` again; when this repeats, something restarts it",
        )
    return None


def _unreachable(seen: ServiceSeen, container: ContainerSeen) -> _Finding | None:
    inside = "healthy inside" if container.health else "running"
    for probe in seen.probes:
        # Docker's own proxy takes the connection and drops it when nothing listens behind it.
        if probe.error in ("connect", "broken"):
            return _Finding(
                f"{inside}, but port {seen.port} answers nothing ({probe.detail})",
                f"compare `services.{seen.service}.container_port` with the port and address on which it listens"
                " (0.0.0.0, not 127.0.0.1)",
            )
        if probe.error == "timeout":
            return _Finding(
                f"{inside}, but `{probe.name}` got no answer on port {seen.port} ({probe.detail})",
                "it is stuck or still loading: see the log and `nvidia-smi`",
            )
    return None


def _authentication(seen: ServiceSeen, container: ContainerSeen) -> _Finding | None:
    for probe in seen.probes:
        if not probe.authenticated and probe.expected_status in (401, 403) and probe.status == 200:
            return _Finding(
                f"`{probe.name}` answers 200: authentication is open",
                "stop it until this is cured: what should refuse strangers did not load, and the log says why",
            )
    for probe in seen.probes:
        refusal = not probe.authenticated and probe.expected_status in (401, 403)
        if refusal and probe.status not in (None, probe.expected_status):
            return _Finding(
                f"`{probe.name}` answers {probe.status}, not {probe.expected_status}: a stranger is not turned away",
                "stop it until this is cured: what should refuse strangers did not load or has a hole, see its log",
            )
    for probe in seen.probes:
        if probe.authenticated and not probe.ok and probe.expected_status in (401, 403) and probe.status:
            return _Finding(
                f"`{probe.name}` answers {probe.status} to a value that was rotated away, not 401",
                "it may still take the old value: look at where else it has one, such as a key file or a second login",
            )
        if probe.authenticated and not probe.ok and probe.status in (401, 403):
            return _Finding(
                f"`{probe.name}` answers {probe.status} with the token: the container has another token",
                "it was started before the token changed: `gpuhost apply` recreates it with the current one",
            )
    return None


def _answers(seen: ServiceSeen, container: ContainerSeen) -> _Finding | None:
    for probe in seen.probes:
        if not probe.ok:
            return _Finding(
                f"`{probe.name}` fails: {probe.detail}",
                "healthy, but it does not do its work: see the log",
            )
    return None


def _has_restarted(container: ContainerSeen) -> bool:
    restarted = container.restart_count_after != container.restart_count
    return bool(restarted or container.started_at_after != container.started_at)


def _has_ended(container: ContainerSeen) -> bool:
    return container.state != "running" or _has_restarted(container)
