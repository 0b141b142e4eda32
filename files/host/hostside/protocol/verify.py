"""What passes between the control side and `hostside.verify`. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Expectation:
    """The right answer. `json`: a subset of it; `contains`: a piece of its text; None = not looked at."""

    status: int
    json: Any
    contains: str | None


@dataclass(frozen=True)
class Header:
    """A header whose value is secret."""

    name: str
    value: str = field(repr=False)


@dataclass(frozen=True)
class Probe:
    """One request through the published port. `body`: sent as JSON, None = no body."""

    name: str
    method: str
    path: str
    headers: dict[str, str]
    secret_header: Header | None
    body: Any
    expect: Expectation
    timeout_s: float


@dataclass(frozen=True)
class ServiceToVerify:
    """One service: `host` and `port` are where it is published, `start_budget_s` counts from its container's start.
    `check_s`: in which Docker's next health check has ended, once the start is over."""

    name: str
    container: str
    stack: str
    port: int
    host: str
    start_budget_s: float
    probes: list[Probe]
    check_s: float = 0.0


@dataclass(frozen=True)
class VerifyRequest:
    """`window_s`: for how long the services are watched while and after they are asked."""

    window_s: float
    services: list[ServiceToVerify]


@dataclass(frozen=True)
class ProbeAnswer:
    """What came back to one request.

    `status` None: nothing did, and `error` says in which way; `ok`: it is as expected, and `detail` says what differs;
    `authenticated`: the request carried the secret header.
    """

    name: str
    status: int | None
    ok: bool
    detail: str
    seconds: float
    authenticated: bool
    expected_status: int
    error: Literal["connect", "timeout", "broken"] | None


@dataclass(frozen=True)
class ContainerSeen:
    """A container at the first and at the last look (`..._after`), `observed_s` apart.

    `state`, `health`, `started_at` in Docker's words; `health` None: it has no health check; `health_log`: the last
    check's output; `error` is Docker's own (a port that was taken); `exit_code`: of its last end, 0 when there is none.
    """

    id: str
    state: str
    health: str | None
    health_log: str
    restart_count: int
    restart_count_after: int
    oom_killed: bool
    exit_code: int
    error: str
    started_at: str
    started_at_after: str
    observed_s: float


@dataclass(frozen=True)
class Held:
    """A folder or file of the host that a container that runs has at `target`. `held`: what it has there,
    `device:inode`; `now`: what lies at `source` on the host at this moment, None when nothing does."""

    source: str
    target: str
    held: str | None
    now: str | None


@dataclass(frozen=True)
class ServiceSeen:
    """One service, as it was seen. `outcome`: how the waiting for it ended, after `waited_s`; `container` None: there
    is none; `log_tail`: its last lines when something is wrong, secrets removed; `holds`: what it has of the host."""

    service: str
    stack: str
    port: int
    start_budget_s: float
    outcome: Literal["ready", "dead", "absent", "timeout"]
    waited_s: float
    container: ContainerSeen | None
    probes: list[ProbeAnswer]
    log_tail: list[str]
    holds: list[Held] = field(default_factory=list)
