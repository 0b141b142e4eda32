"""What a Dockerfile of ours says of the image that it makes. Pure."""

from __future__ import annotations

import re


def exposed_ports(dockerfile: str) -> frozenset[int]:
    """The TCP ports on which the image says that it listens (EXPOSE in its last stage); empty when it does not say,
    or says it by a variable."""
    stage = re.split(r"(?im)^[ \t]*FROM[ \t]", dockerfile)[-1]
    words = [word for line in re.findall(r"(?im)^[ \t]*EXPOSE[ \t]+(.*)$", stage) for word in line.split()]
    ports = [re.fullmatch(r"(\d+)(?:-(\d+))?(?:/(tcp|udp))?", word) for word in words]
    if not all(ports):
        return frozenset()
    found: set[int] = set()
    for port in ports:
        if port and port[3] != "udp":
            found |= set(range(int(port[1]), int(port[2] or port[1]) + 1))
    return frozenset(found)
