"""Services x GPUs -> who runs where, or why not. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from gpuhost.catalog.types import GpuNeed, Service
from gpuhost.engine.containers import size_bytes
from gpuhost.host.facts import Gpu
from hostside.vram import shared_mib

PART_STEPS = 1000  # a part of a card is told in thousandths


def memory_part(vram_mib: int, cards: Sequence[Gpu]) -> float:
    """The part of each of these cards' memory that a service may take, so that it takes no more than `vram_mib` on any:
    rounded down. A card that is not larger than that is not for it; it is given whole."""
    smallest = min(card.vram_mib for card in cards)
    return min(PART_STEPS, math.floor(vram_mib * PART_STEPS / smallest)) / PART_STEPS


def takes_mib(need: GpuNeed | None, cards: Sequence[Gpu]) -> int:
    """What a service takes of each of these cards; 0 when nobody has measured it."""
    smallest = min((card.vram_mib for card in cards), default=0)
    return min(need.vram_mib, smallest) if need and need.vram_mib else 0


@dataclass(frozen=True)
class Placement:
    """`gpus`: service -> UUIDs of its GPUs ([] without one); `skipped`: service -> why it does not run here;
    `crowded`: those that run on demand, and not beside all others: a run does not start them again."""

    gpus: dict[str, list[str]]
    skipped: dict[str, str]
    crowded: frozenset[str] = frozenset()


@dataclass
class _Card:
    """A GPU while services are placed on it. `users`: what each service that always runs takes of it; `waiting`: those
    that run on demand, which take nothing until then; `foreign_mib`: what others hold."""

    gpu: Gpu
    users: dict[str, int] = field(default_factory=dict)
    waiting: set[str] = field(default_factory=set)
    foreign_mib: int = 0

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
        of_mib = shared_mib(self.gpu.vram_mib) if left else self.gpu.vram_mib
        return of_mib - self.foreign_mib - sum(left.values())

    def share(self, need: GpuNeed | None) -> int:
        """What a service would take here: of a card that is too small for all of it, and its own, what there is."""
        if need is None or need.vram_mib is None:
            return 0
        least = need.vram_least_mib
        makes_do = least is not None and not self.users and least <= self.room_mib
        return min(need.vram_mib, self.room_mib) if makes_do else need.vram_mib

    def fits(self, need: GpuNeed | None) -> bool:
        if need is None or need.vram_mib is None:  # it takes something: not beside one that needs more than its share
            return not self.users or self.room_mib >= 0
        return self.share(need) <= self.room_mib

    def take(self, name: str, service: Service) -> None:
        if service.start == "on-demand":
            self.waiting.add(name)
        else:
            self.users[name] = self.share(service.gpu)

    @property
    def rank(self) -> tuple[int, int, int, str]:
        """The emptiest comes first, then the largest."""
        return len(self.users), self.taken_mib - self.gpu.vram_mib, len(self.waiting), self.gpu.uuid


@dataclass
class _Table:
    cards: list[_Card]
    placed: dict[str, list[str]] = field(default_factory=dict)

    def put(self, name: str, service: Service, cards: Sequence[_Card]) -> None:
        for card in cards:
            card.take(name, service)
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
        rank = partial(_rank, service)
        chosen = (sorted(filter(partial(_fits, service), cards), key=rank) for cards in self.alike())
        enough = [cards[: service.gpu_count] for cards in chosen if len(cards) >= service.gpu_count]
        return min(enough, key=lambda cards: [rank(card) for card in reversed(cards)], default=[])

    def emptied(self) -> _Table:
        """The same cards while nobody runs on them."""
        return _Table([_Card(card.gpu) for card in self.cards])


def _fits(service: Service, card: _Card) -> bool:
    """One that runs on demand has to fit when the others are stopped: it is started when there is room."""
    return (_Card(card.gpu) if service.start == "on-demand" else card).fits(service.gpu)


def _rank(service: Service, card: _Card) -> tuple[int | str, ...]:
    """One that runs on demand comes where it can run beside what always does, then where the fewest wait."""
    if service.start == "always":
        return card.rank
    return not card.fits(service.gpu), len(card.waiting), card.taken_mib, -card.gpu.vram_mib, card.gpu.uuid


def short_of_memory(services: Mapping[str, Service], memory_bytes: int) -> dict[str, str]:
    """service -> why the host's memory does not carry it: what always runs has it together, in the order of
    `services`, and each that runs on demand has it alone, for it can be started when others are stopped."""
    found: dict[str, str] = {}
    taken: dict[str, int] = {}
    for name, service in services.items():
        least = service.memory_least
        need, others = size_bytes(least) if least else 0, {} if _on_demand(service) else taken
        if need > memory_bytes - sum(others.values()):
            beside = f", of which {_gib(sum(others.values()))} are for {' and '.join(others)}" if others else ""
            found[name] = f"it needs {_gib(need)} of memory, this host has {_gib(memory_bytes)}{beside}"
        elif need and not _on_demand(service):
            taken[name] = need
    return found


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"


def place(
    services: Mapping[str, Service],
    gpus: Sequence[Gpu],
    current: Mapping[str, Sequence[str]] | None = None,
    foreign: Mapping[str, int] | None = None,
) -> Placement:
    """Give each service its GPUs by UUID (an index may be inverted between boots).

    `current`: service -> the UUIDs that it has now. What is placed stays where it is as long as it fits; the others
    come in the order of `services`, on cards of their own before they share one. When some find no place so, those that
    need most are placed first, if more find one then. Those that run on demand come last, and take nobody's room.

    `foreign`: UUID -> MiB that processes of others hold. A newcomer does not count on it; what is placed stays.
    """
    run = partial(_placed, services, gpus=gpus, current=current or {}, foreign=foreign or {})
    first = run(sorted(services, key=lambda name: _on_demand(services[name])))
    if not first.skipped:
        return first
    other = run(sorted(services, key=lambda name: (_on_demand(services[name]), *_ease(services[name]))))
    return other if len(other.skipped) < len(first.skipped) else first


def _on_demand(service: Service) -> bool:
    return service.start == "on-demand"


def _ease(service: Service) -> tuple[int, int]:
    """What needs most comes first."""
    return -service.gpu_count, -((service.gpu and service.gpu.vram_mib) or 0)


def _placed(
    services: Mapping[str, Service],
    order: Sequence[str],
    gpus: Sequence[Gpu],
    current: Mapping[str, Sequence[str]],
    foreign: Mapping[str, int],
) -> Placement:
    """What is kept, then the others one after the other, each on the best cards that are left."""
    table = _Table([_Card(gpu) for gpu in gpus])
    skipped: dict[str, str] = {}
    for name, service in services.items():
        kept = _kept(table, service, current.get(name, ()))
        if kept:
            table.put(name, service, kept)
    for card in table.cards:
        card.foreign_mib = foreign.get(card.gpu.uuid, 0)
    for name in order:
        service = services[name]
        if name in table.placed:
            continue
        fitting = table.fitting(service)
        if service.all_gpus:
            table.placed[name] = _in_order(gpus)
        elif service.gpu_count and not fitting:
            skipped[name] = _why_not(service, table.emptied() if _on_demand(service) else table)
        else:
            table.put(name, service, fitting)
    placed = {name: table.placed[name] for name in services if name in table.placed}
    return Placement(placed, skipped, frozenset(_crowded(table, services)))


def _crowded(table: _Table, services: Mapping[str, Service]) -> Iterator[str]:
    """Those on demand that find no room beside what always runs and those before them, in the order of `services`."""
    for name, service in services.items():
        if service.gpu is None or not _on_demand(service) or name not in table.placed:
            continue
        cards = [card for card in table.cards if name in card.waiting]
        if all(card.fits(service.gpu) for card in cards):
            for card in cards:
                card.users[name] = card.share(service.gpu)
        else:
            yield name


def _in_order(gpus: Sequence[Gpu]) -> list[str]:
    """The same cards are always named in the same order: the largest first."""
    return [gpu.uuid for gpu in sorted(gpus, key=lambda gpu: (-gpu.vram_mib, gpu.uuid))]


def _kept(table: _Table, service: Service, uuids: Sequence[str]) -> list[_Card]:
    """The cards that a service has, when they are as many as it needs and have room; else []."""
    if service.all_gpus or service.gpu is None:
        return []
    need = service.gpu
    found = [card for card in table.cards if card.gpu.uuid in set(uuids) and _fits(service, card)]
    alike = len({(card.gpu.name, card.gpu.vram_mib) for card in found}) == 1
    return found if alike and len(found) == need.count == len(set(uuids)) else []


def sharing(placement: Placement, services: Mapping[str, Service]) -> set[str]:
    """The services that compute on a card together with another one; who only reads a card's state does not, nor does
    one that runs on demand: nothing starts it at boot."""
    users: dict[str, set[str]] = {}
    for name, uuids in placement.gpus.items():
        for uuid in () if services[name].all_gpus or _on_demand(services[name]) else uuids:
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
    need = (service.gpu.vram_least_mib or service.gpu.vram_mib) if service.gpu else None
    if need is None:
        return f"it needs {count} GPU{plural} that no other service fills, there is none; give it a `vram_mib`"
    room = max(0, *(_room(cards, count) for cards in groups))
    ways = sorted((others for cards in groups if (others := _in_the_way(cards, count, need))), key=len)
    held = sum(card.foreign_mib for card in table.cards)
    foreign = f", other programs hold {held} MiB" if held else ""
    empty = max(_room([_Card(card.gpu) for card in cards], count) for cards in groups)
    way = "it would fit on a GPU that nothing else uses" if empty >= need else "no GPU here is large enough"
    way = f"it would fit without {' and '.join(ways[0])}" if ways else way
    return (
        f"it needs {need} MiB on {count} GPU{plural}; the most that is left is {room} MiB, "
        f"{need - room} MiB too little{foreign}; {way}"
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
