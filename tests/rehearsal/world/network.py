"""A world's network: one bridge that leads nowhere, its gateway, and names for the stand-ins."""

from __future__ import annotations

import ipaddress
import random
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .run import RunError, run

LABEL = "gpuhost.rehearsal"


@dataclass(frozen=True)
class Network:
    """A Docker bridge; `gateway` is this machine's address in it."""

    name: str
    bridge: str
    subnet: str
    gateway: str
    comment: str

    def address(self, number: int) -> str:
        """The address of the `number`th host."""
        return str(ipaddress.ip_network(self.subnet)[10 + number])

    def _rules(self) -> list[list[str]]:
        """What keeps the hosts inside: nothing is forwarded out of the bridge."""
        tail = ["-m", "comment", "--comment", self.comment, "-j", "REJECT", "--reject-with", "icmp-net-unreachable"]
        return [["DOCKER-USER", "-i", self.bridge, "!", "-o", self.bridge, *tail]]

    def create(self, world: str) -> None:
        """Make the bridge; RunError when the subnet is taken."""
        addresses = ["--subnet", self.subnet, "--gateway", self.gateway]
        options = ["--label", f"{LABEL}={world}", "-o", f"com.docker.network.bridge.name={self.bridge}"]
        run(["docker", "network", "create", "--driver", "bridge", *addresses, *options, self.name])
        for rule in self._rules():
            run(["iptables", "-w", "-I", *rule])

    def remove(self) -> None:
        """Remove bridge and rules; what is gone already is no error."""
        for rule in iptables_rules(self.comment):
            run(["iptables", "-w", "-D", *rule[1:]], check=False)
        run(["docker", "network", "rm", self.name], check=False)

    def cut(self, address: str, keep_ssh: bool) -> None:
        """Let nothing of a host through to us any more; with `keep_ssh` all but its SSH server."""
        match = ["-s", address, "-m", "comment", "--comment", f"{self.comment}-cut"]
        run(["iptables", "-w", "-I", "INPUT", *match, "-j", "DROP"])
        if keep_ssh:
            run(["iptables", "-w", "-I", "INPUT", "-p", "tcp", "--sport", "22", *match, "-j", "ACCEPT"])

    def mend(self, address: str) -> None:
        """End a cut."""
        for rule in iptables_rules(f"{self.comment}-cut"):
            if f"{address}/32" in rule:
                run(["iptables", "-w", "-D", *rule[1:]])


def iptables_rules(comment: str) -> list[list[str]]:
    """The rules whose comment starts with `comment`, as arguments (-A CHAIN ...)."""
    lines = run(["iptables", "-w", "-S"]).stdout.splitlines()
    wanted = (f"--comment {comment}", f'--comment "{comment}')
    return [line.replace('"', "").split() for line in lines if any(text in line for text in wanted)]


def make_network(world: str) -> Network:
    """A bridge with a /24 that is free on this machine and that the product never uses (10.200-249.x)."""
    taken = _routed_networks()
    for _ in range(50):
        subnet = ipaddress.ip_network(f"10.{random.randint(200, 249)}.{random.randint(0, 255)}.0/24")
        if any(subnet.overlaps(other) for other in taken):
            continue
        network = Network(f"gpuhost-{world}", f"gh-{world}", str(subnet), str(subnet[1]), f"gpuhost-{world}")
        try:
            network.create(world)
        except RunError as error:
            if "overlap" not in str(error):
                raise
            continue
        return network
    raise RunError("found no free /24 in 10.200.0.0 - 10.249.255.0")


def _routed_networks() -> list[ipaddress.IPv4Network]:
    found = []
    for line in run(["ip", "-4", "route"]).stdout.splitlines():
        first = line.split()[0]
        if first != "default":
            found.append(ipaddress.ip_network(first, strict=False))
    return [network for network in found if isinstance(network, ipaddress.IPv4Network)]


def start_dns(network: Network, names: list[str], run_dir: Path) -> int:
    """Start dnsmasq on the gateway: every stand-in's name leads to it, any other name does not exist."""
    answers = [f"--address=/{name}/{network.gateway}" for name in names]
    alone = ["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root", "--pid-file="]
    where = ["--bind-interfaces", f"--listen-address={network.gateway}", "--except-interface=lo"]
    with (run_dir / "dnsmasq.log").open("ab") as log:
        process = subprocess.Popen(
            ["dnsmasq", *alone, *where, "--log-facility=-", "--address=/#/", *answers],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    return process.pid
