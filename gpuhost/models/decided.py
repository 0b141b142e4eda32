"""Which files the models of a host are: decided once, in preflight, and passed down."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from gpuhost.catalog.lock import Lock, LockedModel, Pins
from gpuhost.catalog.types import Model
from gpuhost.errors import Problem, UserError
from gpuhost.models.facts import ModelsReading
from gpuhost.models.neighbours import HostModels
from gpuhost.models.rules import Source, Wanted, wanted

Ask = Callable[[Model], LockedModel]


@dataclass(frozen=True)
class Decided:
    """`models`: those whose files are known; `unresolved`: those of which nobody here knows them; `revisions`: what the
    revisions are that no lock.json pins, for the host to keep; `shared`: what the other hosts are told, None: nothing,
    and this host takes nothing from them."""

    models: Sequence[Wanted] = ()
    unresolved: Mapping[str, Model] = field(default_factory=dict)
    revisions: Lock | None = None
    shared: HostModels | None = None


UNDECIDED = Decided()


def decide(
    models: Mapping[str, Model], pins: Pins, reading: ModelsReading, ask: Ask | None
) -> tuple[Decided, list[Problem]]:
    """The files of each model: as a lock.json says; else as this host noted when it asked first; else as the hub says.

    `ask`: asks the hub, raising UserError; None: nobody is asked, and what only the hub knows is unresolved.
    """
    found: list[Wanted] = []
    problems: list[Problem] = []
    unresolved: dict[str, Model] = {}
    revisions: dict[str, dict[str, LockedModel]] = {}
    for name, model in models.items():
        try:
            resolved = _resolved(model, pins, reading, ask)
        except UserError as error:
            problems += error.problems
            unresolved[name] = model
            continue
        if resolved is None:
            unresolved[name] = model
            continue
        listing, source = resolved
        each = wanted(name, model, listing, source)
        if isinstance(each, Problem):
            problems.append(each)
            unresolved[name] = model
            continue
        found.append(each)
        if source != "lock":
            revisions.setdefault(model.repo, {})[model.revision] = listing
    kept = Lock(version=1, models=revisions) if revisions else None
    return Decided(found, unresolved, kept), list(dict.fromkeys(problems))


def _resolved(model: Model, pins: Pins, reading: ModelsReading, ask: Ask | None) -> tuple[LockedModel, Source] | None:
    locked = pins.model(model.repo, model.revision)
    if locked:
        return locked, "lock"
    noted = reading.revisions.models.get(model.repo, {}).get(model.revision)
    if noted:
        return noted, "host"
    return (ask(model), "hub") if ask else None
