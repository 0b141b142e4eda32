"""A service as the API shows it: what the broker tells of its container, and that is an allow-list of fields."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel


class Port(BaseModel):
    """One published port. `host_ip` 0.0.0.0 or :: means: open to the network."""

    host_ip: str
    host_port: int
    container_port: int
    protocol: str


class Service(BaseModel):
    """One container of ours, as Docker sees it now."""

    name: str
    stack: str | None
    state: str
    health: str | None
    started_at: str | None
    restart_count: int
    oom_killed: bool
    image: str
    ports: list[Port]
    models: list[str]


def by_name(services: Iterable[Service]) -> dict[str, Service]:
    """Services in the order of their names. Where two containers claim one name, the running one counts."""
    return {each.name: each for each in sorted(services, key=lambda s: (s.name, s.state == "running"))}
