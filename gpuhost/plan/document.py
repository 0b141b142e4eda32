"""A run's report as one JSON document, for programs. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType
from typing import Literal

from gpuhost.errors import Problem
from gpuhost.plan.report import select
from gpuhost.plan.text import NOTES, Event
from gpuhost.plan.totals import Totals

VERSION: Literal[1] = 1  # of the documents; plan/schema.py describes them


def change_fields(changes: Iterable[Event]) -> list[Event]:
    """Changes as the JSON document holds them."""
    fields = ("host", "stage", "resource", "action", "reason", "diff", "text_diff", "impact")
    return [{key: change.get(key, []) for key in fields} for change in changes]


def document(
    result: str,
    changes: Iterable[Event],
    events: Sequence[Event],
    problems: Iterable[Problem],
    totals: Mapping[str, Totals] = MappingProxyType({}),
) -> Event:
    """The JSON document of a run: `result`, changes, what they cost each host together, and what its events say."""
    return {
        "version": VERSION,
        "result": result,
        "changes": change_fields(changes),
        "totals": {host: each.fields() for host, each in totals.items()},
        "skipped": [
            {"host": event["host"], "service": event["service"], "reason": event["reason"]}
            for event in select(events, "skipped")
        ],
        "notes": [{"host": event["host"], "message": event["message"]} for event in select(events, *NOTES)],
        "observed": list(select(events, "observed")),
        "errors": [asdict(problem) for problem in problems],
    }


def error_document(problems: Sequence[Problem]) -> Event:
    """What stands in a document's place when nothing could be begun."""
    errors = [asdict(problem) for problem in problems]
    return {"version": VERSION, "result": "error", "error": errors[0], "errors": errors}
