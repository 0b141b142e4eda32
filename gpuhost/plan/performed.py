"""What an apply performed, compared with what was planned. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from gpuhost.errors import Problem
from gpuhost.plan.change import Change
from gpuhost.plan.report import select

Event = dict[str, Any]


def unplanned(planned: Iterable[Event], events: Sequence[Event]) -> list[Problem]:
    """A problem for each change that was performed and not planned, on every host that did not itself fail."""
    expected = {_key(event) for event in planned}
    surprises = {_key(event) for event in select(events, "performed")} - expected
    hint = "this is a defect of gpuhost: please report it with the plan"
    return [
        Problem(f"`{stage}: {action} {name}` was done, but not planned", hint, host)
        for host, stage, _, name, action in sorted(surprises)
        if host not in _failed(events)
    ]


def already_done(planned: Iterable[Event], events: Sequence[Event], succeeded: bool) -> list[Event]:
    """The planned changes that were not necessary any more when their turn came, on every host that came to the end.

    `succeeded`: the whole run did, and so did every host; else those came to the end that have a verdict.
    """
    performed = {_key(event) for event in select(events, "performed")}
    ended = {event["host"] for event in select(events, "host" if succeeded else "verdict")} - _failed(events)
    return [event for event in planned if event["host"] in ended and _key(event) not in performed]


def _failed(events: Sequence[Event]) -> set[str]:
    return {event["host"] for event in select(events, "problem", "failed")}


def _key(event: Event) -> tuple[str, ...]:
    return (event["host"], *Change.of(event).key)
