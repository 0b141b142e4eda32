"""Where the services of a host are reached, and the `ssh -L` line for a remote one. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gpuhost.services.containers import address
from hostside.wire import printable


def tunnel(user: str, hostname: str, port: int, key: str, services: Iterable[tuple[str, int]]) -> str:
    """The ssh command that brings a remote host's loopback ports here. `services`: (address, port) of each."""
    options = [f"-L {number}:{address(ip)}:{number}" for ip, number in services]
    options += [f"-p {port}"] if port != 22 else []
    options += [f"-i {key}"] if key else []
    return f"ssh -N {' '.join(options)} {f'{user}@' if user else ''}{hostname}"


def lines(events: Iterable[Mapping[str, Any]]) -> list[str]:
    """What the end of a run says, from its report's `address` events."""
    return [printable(f"[{event['host']}] {event['message']}") for event in events if event["event"] == "address"]
