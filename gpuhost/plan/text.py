"""A run's report as text for people. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from gpuhost.plan.change import Change
from hostside.wire import printable

Event = dict[str, Any]
NOTES = ("skipped", "gpu", "limit", "unpinned", "on_demand")  # events that say something of a host that is no problem


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
        yield printable(f"      stops for it: {', '.join(stops)}")
        if stay:
            yield printable(f"      and do not start again by themselves: {', '.join(stay)}")
