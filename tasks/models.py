"""Models from the Hugging Face Hub; and what `gpuhost models` asks for."""

from __future__ import annotations

from gpuhost.catalog.lock import text
from gpuhost.files import operations as files
from gpuhost.files.rules import FileSpec, plain
from gpuhost.models import exchange, operations
from gpuhost.models.neighbours import of_wave
from gpuhost.models.preflight import look
from gpuhost.run.host_run import HostRun
from gpuhost.run.session import import_folder
from gpuhost.run.stage import stage


def told(run: HostRun | None) -> None:
    """The other hosts are told what this one has and lacks; every host does this, one that is refused as well."""
    exchange.tell(run)


@stage("models")
def models(run: HostRun) -> None:
    """The models of this host's services, verified, in the one cache."""
    _keep_revisions(run)
    if not run.models:
        return
    turns = exchange.turns()
    # pyinfra ends an operation on all hosts before it begins the next: what a host gives in one it got in one before.
    first, second, third = (of_wave(run.decided.models, turns, wave) for wave in (1, 2, 3))
    operations.fetched(name="models | fetched and verified", run=run, models=first, turns=turns)
    if second:
        operations.fetched(name="models | taken from neighbours", run=run, models=second, turns=turns)
    if third:
        operations.fetched(name="models | taken from neighbours that took them", run=run, models=third, turns=turns)


@models.asks
def _models(run: HostRun) -> None:
    files.look(_revisions(run))
    if run.models:
        look(run.paths)


def _keep_revisions(run: HostRun) -> None:
    """What the names that nobody locked are: noted before the fetch, so that a branch that moves meanwhile, or later,
    changes nothing on this host."""
    if wanted := _revisions(run):
        files.files(name="models | revisions", stage="models", wanted=wanted, backups=run.paths.backups)


def _revisions(run: HostRun) -> list[FileSpec]:
    return [plain(run.paths.model_revisions, text(run.decided.revisions))] if run.decided.revisions else []


@stage("model_status", on_request=True)
def status(run: HostRun) -> None:
    """Every model that this host needs or has."""
    operations.reported(name="models | status", run=run, decided=run.decided)


@stage("model_verify", on_request=True)
def verify(run: HostRun) -> None:
    """Every file of the models is hashed again."""
    operations.verified(name="models | hashed again", run=run, decided=run.decided)


@stage("model_prune", on_request=True)
def prune(run: HostRun) -> None:
    """What no service of this host uses is removed."""
    operations.pruned(name="models | unused ones removed", run=run, decided=run.decided)


@stage("model_import", on_request=True)
def take(run: HostRun) -> None:
    """Files of the models that lie elsewhere on the host are taken from there."""
    _keep_revisions(run)
    operations.imported(name="models | imported", run=run, decided=run.decided, folder=import_folder())
