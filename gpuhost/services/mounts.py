"""What no container may be given. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from gpuhost.plan.spec import Spec

# Whoever may write to one of these is root on the host.
_SOCKETS = ("/run/docker.sock", "/run/containerd/containerd.sock")


def refusals(specs: Mapping[str, Spec]) -> Iterator[tuple[str, str]]:
    """(sentence, hint) for every mount of a service that holds the socket of a container engine."""
    for name, spec in specs.items():
        for target, mounted in spec["volumes"].items():
            source = _real(mounted.removesuffix(":ro"))
            for socket in map(PurePosixPath, _SOCKETS):
                if socket == source or source in socket.parents:
                    yield (
                        f"`{name}` mounts {mounted} at {target}: {socket} in it is root on the host, read-only or not",
                        "take it out of the template; `controls_services` lets a service see, start and stop ours",
                    )
                    break


def _real(path: str) -> PurePosixPath:
    """/var/run is a link to /run on every system that we support."""
    parts = PurePosixPath(path).parts
    return PurePosixPath("/", *parts[2:]) if parts[1:3] == ("var", "run") else PurePosixPath(*parts)
