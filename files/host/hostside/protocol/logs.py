"""What passes between the control side and `hostside.logs`. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class LogRequest:
    """The last `tail` lines of a service's container, and what comes when it is to `follow`; `secrets`: to mask."""

    service: str
    tail: int
    follow: bool
    secrets: list[str] = field(repr=False)
