"""What passes between the control side and `hostside.model_peer`. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class GivenFile:
    """A file that may be given: `at`: below the cache; `size`: bytes, with another size it is not given."""

    at: str
    size: int


@dataclass(frozen=True)
class GiveRequest:
    """The files that may be given, and no other; `cache_dir`: the hub's cache."""

    files: list[GivenFile]
    cache_dir: str


@dataclass(frozen=True)
class TakenFile:
    """A file as it is asked for; `etag`: by which the hub knows its bytes."""

    repo: str
    commit: str
    file: str
    size: int
    etag: str


@dataclass(frozen=True)
class TakeRequest:
    """The files that the other side gives, in the order of its request; `secret`: who knows it may ask for them."""

    files: list[TakenFile]
    secret: str = field(repr=False)


@dataclass(frozen=True)
class TakeReady:
    """`port`: of the loopback, where they are asked for."""

    port: int
