"""What containers have of the host's folders and files: whether it is still what lies there, and whether what one may
write leads to what another one, or root, is given; and what none may have. Pure."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from gpuhost.errors import Cause
from gpuhost.plan.spec import Spec
from hostside.protocol.verify import Held

# Whoever may write to one of these is root on the host.
_SOCKETS = ("/run/docker.sock", "/run/containerd/containerd.sock")


def is_lost(held: Held) -> bool:
    """True when the container has another thing than what lies at the source now: that was removed or made anew.

    What cannot be seen inside, because the process ended meanwhile, says nothing.
    """
    return held.held is not None and held.held != held.now


def lost_reason(held: Held) -> str:
    """In words, for one that is lost."""
    what = "was removed" if held.now is None else "was made anew"
    return f"{held.source} {what} after it started: it holds the old one as {held.target}"


@dataclass(frozen=True)
class Bind:
    """A folder or file of the host that a container is given. `owner`: whose container it is, in words."""

    owner: str
    source: str
    read_only: bool


def of_spec(owner: str, spec: Spec) -> list[Bind]:
    """The binds of a service's spec, whose volumes are target -> `source` or `source:ro`."""
    return [Bind(owner, text.removesuffix(":ro"), text.endswith(":ro")) for text in spec["volumes"].values()]


def unsafe(binds: Iterable[Bind], kept: Mapping[str, str]) -> Iterator[Cause]:
    """Each thing that lies in a folder which a container writes: it could put a link to anything
    in its place, and Docker follows links at every start. `kept`: folder of root's -> what it is called in the data.

    The very folder that a container writes may be given to others: whoever writes in it cannot replace it.
    """
    found = list(binds)
    for writer in dict.fromkeys(bind for bind in found if not bind.read_only):
        for bind in dict.fromkeys(found):
            if _inside(bind.source, writer.source):
                yield Cause(
                    f"{bind.owner} is given {bind.source}, which lies in {writer.source}, where {writer.owner} writes",
                    "give it a path that lies elsewhere: what a container writes is mounted nowhere piece by piece",
                )
        for path, name in kept.items():
            if path == writer.source or _inside(path, writer.source):
                yield Cause(
                    f"`{name}` ({path}) lies in {writer.source}, where {writer.owner} writes",
                    f"choose another folder as `{name}`",
                )


def engine_sockets(specs: Mapping[str, Spec]) -> Iterator[Cause]:
    """Every mount of a service that holds the socket of a container engine."""
    for name, spec in specs.items():
        for target, mounted in spec["volumes"].items():
            source = _real(mounted.removesuffix(":ro"))
            for socket in map(PurePosixPath, _SOCKETS):
                if socket == source or source in socket.parents:
                    yield Cause(
                        f"`{name}` mounts {mounted} at {target}: {socket} in it is root on the host, read-only or not",
                        "take it out of the template; `controls_services` lets a service see, start and stop ours",
                    )
                    break


@functools.lru_cache(4096)
def _inside(path: str, folder: str) -> bool:
    return PurePosixPath(folder) in PurePosixPath(path).parents


def _real(path: str) -> PurePosixPath:
    """/var/run is a link to /run on every system that we support."""
    parts = PurePosixPath(path).parts
    return PurePosixPath("/", *parts[2:]) if parts[1:3] == ("var", "run") else PurePosixPath(*parts)
