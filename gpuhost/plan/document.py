"""A run's report as one JSON document, for programs. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict

from gpuhost.errors import Problem
from gpuhost.plan.report import select
from gpuhost.plan.text import NOTES, Event


def change_fields(changes: Iterable[Event]) -> list[Event]:
    """Changes as the JSON document holds them."""
    fields = ("host", "stage", "resource", "action", "reason", "diff", "text_diff", "impact")
    return [{key: change.get(key, []) for key in fields} for change in changes]


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
