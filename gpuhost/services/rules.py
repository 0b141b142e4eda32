"""Services as steps towards what should run: what is there, what is wanted, and the ordered way between. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Literal

from gpuhost.engine.containers import Container
from gpuhost.errors import Cause
from gpuhost.plan.change import Change, Difference, Impact, Resource, Scope
from gpuhost.plan.spec import Spec, differences, summary
from gpuhost.secrets.locations import TO_BE_GENERATED, shown
from gpuhost.services.binds import is_lost, lost_reason
from gpuhost.services.compose import changed_settings, environment_of, secret_differences
from hostside.vram import in_the_way, told

WILL_BE_WRITTEN = float("inf")
# compose makes the new container under such a name, and gives it the service's when the old one is gone.
_UNFINISHED = re.compile(r"[0-9a-f]{12}_.+")


_HOLDS_MEMORY = ("running", "restarting", "paused")
_INTERRUPTED = "an earlier run was interrupted while it made its container"


@dataclass(frozen=True)
class Desired:
    """What should be there of one service. `gpus`: the UUIDs of those that it computes on; `reads_gpus`: it only reads
    the state of all; `environment`: the secrets that its environment holds; `variables`: the keyed fingerprint of each
    other variable that it has besides its image's; `start`: whether it runs, or only
    exists; `remade_install`: the install that it runs from, when this run makes that anew; `crowded`: its GPU has no
    room for it beside the others: made anew it is not started, though it ran; `takes_mib`: of each of its GPUs, 0 when
    nobody has measured it."""

    stack: str
    spec: Spec
    gpus: frozenset[str] = frozenset()
    reads_gpus: bool = False
    environment: frozenset[str] = frozenset()
    variables: Mapping[str, str] = field(default_factory=dict)
    start: Literal["always", "on-demand"] = "always"
    remade_install: str = ""
    crowded: bool = False
    takes_mib: int = 0

    @property
    def ports(self) -> set[str]:
        """The ports of the host that it needs, on whatever address: 0.0.0.0 takes them all."""
        return {_on_host(port) for port in self.spec.get("ports", ())}


@dataclass(frozen=True)
class FileTimes:
    """`written_s`: service -> when the newest file that its process reads at its start was written (Unix time, or
    WILL_BE_WRITTEN); `now_s`: the host's time. A file from the future says nothing: a clock was set back."""

    written_s: Mapping[str, float] = field(default_factory=dict)
    now_s: float = 0.0

    def started_before_files(self, service: str, started_s: float) -> bool:
        """True when the process started before its files became what they are."""
        written = self.written_s.get(service, 0.0)
        return written == WILL_BE_WRITTEN or started_s < written <= self.now_s


@dataclass(frozen=True)
class ServiceStep:
    """One thing to do. `remove`: a container by its id, without its data; `up`: make (and start) the service's
    container, taking the place of the old one; `wait`: until it is healthy, or will never be."""

    do: Literal["remove", "up", "unpause", "wait"]
    service: str
    container: str = ""
    start: bool = True


@dataclass(frozen=True)
class ServicePlan:
    """`changes`: what a plan says, one a service; `steps`: how it is done, in order."""

    changes: list[Change]
    steps: list[ServiceStep]


@dataclass(frozen=True)
class _Finding:
    action: Literal["create", "recreate", "unpause"]
    reason: str
    diff: tuple[Difference, ...] = ()
    scope: Scope = ""


_RESTARTING = _Finding("recreate", "it is restarting")


def reconcile(
    desired: Mapping[str, Desired],
    containers: Sequence[Container],
    skipped: Mapping[str, str] | None = None,
    clock: FileTimes | None = None,
    planned: Set[tuple[str, str]] | None = None,
    data: Callable[[str], str] = lambda service: "where it is",
) -> ServicePlan:
    """The steps from what is there to what should be. `desired` is in start order; `skipped`: enabled services that
    this host cannot run -> why; `planned`: what the plan said, as (service, action), None when this is the plan;
    `data`: service -> where its data is, in words.

    Whether a container runs is a volatile reading, which decides once, in the plan: one that restarts in a loop may run
    at this moment. One that began to restart since then is left to the verification, which knows the scope.
    Containers that are somebody's own are left alone.
    """
    ours = [each for each in containers if not each.own]
    found: dict[str, _Finding] = {}
    for name, wanted in desired.items():
        finding = _finding(name, wanted, _of(ours, name), clock or FileTimes())
        current = _current(ours, name, wanted)
        if planned is not None and current:
            if finding is None and (name, "recreate") in planned and current.restarts:
                finding = _Finding("recreate", "it restarts in a loop")
            elif finding == _RESTARTING and (name, "recreate") not in planned:
                finding = None
        if finding:
            found[name] = finding
    orphans = sorted({each.service for each in ours} - desired.keys())
    changes = [_removal(name, (skipped or {}).get(name), data) for name in orphans]
    steps = list(_steps(desired, ours, found))
    started = {step.service for step in steps if step.do == "up" and step.start}
    published = {_address(port) for each in ours for port in each.ports}
    changes += [
        Change(
            *("stacks", Resource("service", name), each.action, each.reason, each.diff, each.scope),
            impact=Impact(starts=name in started, opens=_opened(desired[name], published)),
        )
        for name, each in found.items()
    ]
    return ServicePlan(changes, steps)


def _opened(wanted: Desired, published: Set[str]) -> tuple[str, ...]:
    """The addresses of this service that no container of ours has published, on this address or on every one."""
    asked = [_address(port) for port in wanted.spec.get("ports", ())]
    every = [{f"{all_of}:{address.rpartition(':')[2]}" for all_of in ("0.0.0.0", "[::]")} for address in asked]
    return tuple(address for address, wider in zip(asked, every, strict=True) if not {address, *wider} & published)


def _address(port: str) -> str:
    """`127.0.0.1:8188:80` -> `127.0.0.1:8188`."""
    return port.rpartition(":")[0]


def without_room(
    desired: Mapping[str, Desired], containers: Sequence[Container], plan: ServicePlan, room_mib: Mapping[str, int]
) -> Cause | None:
    """Why a service that always runs must not be started: others, which somebody started on demand, run on its GPU and
    leave it no room. `room_mib`: UUID of a GPU -> what services may take of it together."""
    started = {step.service for step in plan.steps if step.do == "up" and desired[step.service].start == "always"}
    guests = {
        each.service
        for each in containers
        if not each.own and each.state in _HOLDS_MEMORY and each.service in desired and _is_guest(desired[each.service])
    }
    for name in desired:
        for gpu in sorted(desired[name].gpus) if name in started else ():
            beside = {other: desired[other].takes_mib for other in guests if gpu in desired[other].gpus}
            there = {
                other: wanted.takes_mib
                for other, wanted in desired.items()
                if other != name and gpu in wanted.gpus and wanted.start == "always" and wanted.takes_mib
            }
            if beside and in_the_way(desired[name].takes_mib, room_mib.get(gpu, 0), beside | there):
                first = " and ".join(f"`docker stop {each}`" for each in sorted(beside))
                what = told(desired[name].takes_mib, room_mib.get(gpu, 0), beside | there)
                return Cause(f"`{name}` cannot be started: {what}", f"{first} on the host, then run again")
    return None


def _is_guest(wanted: Desired) -> bool:
    return wanted.start == "on-demand" and wanted.takes_mib > 0


def taken_for_service(
    desired: Mapping[str, Desired], containers: Sequence[Container], plan: ServicePlan
) -> tuple[str, str] | None:
    """(container, service): one of somebody's that compose would take for the service which it is to make, by the
    labels that came along when he copied it, and replace. None when there is none."""
    made = {step.service for step in plan.steps if step.do == "up"}
    return next(
        (
            (each.name, each.service)
            for each in containers
            if each.own == "copy" and each.service in made and each.project == desired[each.service].stack
        ),
        None,
    )


def _of(containers: Sequence[Container], name: str) -> list[Container]:
    return [each for each in containers if each.service == name]


def _current(containers: Sequence[Container], name: str, wanted: Desired) -> Container | None:
    """The container that is the service, as compose knows it; every other one of its label is in the way."""
    return next((c for c in _of(containers, name) if c.name == name and c.project == wanted.stack), None)


def _removal(name: str, why_skipped: str | None, data: Callable[[str], str]) -> Change:
    reason = why_skipped or f"it is not among the enabled services of this host; its data stays {data(name)}"
    return Change("stacks", Resource("service", name), "remove", reason)


def _finding(name: str, wanted: Desired, containers: Sequence[Container], clock: FileTimes) -> _Finding | None:
    """What is wrong with a service; None when the right container is there."""
    if not containers:
        return _Finding("create", "no container")
    current = _current(containers, name, wanted)
    if current is None:
        return _misplaced(name, wanted, containers)
    if len(containers) > 1:
        others = [each.name for each in containers if each.name != name]
        if all(_UNFINISHED.fullmatch(other) for other in others):
            return _Finding("recreate", _INTERRUPTED, scope="secret")
        return _Finding("recreate", f"it has another container, {', '.join(others)}")
    return _differing(wanted, current) or _not_running(wanted, current, clock)


def _misplaced(name: str, wanted: Desired, containers: Sequence[Container]) -> _Finding:
    there = containers[0]
    if _UNFINISHED.fullmatch(there.name):
        return _Finding("recreate", _INTERRUPTED, scope="secret")
    if there.name != name:
        return _Finding("recreate", f"its container was renamed to {there.name}")
    diff = (Difference("stack", there.project or None, wanted.stack),)
    return _Finding("recreate", f"it moves from stack {there.project or 'none'} to {wanted.stack}", diff)


def _differing(wanted: Desired, current: Container) -> _Finding | None:
    if current.spec is None:
        return _Finding("recreate", "what it was made from cannot be read from its label")
    diff = differences(current.spec, wanted.spec)
    if diff:
        secrets = secret_differences(diff)
        shown = tuple(map(_shortened, diff))
        if len(secrets) == len(diff):
            return _Finding("recreate", f"it runs with another value of {', '.join(secrets)}", shown, "secret")
        public = tuple(each for each in shown if not each.field.startswith("secrets."))
        return _Finding("recreate", summary(public), shown)
    changed = (*changed_settings(wanted.spec, current), *_changed_variables(wanted, current))
    if changed:
        return _Finding("recreate", f"somebody changed it: {summary(changed)}", changed)
    return _other_secret(wanted, current.environment) if current.environment is not None else None


def _other_secret(wanted: Desired, held: Mapping[str, str]) -> _Finding | None:
    right: Mapping[str, str | None] = wanted.spec["secrets"]
    other = sorted(name for name in wanted.environment if held.get(name) != right[name])
    if not other:
        return None
    reason = f"its environment holds another value of {', '.join(other)} than its label records"
    diff = tuple(_shortened(Difference(f"secrets.{name}", held.get(name), right[name])) for name in other)
    return _Finding("recreate", reason, diff, "secret")


# The engine's client gives these to what it makes, when its own configuration names proxies.
_OF_CLIENT = {f"{name}_PROXY" for name in ("HTTP", "HTTPS", "FTP", "ALL", "NO")}


def _changed_variables(wanted: Desired, current: Container) -> tuple[Difference, ...]:
    """What somebody changed of the variables that are no secrets. Fingerprints are shown: what he gave may be one."""
    if current.environment is None:
        return ()
    right, held = wanted.variables, current.environment
    theirs = current.added.keys() - environment_of(wanted.spec).keys()
    before = {name: held.get(name) for name in right}
    before |= {name: current.added[name] for name in theirs if name.upper() not in _OF_CLIENT}
    return tuple(
        Difference(f"environment.{name}", *(text and shown(text) for text in (before[name], right.get(name))))
        for name in sorted(before)
        if before[name] != right.get(name)
    )


def _shortened(difference: Difference) -> Difference:
    """Fingerprints as people see them."""
    if not difference.field.startswith("secrets."):
        return difference
    before, after = (text and shown(text) for text in (difference.before, difference.after))
    return replace(difference, before=before, after=after or TO_BE_GENERATED)


def _not_running(wanted: Desired, current: Container, clock: FileTimes) -> _Finding | None:
    on_demand = wanted.start == "on-demand"
    if wanted.remade_install and current.state in ("running", "paused", "restarting"):
        return _Finding("recreate", f"its install `{wanted.remade_install}` is made anew")
    if current.state in ("running", "paused") and clock.started_before_files(current.service, current.started_s):
        return _Finding("recreate", "it started before its files were last written", scope="secret")
    if current.state in ("running", "paused") and (lost := [each for each in current.holds if is_lost(each)]):
        return _Finding("recreate", "; ".join(map(lost_reason, lost)))
    if current.state == "running" and current.gpus_denied:
        return _Finding("recreate", "the kernel denies it the GPUs that it was given: a reload of systemd takes them")
    if current.state == "running":
        return None
    if on_demand and current.state in ("created", "exited", "paused"):
        return None
    if current.state == "paused":
        return _Finding("unpause", "it is paused")
    if current.state == "created":
        return _Finding("recreate", "it was made and never started", scope="secret")
    return _Finding("recreate", f"it is {current.state}")


def _steps(
    desired: Mapping[str, Desired], containers: Sequence[Container], found: Mapping[str, _Finding]
) -> Iterator[ServiceStep]:
    """First what frees a name, a port or a GPU that another one needs; then each service in start order, the next one
    when the one before is healthy."""
    made = {name: desired[name] for name, finding in found.items() if finding.action in ("create", "recreate")}
    for container in containers:
        if _must_go_first(container, containers, desired, made):
            yield ServiceStep("remove", container.service, container.id)
    for name, finding in found.items():
        if finding.action == "unpause":
            current = _current(containers, name, desired[name])
            assert current, "it is paused"
            yield ServiceStep("unpause", name, current.id)
            continue
        ran = any(each.state in ("running", "restarting", "paused") for each in _of(containers, name))
        start = desired[name].start == "always" or (ran and not desired[name].crowded)
        yield ServiceStep("up", name, start=start)
        if start:
            yield ServiceStep("wait", name)


def _must_go_first(
    container: Container,
    containers: Sequence[Container],
    desired: Mapping[str, Desired],
    made: Mapping[str, Desired],
) -> bool:
    wanted = desired.get(container.service)
    if wanted is None:
        return True
    if container.service not in made:
        return False
    if container.name != container.service or container.project != wanted.stack:
        return True  # compose does not take it for the one to replace, and would trip over its name
    ports = {_on_host(port) for port in container.ports} - wanted.ports
    cards = set() if wanted.reads_gpus else set(container.gpus)
    return any(
        ports & other.ports or _frees(cards, wanted, other, _of(containers, name))
        for name, other in made.items()
        if name != container.service
    )


def _frees(cards: Set[str], wanted: Desired, other: Desired, now: Sequence[Container]) -> bool:
    """True when one of these cards must be free before `other` starts: because its user leaves it, or because `other`
    (whose containers are `now`) comes to it only now. Two that share a card and stay there go one after the other."""
    shared = cards & other.gpus
    there = {gpu for container in now for gpu in container.gpus}
    return bool(shared - wanted.gpus or shared - there)


def _on_host(port: str) -> str:
    """`127.0.0.1:8188:80` -> `8188`."""
    return port.split(":")[-2]
