"""Before the first byte: can each model be had, and is there room for it? Nothing is downloaded, nothing changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from pyinfra.context import host

from gpuhost.catalog.lock import LockedModel
from gpuhost.catalog.types import Model, Service
from gpuhost.engine.containers import size_bytes
from gpuhost.errors import Cause, Problem
from gpuhost.host.paths import Paths
from gpuhost.models import hub, rules
from gpuhost.models.decided import Decided, decide
from gpuhost.models.facts import ModelsReading, ModelsState
from gpuhost.models.neighbours import host_models
from gpuhost.models.rules import PlannedModel, Wanted
from gpuhost.plan.sizes import size
from gpuhost.run.host_run import HostRun
from gpuhost.run.session import current

TOKEN = "HF_TOKEN"  # noqa: S105  (the secret's name)
KIB_PER_GIB = 1024 * 1024
SPARE_GIB = 4  # beside the largest file, for the program itself
Note = tuple[str, str]  # event, message


def look(paths: Paths) -> ModelsReading:
    """What this host has of models, in one round trip."""
    return host.get_fact(
        ModelsState,
        manifest=paths.model_manifest,
        revisions=paths.model_revisions,
        speed=paths.models_speed,
        cache_dir=f"{paths.hub_cache}/hub",
        models_dir=paths.models,
    )


def known(run: HostRun) -> Decided:
    """Which files the models of this host are, as far as that is known without the hub."""
    return decide(run.models, run.pins, look(run.paths), None)[0]


def asked(run: HostRun, reading: ModelsReading | None = None) -> tuple[Decided, list[Problem]]:
    """Which files the models of this host are; the hub is asked for what nobody else knows. `reading`: of `look`."""

    planned = current().revisions.get(host.name, {})

    def ask(model: Model) -> LockedModel:
        if said := planned.get(model.repo, {}).get(model.revision):
            return LockedModel.model_validate(said)
        return hub.listing(run.catalog.hub_endpoint, model.repo, model.revision, _token(run, model))

    found, problems = decide(run.models, run.pins, reading or look(run.paths), ask)
    if found.revisions:
        current().report.add("revisions", host.name, models=found.revisions.model_dump(mode="json")["models"])
    return found, [replace(problem, host=host.name) for problem in problems]


def check(run: HostRun) -> tuple[Decided, list[Problem], list[Note]]:
    """What the models are, every reason not to begin with them, and what a person wants to know of them."""
    reading = look(run.paths)
    found, problems = asked(run, reading)
    planned = rules.reconcile(
        found.models, reading, run.paths.models, f"{run.paths.hub_cache}/hub", run.catalog.account.uid
    )
    notes: list[Note] = [("unpinned", f"{name}: {why}") for name, why in rules.unpinned(found.models)]
    unheard = set()
    for repo, problem, note in _access(run, found.models, planned):
        unheard.add(repo)
        problems += [replace(problem, host=host.name)] if problem else []
        notes += [("fetch", note)] if note else []
    problems += [replace(each, host=host.name) for each in too_small(run.services, found.models)]
    need = sum(each.fetch_bytes for each in planned)
    problems += [Problem(*each, host.name) for each in _room(run, need)]
    if reading.bytes_per_s:
        current().report.add("speed", host.name, bytes_per_s=reading.bytes_per_s)
    if need:
        have = sum(each.bytes for each in found.models) - need
        # How long it takes stands with all that takes time, below the plan.
        notes.append(("fetch", f"models: {size(need)} to fetch, {size(have)} are there"))
    if run.catalog.share_models:
        account, cache_dir = run.catalog.account, f"{run.paths.hub_cache}/hub"
        found = replace(found, shared=host_models(planned, reading, cache_dir, account.uid, unheard))
    return found, problems, notes


def too_small(services: Mapping[str, Service], models: Sequence[Wanted]) -> Iterator[Problem]:
    """Each service whose memory cannot hold the largest file of its models: it would be killed while it loads. Pure."""
    by_name = {each.name: each for each in models}
    for name, entry in services.items():
        own = [by_name[model].files for model in entry.models if model in by_name]
        files = [(file.size, path) for each in own for path, file in each.items()]
        largest, path = max(files, default=(0, ""))
        if size_bytes(entry.memory) < largest:
            yield Problem(
                f"`services.{name}.memory` is {entry.memory}, and {path} of its models has {size(largest)}",
                f"give it {-(-largest // 2**30) + SPARE_GIB}g at least, or another model",
            )


def _access(
    run: HostRun, models: Sequence[Wanted], planned: Sequence[PlannedModel]
) -> Iterator[tuple[str, Problem | None, str]]:
    """(repository, problem, note) of each model of which something is fetched and that the hub does not simply give."""
    by_name = {each.name: each for each in models}
    seen: set[tuple[str, bool]] = set()
    for each in planned:
        wanted = by_name[each.name]
        model = wanted.model
        if each.action != "fetch" or (model.repo, model.gated) in seen:
            continue
        seen.add((model.repo, model.gated))
        try:
            hub.check_access(run.catalog.hub_endpoint, model.repo, _token(run, model))
        except hub.HubError as error:
            [problem] = error.problems
            if error.kind != "unreachable":
                yield model.repo, replace(problem, what=f"{each.name}: {problem.what}"), ""
            else:  # the files are known: whether they can be had, the host finds out
                yield model.repo, None, f"{each.name}: {problem.what}; the host will ask"


def _token(run: HostRun, model: Model) -> str | None:
    return run.secrets.optional(TOKEN) if model.gated else None


def _room(run: HostRun, need: int) -> Iterator[Cause]:
    """A hard stop: what is to be fetched does not fit, or leaves less than what must stay free."""
    root, spare = run.catalog.data_root, run.catalog.disk_min_free_gib
    kib = run.reading.disk_kib.get(root)
    if not need or kib is None:
        return
    free, wanted = kib * 1024, need + int(spare * 2**30)
    if wanted > free:
        yield Cause(
            f"{size(need)} of models are to be fetched and {spare:g} GiB must stay free, but {root} has {size(free)}",
            f"free {size(wanted - free)} there (`gpuhost models prune` removes what no service uses), move `data_root`"
            " to a larger disk, or enable fewer services",
        )
