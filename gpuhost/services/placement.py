"""Services x GPUs -> who runs where, or why not. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from gpuhost.catalog.types import Service
from gpuhost.host.facts import Gpu

# Of a card that several services share: each measures what is free when it starts, and the driver takes its part.
SHARED_PART = 0.90
PART_STEPS = 1000  # a part of a card is told in thousandths


def memory_part(vram_mib: int, cards: Sequence[Gpu]) -> float:
    """The part of each of these cards' memory that a service may take, so that it takes no more than `vram_mib` on any:
    rounded down. A card that is not larger than that is not for it; it is given whole."""
    smallest = min(card.vram_mib for card in cards)
    return min(PART_STEPS, math.floor(vram_mib * PART_STEPS / smallest)) / PART_STEPS


@dataclass(frozen=True)
class Placement:
    """`gpus`: service -> UUIDs of its GPUs ([] without one); `skipped`: service -> why it does not run here."""

    gpus: dict[str, list[str]]
    skipped: dict[str, str]


@dataclass
class _Card:
    """A GPU while services are placed on it. `users`: what each of them has declared."""

    gpu: Gpu
    users: dict[str, int] = field(default_factory=dict)

    @property
    def taken_mib(self) -> int:
        """What they have declared together."""
        return sum(self.users.values())

    @property
    def room_mib(self) -> int:
        """What one more service may take."""
        return self.room_without(())

    def room_without(self, others: Sequence[str]) -> int:
        """What it could take if these were not there."""
        left = {name: mib for name, mib in self.users.items() if name not in others}
        return int(self.gpu.vram_mib * (SHARED_PART if left else 1.0)) - sum(left.values())

    def fits(self, vram_mib: int | None) -> bool:
        if vram_mib is None:  # it takes something: not beside one that needs more than its share
            return not self.users or self.room_mib >= 0
        return vram_mib <= self.room_mib

    def take(self, name: str, vram_mib: int | None) -> None:
        self.users[name] = vram_mib or 0

    @property
    def rank(self) -> tuple[int, int, str]:
        """The emptiest comes first, then the largest."""
        return len(self.users), self.taken_mib - self.gpu.vram_mib, self.gpu.uuid


@dataclass
class _Table:
    cards: list[_Card]
    placed: dict[str, list[str]] = field(default_factory=dict)

    def put(self, name: str, service: Service, cards: Sequence[_Card]) -> None:
        for card in cards:
            card.take(name, service.gpu.vram_mib if service.gpu else None)
        self.placed[name] = _in_order([card.gpu for card in cards])

    def alike(self) -> list[list[_Card]]:
        """The cards by model: a service that uses several at once wants them alike."""
        found: dict[tuple[str, int], list[_Card]] = {}
        for card in self.cards:
            found.setdefault((card.gpu.name, card.gpu.vram_mib), []).append(card)
        return list(found.values())

    def fitting(self, service: Service) -> list[_Card]:
        """As many cards of one model as it needs, with room for it, those of which the worst is the best; [] when there
        are not so many."""
        need = service.gpu.vram_mib if service.gpu else None
        chosen = (sorted(filter(lambda card: card.fits(need), cards), key=_rank) for cards in self.alike())
        enough = [cards[: service.gpu_count] for cards in chosen if len(cards) >= service.gpu_count]
        return min(enough, key=lambda cards: [card.rank for card in reversed(cards)], default=[])


def _rank(card: _Card) -> tuple[int, int, str]:
    return card.rank


def place(
    services: Mapping[str, Service], gpus: Sequence[Gpu], current: Mapping[str, Sequence[str]] | None = None
) -> Placement:
    """Give each service its GPUs by UUID (an index may be inverted between boots).

    `current`: service -> the UUIDs that it has now. What is placed stays where it is as long as it fits; the others
    come in the order of `services`, on cards of their own before they share one. When some find no place so, those that
    need most are placed first, if more find one then.
    """
    first = _placed(services, list(services), gpus, current or {})
    if not first.skipped:
        return first
    other = _placed(services, sorted(services, key=lambda name: _ease(services[name])), gpus, current or {})
    return other if len(other.skipped) < len(first.skipped) else first


def _ease(service: Service) -> tuple[int, int]:
    """What needs most comes first."""
    return -service.gpu_count, -((service.gpu and service.gpu.vram_mib) or 0)


def _placed(
    services: Mapping[str, Service], order: Sequence[str], gpus: Sequence[Gpu], current: Mapping[str, Sequence[str]]
) -> Placement:
    """What is kept, then the others one after the other, each on the best cards that are left."""
    table = _Table([_Card(gpu) for gpu in gpus])
    skipped: dict[str, str] = {}
    for name, service in services.items():
        kept = _kept(table, service, current.get(name, ()))
        if kept:
            table.put(name, service, kept)
    for name in order:
        service = services[name]
        if name in table.placed:
            continue
        fitting = table.fitting(service)
        if service.all_gpus:
            table.placed[name] = _in_order(gpus)
        elif service.gpu_count and not fitting:
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
    alike = len({(card.gpu.name, card.gpu.vram_mib) for card in found}) == 1
    return found if alike and len(found) == need.count == len(set(uuids)) else []


def sharing(placement: Placement, services: Mapping[str, Service]) -> set[str]:
    """The services that compute on a card together with another one; who only reads a card's state does not."""
    users: dict[str, set[str]] = {}
    for name, uuids in placement.gpus.items():
        for uuid in () if services[name].all_gpus else uuids:
            users.setdefault(uuid, set()).add(name)
    return {name for names in users.values() if len(names) > 1 for name in names}


# -- why not -----------------------------------------------------------------------------------------------------------


def _why_not(service: Service, table: _Table) -> str:
    """What it lacks, and what would help."""
    count, have = service.gpu_count, len(table.cards)
    plural = "s" if count > 1 else ""
    if count > have:
        return f"it needs {count} NVIDIA GPU{plural}, this host has {have or 'none'}"
    groups = [cards for cards in table.alike() if len(cards) >= count]
    if not groups:
        names = ", ".join(sorted(card.gpu.name for card in table.cards))
        return f"it needs {count} NVIDIA GPUs of one model, this host has {names}"
    need = service.gpu.vram_mib if service.gpu else None
    if need is None:
        return f"it needs {count} GPU{plural} that no other service fills, there is none; give it a `vram_mib`"
    room = max(0, *(_room(cards, count) for cards in groups))
    ways = sorted((others for cards in groups if (others := _in_the_way(cards, count, need))), key=len)
    way = f"it would fit without {' and '.join(ways[0])}" if ways else "no GPU here is large enough"
    return (
        f"it needs {need} MiB on {count} GPU{plural}; the most that is left is {room} MiB, "
        f"{need - room} MiB too little; {way}"
    )


def _room(cards: Sequence[_Card], count: int, others: Sequence[str] = ()) -> int:
    """What is left on the fullest of the `count` emptiest cards, if these others were not there."""
    return sorted(card.room_without(others) for card in cards)[-count]


def _in_the_way(cards: Sequence[_Card], count: int, need: int) -> list[str]:
    """The fewest services without which it would fit; [] when it would not fit without any."""
    taken: dict[str, int] = {}
    for card in cards:
        taken |= {name: max(mib, taken.get(name, 0)) for name, mib in card.users.items()}
    for others in _tried(sorted(taken, key=lambda name: (taken[name], name))):
        if _room(cards, count, others) >= need:
            return [f"`{name}` ({taken[name]} MiB)" for name in others]
    return []


def _tried(names: Sequence[str]) -> Iterator[list[str]]:
    """Each alone, the smallest first; then the largest together."""
    yield from ([name] for name in names)
    yield from (list(names[-number:]) for number in range(2, len(names) + 1))
