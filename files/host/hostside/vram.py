"""Which services have room on a GPU together, by what each has declared to take of it. Standard library."""

from __future__ import annotations

from collections.abc import Mapping

# Of a card that several services share: each measures what is free when it starts, and the driver takes its part.
SHARED_PART = 0.90


def shared_mib(total_mib: int) -> int:
    """What the services of a card may take together, in MiB."""
    return int(total_mib * SHARED_PART)


def in_the_way(takes_mib: int, of_mib: int, running: Mapping[str, int]) -> list[str]:
    """The services beside which one more has no room on a card; [] when it has. Alone it has.

    `takes_mib`: of the card; `of_mib`: what all may take together; `running`: service -> MiB that it takes.
    """
    if not running or takes_mib + sum(running.values()) <= of_mib:
        return []
    return sorted(running)


def told(takes_mib: int, of_mib: int, running: Mapping[str, int]) -> str:
    """Why it has no room, in words."""
    beside = " and ".join(f"`{name}` ({mib} MiB)" for name, mib in sorted(running.items()))
    return f"it takes {takes_mib} MiB of its GPU, where {of_mib} MiB are for all together, beside {beside}"
