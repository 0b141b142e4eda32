"""What all changes of a host cost together: bytes to download, room, time, ports, a reboot. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from gpuhost.plan.change import Change, Impact, Reboot
from gpuhost.plan.impact import UNMEASURED, Measured, measured
from gpuhost.plan.sizes import about, size
from hostside.wire import printable

Event = dict[str, Any]
_Number = TypeVar("_Number", int, float)
LOOPBACK = ("127.", "[::1]:")
_IN_DATA = ("model", "install")  # of what is on a disk, the kinds that lie in `data_root`
_LOOKING, _PROOF = "looking", "proof"  # what an apply does besides its changes
_WORDS = {"packages": "packages", "engine": "Docker's restart", _LOOKING: _LOOKING, _PROOF: _PROOF}
_ASKED = ("packages", "engine", "driver")  # kinds after which people ask whether the host reboots


@dataclass(frozen=True)
class Disk:
    """A file system on which something comes. `folder`: the first of ours on it; `needed_bytes`: kind -> what is known
    of that; `unknown`: the kinds of which nobody knows it, or not all."""

    folder: str
    free_bytes: int
    needed_bytes: Mapping[str, int]
    unknown: tuple[str, ...] = ()

    @property
    def after_bytes(self) -> int:
        """What is free then, at most when something is unknown."""
        return max(0, self.free_bytes - sum(self.needed_bytes.values()))


@dataclass(frozen=True)
class Port:
    """An address that is published then and was not. `now`: the service is started, else it may be later."""

    address: str
    service: str
    now: bool

    @property
    def beyond_host(self) -> bool:
        """Whether others than the host itself reach it."""
        return not self.address.startswith(LOOPBACK)


@dataclass(frozen=True)
class Totals:
    """`download_bytes`: kind -> those that are known, `neighbour_bytes` of them from other hosts of the inventory;
    `seconds`: what takes how long, by the last time (`looking`: at the hosts, as the plan did; `proof`: the services
    are watched at the end); `..._unknown`: the kinds of which nobody knows it; `asked`: people would ask whether it
    reboots."""

    download_bytes: Mapping[str, int]
    neighbour_bytes: int
    download_unknown: tuple[str, ...]
    disks: tuple[Disk, ...]
    seconds: Mapping[str, float]
    seconds_unknown: tuple[str, ...]
    ports: tuple[Port, ...]
    reboot: Reboot
    asked: bool

    def fields(self) -> Event:
        """As the JSON document has them."""
        return {
            "download_bytes": sum(self.download_bytes.values()),
            "download_unknown": list(self.download_unknown),
            "neighbour_bytes": self.neighbour_bytes,
            "disks": [
                {
                    "folder": each.folder,
                    "free_bytes": each.free_bytes,
                    "after_bytes": each.after_bytes,
                    "unknown": list(each.unknown),
                }
                for each in self.disks
            ],
            "seconds": round(sum(self.seconds.values()), 1),
            "seconds_unknown": list(self.seconds_unknown),
            "ports": [
                {"address": each.address, "service": each.service, "now": each.now, "beyond_host": each.beyond_host}
                for each in self.ports
            ],
            "reboot": self.reboot,
        }


def totals(changes: Iterable[Event], events: Sequence[Event], looking_s: float = 0.0) -> dict[str, Totals]:
    """host -> what its changes (with their impacts) cost together; `events`: all of the plan; `looking_s`: how long
    that took, for an apply looks as well."""
    seen, made = measured(events), dict[str, list[Change]]()
    for event in changes:
        made.setdefault(event["host"], []).append(Change.of(event))
    return {host: total(of_host, seen.get(host, UNMEASURED), looking_s) for host, of_host in made.items()}


def total(changes: Sequence[Change], seen: Measured, looking_s: float = 0.0) -> Totals:
    """What these changes of one host cost together."""
    costs = [(change.resource.kind, change.impact or Impact()) for change in changes]
    taken = [(kind, impact.download_bytes) for kind, impact in costs]
    times = [(kind, impact.seconds) for kind, impact in costs]
    seconds, unmeasured = _sums(times), _unknown(times)
    always = _sums([(_LOOKING, looking_s), (_PROOF, seen.proof_s)]) if seconds or unmeasured else {}
    return Totals(
        download_bytes=_sums(taken),
        neighbour_bytes=sum(sum(impact.neighbour_bytes.values()) for _, impact in costs),
        download_unknown=_unknown(taken),
        disks=tuple(_disks(costs, seen)),
        seconds=seconds | always,
        seconds_unknown=unmeasured,
        ports=tuple(
            Port(address, change.resource.name, change.impact.starts)
            for change in changes
            if change.impact
            for address in change.impact.opens
        ),
        reboot=next((impact.reboot for _, impact in costs if impact.reboot != "no"), "no"),
        asked=any(kind in _ASKED for kind, _ in costs),
    )


def _sums(each: Iterable[tuple[str, _Number | None]]) -> dict[str, _Number]:
    """kind -> its sum, of those that are known and not 0."""
    found: dict[str, _Number] = {}
    for kind, number in each:
        if number:
            found[kind] = found[kind] + number if kind in found else number
    return found


def _unknown(each: Iterable[tuple[str, float | None]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(kind for kind, number in each if number is None))


def _disks(costs: Iterable[tuple[str, Impact]], seen: Measured) -> Iterator[Disk]:
    """Those on which something comes; packages lie where the system does, of which nobody asked how much is free."""
    on: dict[str, list[tuple[str, int | None]]] = {}
    for kind, impact in costs:
        if impact.disk_bytes != 0 and kind != "packages":
            on.setdefault(seen.data if kind in _IN_DATA else seen.docker, []).append((kind, impact.disk_bytes))
    for folder, taken in on.items():
        if folder in seen.free_bytes:
            yield Disk(folder, seen.free_bytes[folder], _sums(taken), _unknown(taken))


# -- for people --------------------------------------------------------------------------------------------------------


def lines(made: Totals, width: int) -> Iterator[str]:
    """`Download: 24.3 GB (models)`, `Time: about 12 min (...)`: a line each for what there is to say."""
    for label, text in _told(made):
        whole = printable(f"{label}: {text}")
        yield from textwrap.wrap(
            whole, width, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False
        ) or [whole]


def _told(made: Totals) -> Iterator[tuple[str, str]]:
    if download := _download(made):
        yield "Download", download
    for disk in made.disks:
        yield "Disk", _disk(disk)
    if time := _time(made):
        yield "Time", time
    for label, ports in _ports(made.ports).items():
        yield label, ", ".join(f"{each.address} {each.service}" for each in ports)
    if made.reboot != "no":
        yield "Reboot", f"yes, {made.reboot}"
    elif made.asked:
        yield "Reboot", "no"


def _download(made: Totals) -> str:
    known, unknown = made.download_bytes, made.download_unknown
    neighbours = f", {size(made.neighbour_bytes)} of it from other hosts" if made.neighbour_bytes else ""
    parts = [f"{size(sum(known.values()))} ({_kinds(known)}){neighbours}"] if known else []
    return "; ".join([*parts, *([f"{_rest(unknown, known)}: nobody knows yet"] if unknown else [])])


def _disk(disk: Disk) -> str:
    free = f"{disk.folder} has {size(disk.free_bytes)} free"
    after = f", {size(disk.after_bytes)} after" if disk.needed_bytes else ""
    return f"{free}{after}{f'; {_rest(disk.unknown, disk.needed_bytes)}: not known' if disk.unknown else ''}"


def _time(made: Totals) -> str:
    """Never a number that stands for what nobody measured."""
    known, unknown = made.seconds, made.seconds_unknown
    never = f"{_rest(unknown, known)}: never measured here" if unknown else ""
    if not known.keys() - {_LOOKING, _PROOF}:
        return never
    parts = ", ".join(f"{_kinds([kind])} {about(seconds)}" for kind, seconds in known.items())
    whole = f"{about(sum(known.values()))} ({parts})"
    return f"more than {whole}; {never}" if unknown else f"about {whole}"


def _ports(ports: Iterable[Port]) -> dict[str, list[Port]]:
    """By where they lead and when; what others reach has a label of its own."""
    found: dict[str, list[Port]] = {}
    for port in sorted(ports, key=lambda each: (not each.beyond_host, not each.now)):
        label = "OPEN TO THE NETWORK" if port.beyond_host else "New ports"
        found.setdefault(label if port.now else f"{label} when started", []).append(port)
    return found


def _rest(unknown: Iterable[str], known: Container[str]) -> str:
    """`packages, other images`: the kinds of which something is unknown, beside what is known."""
    return ", ".join(f"other {_kinds([kind])}" if kind in known else _kinds([kind]) for kind in unknown)


def _kinds(kinds: Iterable[str]) -> str:
    """`models, images`."""
    return ", ".join(_WORDS.get(kind, f"{kind}s") for kind in kinds)
