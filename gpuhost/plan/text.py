"""A run's report as text for people and as one JSON document for programs. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from gpuhost.errors import Problem
from gpuhost.plan.change import Change
from gpuhost.plan.report import select
from hostside.wire import printable

Event = dict[str, Any]
NOTES = ("skipped", "gpu", "limit", "on_demand")  # events that say something of a host that is no problem


def change_lines(changes: Iterable[Event]) -> Iterator[str]:
    """Every change with its reason and its differences, by host and stage."""
    stage = ""
    for change in changes:
        heading = f"[{change['host']}] {change['stage']}"
        if heading != stage:
            yield heading
            stage = heading
        made = Change.of(change)
        yield printable(f"  {made.action} {made.resource.name}: {made.reason}")
        for difference in made.diff:
            yield printable(f"      {difference.line()}")
        yield from _stops(made)


def _stops(change: Change) -> Iterator[str]:
    """The containers that a change stops besides itself."""
    stops = [name for name in (change.impact.stops if change.impact else ()) if name != change.resource.name]
    if stops and change.impact:
        stay = [name for name in stops if name not in change.impact.restarts]
        yield f"      stops for it: {', '.join(stops)}"
        if stay:
            yield f"      and do not start again by themselves: {', '.join(stay)}"


def change_fields(changes: Iterable[Event]) -> list[Event]:
    """Changes as the JSON document holds them."""
    fields = ("host", "stage", "resource", "action", "reason", "diff", "impact")
    return [{key: change[key] for key in fields} for change in changes]


def document(result: str, changes: Iterable[Event], events: Sequence[Event], problems: Iterable[Problem]) -> Event:
    """The JSON document of a run: `result`, changes, and what its events say."""
    return {
        "result": result,
        "changes": change_fields(changes),
        "skipped": [
            {"host": event["host"], "service": event["service"], "reason": event["reason"]}
            for event in select(events, "skipped")
        ],
        "notes": [{"host": event["host"], "message": event["message"]} for event in select(events, *NOTES)],
        "observed": list(select(events, "observed")),
        "errors": [asdict(problem) for problem in problems],
    }
