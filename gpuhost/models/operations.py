"""Models from the Hugging Face Hub, in the one shared cache, verified, linked into the models folder."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, replace

from pyinfra.api.operation import operation
from pyinfra.context import host, state

from gpuhost.catalog.types import Account
from gpuhost.errors import Cause
from gpuhost.host.paths import Paths
from gpuhost.models import exchange, progress, rules
from gpuhost.models.decided import Decided
from gpuhost.models.neighbours import Turns, with_givers
from gpuhost.models.preflight import TOKEN, look
from gpuhost.models.rules import PlannedModel, Wanted
from gpuhost.plan.change import Change, Difference, Resource
from gpuhost.plan.sizes import size
from gpuhost.run.host_run import HostRun
from gpuhost.run.job import Job
from gpuhost.run.remote import Script, unobserved
from gpuhost.run.remote import run as run_now
from gpuhost.run.session import Commands, carry_out, current, fail_host, note
from hostside.protocol.model_import import ImportLook, ImportRequest
from hostside.protocol.model_prune import PruneFile, PruneRequest
from hostside.protocol.models import ModelEvent, ModelFailure, ModelsRequest, model_event
from hostside.wire import WireError, from_host, to_json

STALL_S = 60.0
MEASURED_FROM_BYTES = 256 * 2**20  # what is smaller says nothing of the speed

# The request, with the token in it, goes from our stdin to the program's: it is in no file and no argument.
_AS_ACCOUNT = r"""env HOME=/nonexistent HF_HOME=@HOME@ HF_ENDPOINT=@ENDPOINT@ HF_HUB_DISABLE_TELEMETRY=1 \
  SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt setpriv --reuid=@UID@ --regid=@GID@ --clear-groups -- @COMMAND@"""


def _command(paths: Paths, account: Account, endpoint: str, command: str) -> str:
    """As the account that owns the models."""
    marks = {
        "@HOME@": paths.hub_cache,
        "@UID@": str(account.uid),
        "@GID@": str(account.gid),
        "@ENDPOINT@": shlex.quote(endpoint),
        "@COMMAND@": command,
    }
    line = _AS_ACCOUNT
    for mark, value in marks.items():
        line = line.replace(mark, value)
    return line


def _fetch(
    paths: Paths, account: Account, endpoint: str, request: ModelsRequest, shown: progress.Lines | None = None
) -> Job:
    """It goes on when the connection is lost; the next run attaches to it."""
    command = _command(paths, account, endpoint, paths.models_command)
    shown = shown or progress.Lines(time.monotonic)
    return Job(paths, "models", "the fetch of the models", command, f"{to_json(request)}\n", _explain, shown)


def _explain(text: str) -> Cause | None:
    """The last error that the program reported."""
    events = [_event(line) for line in text.splitlines()]
    failures = [event for event in events if isinstance(event, ModelFailure)]
    return Cause(failures[-1].message, failures[-1].hint) if failures else None


def _event(line: str) -> ModelEvent | None:
    try:
        return model_event(line)
    except WireError:
        return None


def _request(paths: Paths, planned: Sequence[PlannedModel]) -> ModelsRequest:
    return ModelsRequest(
        files=[each.file for model in planned for each in model.files],
        refs=[model.ref for model in planned if model.ref],
        cache_dir=f"{paths.hub_cache}/hub",
        models_dir=paths.models,
        manifest=paths.model_manifest,
        stall_s=STALL_S,
    )


@operation()
def fetched(run: HostRun, models: Sequence[Wanted], turns: Turns) -> Commands:
    """These models are there and verified. No program is started when all is right."""
    paths, account = run.paths, run.catalog.account
    reconciled = rules.reconcile(models, look(paths), paths.models, f"{paths.hub_cache}/hub", account.uid)
    planned = with_givers(reconciled, turns)

    def act() -> Commands:
        request = _request(paths, planned)
        needed = any(each.gated and each.action == "fetch" for each in request.files)
        token = run.secrets.optional(TOKEN) if needed else None
        with exchange.givers(planned, turns) as ways:
            files = [replace(each, peers=ways.to(each)) for each in request.files]
            asked = replace(request, files=files, token=token, peer_secret=ways.secret if ways.addresses else None)
            began, lines = time.monotonic(), progress.Lines(time.monotonic)
            yield _fetch(paths, account, run.catalog.hub_endpoint, asked, lines)
        fetch_bytes = sum(each.fetch_bytes for each in planned)
        given_bytes = sum(sum(each.given_bytes.values()) for each in planned)
        if given_bytes:
            _note_not_given(lines, fetch_bytes - given_bytes)
        elif fetch_bytes >= MEASURED_FROM_BYTES:
            speed = round(fetch_bytes / max(time.monotonic() - began, 0.001))
            yield Script(f"umask 022; echo {speed} > {shlex.quote(paths.models_speed)}")

    yield from carry_out([each.change() for each in planned], act())


def _note_not_given(lines: progress.Lines, hub_bytes: int) -> None:
    """What neighbours were to give and did not has come from the hub: said where it is more than was planned."""
    done = lines.done
    more = done.downloaded_bytes - done.peer_bytes - hub_bytes if done else 0
    if more > 0 and lines.not_given:
        note("fetch", f"models: {size(more)} more than planned came from the hub: {lines.not_given}")


# -- asked for by `gpuhost models ...` ---------------------------------------------------------------------------------


@operation()
def reported(run: HostRun, decided: Decided) -> Commands:
    """Changes nothing; reports every model that this host needs or has."""
    yield from ()
    if not state.is_executing:
        return
    paths = run.paths
    found = rules.status(
        decided.models,
        decided.unresolved,
        run.model_users,
        look(paths),
        paths.models,
        f"{paths.hub_cache}/hub",
        run.catalog.account.uid,
    )
    for each in found:
        current().report.add("model", host.name, **asdict(each))


@operation()
def verified(run: HostRun, decided: Decided) -> Commands:
    """Every file that is there is read and hashed again. Wrong ones are set aside by the program, which then fails."""
    if not state.is_executing:
        return
    paths, reading = run.paths, look(run.paths)
    models = [each for wanted in decided.models if (each := rules.to_verify(wanted, reading, f"{paths.hub_cache}/hub"))]
    for name in decided.unresolved:
        note("unverified", f"{name}: nobody here knows its files; `gpuhost apply` or `gpuhost lock` asks the hub")
    if not models:
        return
    request = _request(paths, models)
    yield _fetch(paths, run.catalog.account, run.catalog.hub_endpoint, request)
    current().report.add(
        "models_verified", host.name, files=len(request.files), bytes=sum(each.size for each in request.files)
    )


@operation()
def pruned(run: HostRun, decided: Decided) -> Commands:
    """What no service of this host uses is removed from the cache, links included."""
    paths = run.paths
    left = rules.reclaimable(decided.models, decided.unresolved, look(paths))
    request = PruneRequest(
        files=[PruneFile(entry.repo, entry.commit, entry.file) for each in left for entry in each.entries],
        cache_dir=f"{paths.hub_cache}/hub",
        models_dir=paths.models,
        manifest=paths.model_manifest,
    )
    command = _command(paths, run.catalog.account, run.catalog.hub_endpoint, paths.model_prune_command)
    script = Script(f"umask 022; cd / && exec {command}", stdin=f"{to_json(request)}\n")
    yield from carry_out([each.change() for each in left], [script])


@operation()
def imported(run: HostRun, decided: Decided, folder: str) -> Commands:
    """The models' files that lie in a folder of the host are taken from there, by hash, without a download."""
    paths, cache_dir = run.paths, f"{run.paths.hub_cache}/hub"
    planned = rules.reconcile(decided.models, look(paths), paths.models, cache_dir, run.catalog.account.uid)
    wishes = [each.file for model in planned for each in model.files if each.file.action == "fetch"]
    account = run.catalog.account
    request = ImportRequest(folder, wishes, cache_dir, paths.models, paths.model_manifest, account.uid, account.gid)
    found = _looked(f"{paths.model_import_command} look", request)
    if isinstance(found, Cause):
        yield from fail_host(*found)
        return
    if not state.is_executing:
        _note_others(found)
    changes = [_import_change(model, found, folder) for model in planned]
    script = Script(f"{paths.model_import_command} take", stdin=f"{to_json(request)}\n", live=True)
    yield from carry_out([each for each in changes if each], [script])


def _looked(command: str, request: ImportRequest) -> ImportLook | Cause:
    completed = run_now(command, stdin=to_json(request))
    if not completed.ok:
        return unobserved(completed)
    try:
        return from_host(ImportLook, completed.stdout)
    except WireError as error:
        return Cause(f"what the program found cannot be read: {error}", "`gpuhost apply` ships the programs that fit")


def _import_change(model: PlannedModel, found: ImportLook, folder: str) -> Change | None:
    """The import of what may be files of a model, by their size; whether they are, their hash says."""
    names = {each.file.file: each.file.size for each in model.files if each.file.action == "fetch"}
    mine = [each for each in found.candidates if each.model == model.name and each.file in names]
    if not mine:
        return None
    diff = tuple(Difference(each.file, None, f"{size(names[each.file])}, from {each.path}") for each in mine)
    reason = f"{len({each.file for each in mine})} of its {len(names)} missing files may lie in {folder}"
    return Change("models", Resource("model", model.name), "import", reason, diff)


def _note_others(found: ImportLook) -> None:
    for each in found.others:
        note("unidentified", f"no missing file of a model: {each.path} ({size(each.size)})", path=each.path)
    rest = found.others_total - len(found.others)
    if rest:
        note("unidentified", f"and {rest} more files")
