"""The report of a run: JSON lines that `gpuhost plan` and `gpuhost apply` read, one logged line for people.

Events: `hosts` (of the command line, in the inventory's order), `unused` (what of the data is), `host`, `running`,
`measured`, `speed` (of the last fetch of models), `gpu`, `skipped`, `limit`, `unpinned`, `fetch`, `revisions` (what
preflight found), `driver` (it comes alone: the rest is planned when it is loaded), `change` (phase plan or apply),
`performed`, `failed`, `problem`, `on_demand`, `observed` (of one service), `verdict`, `address`, `login` (the secrets
that one takes), `service` (what it does now), `secret_location`, `model`, `models_verified`, `unidentified`,
`unverified` (of what was asked for), `kept` (what a removal leaves), `reclaimable` (images of ours that the data names
no more).
Nothing secret is ever an event's value.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from gpuhost.plan.change import Change


class Report:
    """Appends events to a file (0600); with no file the events go nowhere."""

    def __init__(self, path: str | None) -> None:
        self._path = path

    def add(self, event: str, host: str, **fields: Any) -> None:
        """Append one event."""
        if self._path is None:
            return
        line = json.dumps({"event": event, "host": host, **fields}, sort_keys=True)
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, line.encode() + b"\n")
        finally:
            os.close(descriptor)


def read(path: Path) -> list[dict[str, Any]]:
    """Every event of a report, in order; [] when the run wrote none."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def by_host(events: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The events host by host, in the inventory's order: hosts that work at the same time report as it happens."""
    listed = list(events)
    order = [name for event in select(listed, "hosts") for name in event["names"]]
    places = {name: place for place, name in enumerate(order)}
    return sorted(listed, key=lambda event: places.get(event["host"], -1))


def select(events: Iterable[dict[str, Any]], *kinds: str) -> Iterator[dict[str, Any]]:
    """The events of some kinds."""
    return (event for event in events if event["event"] in kinds)


def allow_list(events: Iterable[dict[str, Any]]) -> dict[str, list[list[str]]]:
    """host -> the changes that a plan announced, as [stage, kind, name, action]."""
    allowed: dict[str, list[list[str]]] = {}
    for event in events:
        if event["event"] == "host":
            allowed.setdefault(event["host"], [])
        if event["event"] == "change" and event["phase"] == "plan":
            allowed.setdefault(event["host"], []).append(list(Change.of(event).key))
    return allowed


def revisions(events: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """host -> what the hub said of revisions when a plan was made: the apply takes that, and asks nobody again."""
    return {event["host"]: event["models"] for event in select(events, "revisions")}
