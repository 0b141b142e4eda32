"""Services x GPUs -> who runs where, or why not. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gpuhost.catalog.types import Service
from gpuhost.host.facts import Gpu

# Of a card that several services share: each measures what is free when it starts, and the driver takes its part.
SHARED_PART = 0.90


@dataclass(frozen=True)
class Placement:
    """`gpus`: service -> UUIDs of its GPUs ([] without one); `skipped`: service -> why it does not run here."""

    gpus: dict[str, list[str]]
    skipped: dict[str, str]


@dataclass
class _Card:
    """A GPU while services are placed on it. `taken_mib`: what they have declared; `users`: how many they are."""

    gpu: Gpu
    users: int = 0
    taken_mib: int = 0

    @property
    def room_mib(self) -> int:
        """What one more service may take."""
        part = 1.0 if self.users == 0 else SHARED_PART
        return int(self.gpu.vram_mib * part) - self.taken_mib

    def fits(self, vram_mib: int | None) -> bool:
        if vram_mib is None:  # it takes something: not beside one that needs more than its share
            return self.users == 0 or self.room_mib >= 0
        return vram_mib <= self.room_mib

    def take(self, vram_mib: int | None) -> None:
        self.users += 1
        self.taken_mib += vram_mib or 0


@dataclass
class _Table:
    cards: list[_Card]
    placed: dict[str, list[str]] = field(default_factory=dict)

    def put(self, name: str, service: Service, cards: Sequence[_Card]) -> None:
        for card in cards:
            card.take(service.gpu.vram_mib if service.gpu else None)
        self.placed[name] = _in_order([card.gpu for card in cards])

    def fitting(self, service: Service) -> list[_Card]:
        """The cards that have room for it: the emptiest first, then the largest."""
        need = service.gpu.vram_mib if service.gpu else None
        found = [card for card in self.cards if card.fits(need)]
        return sorted(found, key=lambda card: (card.users, card.taken_mib - card.gpu.vram_mib, card.gpu.uuid))


def place(
    services: Mapping[str, Service], gpus: Sequence[Gpu], current: Mapping[str, Sequence[str]] | None = None
) -> Placement:
    """Give each service its GPUs by UUID (an index may be inverted between boots).

    `current`: service -> the UUIDs that it has now. What is placed stays where it is as long as it fits; the others
    come in the order of `services`, on cards of their own before they share one.
    """
    table = _Table([_Card(gpu) for gpu in gpus])
    skipped: dict[str, str] = {}
    for name, service in services.items():
        kept = _kept(table, service, (current or {}).get(name, ()))
        if kept:
            table.put(name, service, kept)
    for name, service in services.items():
        if name in table.placed:
            continue
        fitting = table.fitting(service)[: service.gpu_count]
        if service.all_gpus:
            table.placed[name] = _in_order(gpus)
        elif len(fitting) < service.gpu_count:
            skipped[name] = _why_not(service, table)
        else:
            table.put(name, service, fitting)
    return Placement({name: table.placed[name] for name in services if name in table.placed}, skipped)


def _in_order(gpus: Sequence[Gpu]) -> list[str]:
    """The same cards are always named in the same order: the largest first."""
    return [gpu.uuid for gpu in sorted(gpus, key=lambda gpu: (-gpu.vram_mib, gpu.uuid))]


def _kept(table: _Table, service: Service, uuids: Sequence[str]) -> list[_Card]:
    """The cards that a service has, when they are as many as it needs and have room; else []."""
    if service.all_gpus or service.gpu is None:
        return []
    need = service.gpu
    found = [card for card in table.cards if card.gpu.uuid in set(uuids) and card.fits(need.vram_mib)]
    return found if len(found) == need.count == len(set(uuids)) else []


def _why_not(service: Service, table: _Table) -> str:
    count, have = service.gpu_count, len(table.cards)
    plural = "s" if count > 1 else ""
    if count > have:
        return f"it needs {count} NVIDIA GPU{plural}, this host has {have or 'none'}"
    need = service.gpu.vram_mib if service.gpu else None
    room = max(0, sorted(card.room_mib for card in table.cards)[-count])  # on the fullest of those that it needs
    return f"it needs {need} MiB on {count} GPU{plural}; the most that is left is {room} MiB"
