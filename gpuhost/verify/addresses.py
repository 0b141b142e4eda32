"""What the end of a run says of services: which answer, where, and the `ssh -L` line for a remote host. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_address
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from gpuhost.network.address import address
from hostside.wire import printable

if TYPE_CHECKING:  # pydantic takes long to import
    from gpuhost.catalog.types import Catalog, Service

_APART = 100  # between the local ports of one service on two hosts: 8188, 8288, 8388
_LAST_PORT = 65535


class Forward(NamedTuple):
    """One port of a tunnel: `local` here leads to `ip` and `port` on the host."""

    local: int
    ip: str
    port: int


def is_tunnelled(host: str, entry: Service) -> bool:
    """Whether a service is reached from here by a tunnel alone."""
    return not host.startswith("@local") and ip_address(entry.bind).is_loopback


def local_ports(catalogs: Mapping[str, Catalog]) -> dict[tuple[str, str], int]:
    """(host, service) -> the port here at which a tunnel brings it: its own, or the next free one in steps of 100 when
    a host that comes before in the inventory has that. A host that is added at the end changes nobody's."""
    found: dict[tuple[str, str], int] = {}
    taken: set[int] = set()
    for host, catalog in catalogs.items():
        for name, entry in catalog.enabled().items():
            if is_tunnelled(host, entry):
                steps = range(entry.port, _LAST_PORT + 1, _APART)
                free = next(port for port in chain(steps, range(1024, _LAST_PORT)) if port not in taken)
                found[host, name] = free
                taken.add(free)
    return found


def tunnel(host: str, data: Mapping[str, Any], forwards: Iterable[Forward]) -> list[str]:
    """The ssh command that brings ports of a remote host here. `data`: the host's, as pyinfra reads it."""
    words = ["ssh", "-N", *chain.from_iterable(_forwarded(each) for each in forwards)]
    words += ["-F", str(data["ssh_config_file"])] if data.get("ssh_config_file") else []
    words += ["-p", str(data["ssh_port"])] if int(data.get("ssh_port") or 22) != 22 else []
    words += ["-i", str(data["ssh_key"])] if data.get("ssh_key") else []
    if data.get("ssh_known_hosts_file"):
        words += ["-o", f"UserKnownHostsFile={data['ssh_known_hosts_file']}"]
    user, name = data.get("ssh_user"), data.get("ssh_hostname") or host
    return [*words, f"{user}@{name}" if user else str(name)]


def command_line(words: Iterable[str]) -> str:
    """Words as a person types them; a `~` stays one that the shell reads."""
    return " ".join(f"~/{shlex.quote(word[2:])}" if word.startswith("~/") else shlex.quote(word) for word in words)


def _forwarded(forward: Forward) -> Iterator[str]:
    yield "-L"
    yield f"{forward.local}:{address(forward.ip)}:{forward.port}"


def verdict_lines(events: Iterable[Mapping[str, Any]]) -> list[str]:
    """How many services of each host answer, and which; from a report's `verdict` events."""
    return [printable(f"[{event['host']}] {_answering(event)}") for event in events if event["event"] == "verdict"]


def _answering(verdict: Mapping[str, Any]) -> str:
    services, failed = verdict["services"], verdict["failed"]
    answering = [name for name in services if name not in failed]
    count = f"{len(answering)} of {len(services)} services answer"
    return f"{count}: {', '.join(answering)}" if answering else f"{count}."


def lines(events: Iterable[Mapping[str, Any]]) -> list[str]:
    """What the end of a run says, from its report's `address` events."""
    return [printable(f"[{event['host']}] {event['message']}") for event in events if event["event"] == "address"]


def login_lines(events: Iterable[Mapping[str, Any]], named: str, inventory: str = "") -> list[str]:
    """How to see what logs a person in, from a report's `login` events. `named`: the inventory and hosts, as on the
    command line; `inventory`: that alone, for several hosts have values of their own."""
    found = [event for event in events if event["event"] == "login"]
    names = dict.fromkeys(name for event in found for name in event["secrets"])
    if not names:
        return []
    where = f"{inventory} -l HOST" if len({event["host"] for event in found}) > 1 else named
    return [printable(f"to log in: `gpuhost secrets show{where} NAME`, NAME one of {', '.join(names)}")]


def url(host: str, data: Mapping[str, Any], entry: Service, local: int | None) -> str:
    """Where a service is reached from here. `local`: the port here of its tunnel, None without one."""
    if local is not None:
        return f"http://{address(entry.bind)}:{local}"
    # What is bound to every address is reached by the name under which the host is known.
    every = entry.bind in ("0.0.0.0", "::") and not host.startswith("@local")
    at = (data.get("ssh_hostname") or host) if every else address(entry.bind)
    return f"http://{at}:{entry.port}"
