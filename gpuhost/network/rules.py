"""A host's networks as they should be: the options of each, the packet filter's rules for all. Pure.

The rules are ours and the same on every engine: before Docker 28 a neighbour on the LAN reaches ports that are
published on 127.0.0.1 (moby/moby#45610), and no engine keeps a container from the host and the LAN and publishes its
ports at the same time (a network with `--internal` publishes nothing).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from gpuhost.catalog.types import Network
from gpuhost.files.rules import FileSpec, plain, reason
from gpuhost.host.facts import BRIDGE_OPTION, MASQUERADE_OPTION
from gpuhost.host.paths import unit_file
from gpuhost.network.facts import FirewallReading
from gpuhost.plan.change import Change, Resource
from gpuhost.services.render import text

UNIT = "gpuhost-firewall.service"
TABLE = "gpuhost"  # nftables' name of the rules
_INTERFACE_CHARS = 15  # the kernel's limit
_PREFIX = "gh-"


@dataclass(frozen=True)
class Bridge:
    """A network as the rules see it; `gateway`: the host's address in it."""

    interface: str
    subnet: str
    gateway: str
    egress: bool


def interface(network: str) -> str:
    """The name of a network's bridge on the host: the network's own, as far as it fits."""
    room = _INTERFACE_CHARS - len(_PREFIX)
    if len(network) <= room:
        return _PREFIX + network
    return f"{_PREFIX}{network[: room - 5]}-{sha256(network.encode()).hexdigest()[:4]}"


def bridge(name: str, network: Network) -> Bridge:
    """A network's bridge. The gateway is the subnet's first address, as Docker chooses it."""
    return Bridge(
        interface(name), network.subnet, str(ipaddress.ip_network(network.subnet).network_address + 1), network.egress
    )


def options(name: str) -> dict[str, str]:
    """The options of Docker's with which a network is made. Addresses are translated by our rules, for the networks
    with a way out alone: without the rules no other one has one."""
    return {BRIDGE_OPTION: interface(name), MASQUERADE_OPTION: "false"}


def files(networks: Mapping[str, Network], rules: str) -> list[FileSpec]:
    """The file of the rules, at `rules`, and the unit that loads it before Docker starts."""
    bridges = [bridge(name, network) for name, network in sorted(networks.items())]
    return [
        plain(rules, text("firewall.nft.j2", bridges=bridges)),
        plain(unit_file(UNIT), text(f"{UNIT}.j2", rules=rules)),
    ]


def reconcile(
    wanted: Sequence[FileSpec], networks: Mapping[str, Network], seen: FirewallReading, existing: Mapping[str, object]
) -> list[Change]:
    """The files to write, the rules to load, the networks to make, in order. `existing`: Docker's networks."""
    changes = []
    for spec in wanted:
        found = seen.files.get(spec.path)
        why = reason(spec, spec.content(), found)
        if why is None and seen.stale_unit and spec.path.endswith(UNIT):
            why = "systemd has not read it since it changed"
        if why:
            changes.append(Change("layout", Resource("file", spec.path), "write" if found else "create", why))
    if not seen.enabled:
        changes.append(Change("layout", Resource("unit", UNIT), "enable", "it does not run at boot"))
    if (why := _why_load(changes, wanted[0], seen)) is not None:
        changes.append(Change("layout", Resource("firewall", TABLE), "load", why))
    return changes + [
        Change("layout", Resource("network", name), "create", f"no such network ({network.subnet})")
        for name, network in networks.items()
        if name not in existing
    ]


def _why_load(changes: Sequence[Change], rules: FileSpec, seen: FirewallReading) -> str | None:
    if any(change.resource.name == rules.path for change in changes):
        return f"{rules.path} changes" if seen.loaded else "its rules are not loaded"
    if not seen.loaded:
        return "its rules are not loaded"
    if not seen.as_in_file:
        return f"what is loaded is not what {rules.path} says"
    return None if seen.active else f"{UNIT} does not run"
