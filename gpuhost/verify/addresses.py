"""What the end of a run says of services: which answer, where, and the `ssh -L` line for a remote host. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gpuhost.engine.containers import address
from hostside.wire import printable


def tunnel(user: str, hostname: str, port: int, key: str, services: Iterable[tuple[str, int]]) -> str:
    """The ssh command that brings a remote host's loopback ports here. `services`: (address, port) of each."""
    options = [f"-L {number}:{address(ip)}:{number}" for ip, number in services]
    options += [f"-p {port}"] if port != 22 else []
    options += [f"-i {key}"] if key else []
    return f"ssh -N {' '.join(options)} {f'{user}@' if user else ''}{hostname}"


def verdict_lines(events: Iterable[Mapping[str, Any]]) -> list[str]:
    """How many services of each host answer, and which; from a report's `verdict` events."""
    return [printable(f"[{event['host']}] {_answering(event)}") for event in events if event["event"] == "verdict"]


def _answering(verdict: Mapping[str, Any]) -> str:
    services, failed = verdict["services"], verdict["failed"]
    answering = [name for name in services if name not in failed]
    count = f"{len(answering)} of {len(services)} services answer"
    return f"{count}: {', '.join(answering)}" if answering else f"{count}."


def lines(events: Iterable[Mapping[str, Any]]) -> list[str]:
    """What the end of a run says, from its report's `address` events."""
    return [printable(f"[{event['host']}] {event['message']}") for event in events if event["event"] == "address"]
