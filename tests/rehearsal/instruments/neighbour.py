"""Another machine on a host's network, as an attacker has it: root there, its routes and packets its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ..world.freshhost import FreshHost
from ..world.images import host_image
from ..world.network import LABEL
from ..world.run import Completed, run
from ..world.world import World

# Which addresses take a TCP connection, and why others do not.
ASK = """
import socket, sys
for target in sys.argv[1:]:
    address, port = target.rsplit(":", 1)
    try:
        socket.create_connection((address, int(port)), 3).close()
        print(target, "open", sep="\\t")
    except OSError as error:
        print(target, "shut", error, sep="\\t")
"""


def opened(answer: Completed) -> set[str]:
    """The targets that ASK reached."""
    rows = [line.split("\t") for line in answer.stdout.splitlines()]
    return {row[0] for row in rows if row[1] == "open"}


@dataclass(frozen=True)
class Neighbour:
    """A network namespace beside the host's. It needs no program but this machine's own."""

    host: FreshHost
    pid: int

    def reaches(self, *targets: str) -> set[str]:
        """Those of `address:port` that take a connection from here."""
        return opened(self._run(sys.executable, "-", *targets, input=ASK))

    def routes_to(self, subnet: str) -> None:
        """Send packets for a subnet to the host, though nobody announced a route."""
        self._run("ip", "route", "replace", subnet, "via", self.host.address)

    def gives_away_its_loopback(self) -> None:
        """Send packets for 127.0.0.1 to the host, and take the answers."""
        self._run("sysctl", "-q", "-w", "net.ipv4.conf.all.route_localnet=1", "net.ipv4.conf.eth0.route_localnet=1")
        self._run("ip", "address", "flush", "dev", "lo")
        own = self._run("ip", "-4", "-o", "address", "show", "dev", "eth0").stdout.split()[3].partition("/")[0]
        self._run("ip", "route", "replace", "127.0.0.1", "via", self.host.address, "dev", "eth0", "src", own)

    def _run(self, *command: str, input: str | None = None) -> Completed:
        return run(["nsenter", "--net", f"--target={self.pid}", *command], input=input)


@contextmanager
def neighbour(world: World, host: FreshHost) -> Iterator[Neighbour]:
    """A neighbour of the host, while the block runs."""
    assert world.network
    flags = ["--detach", "--rm", "--label", f"{LABEL}={world.id}", "--network", world.network.name]
    container = run(["docker", "run", *flags, host_image(host.spec.suite), "sleep", "infinity"]).stdout.strip()
    try:
        pid = run(["docker", "inspect", "-f", "{{.State.Pid}}", container]).stdout
        yield Neighbour(host, int(pid))
    finally:
        run(["docker", "rm", "--force", container])
