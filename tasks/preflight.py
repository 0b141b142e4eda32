"""Refuse before anything changes; decide who runs where."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial

from pyinfra.context import host, state

from gpuhost.catalog.types import Catalog
from gpuhost.engine import facts as docker
from gpuhost.errors import Cause, Problem, UserError, suggest
from gpuhost.gpu.rules import whole
from gpuhost.host.facts import HostReading, HostState
from gpuhost.host.paths import Paths
from gpuhost.host.preflight import exposed, limits, memory_together, problems, root_problem, sudo_problem
from gpuhost.images.rules import unpinned as unpinned_images
from gpuhost.installs.rules import STALE, UNPINNED
from gpuhost.models import preflight as models
from gpuhost.run import ahead, lock
from gpuhost.run.beside import beside
from gpuhost.run.connection import tune
from gpuhost.run.entry import site
from gpuhost.run.host_run import HostRun
from gpuhost.run.remote import Completed
from gpuhost.run.remote import run as run_now
from gpuhost.run.session import at, current, note, only, report_problem
from gpuhost.run.stage import STAGES
from gpuhost.secrets.store import SecretStore
from gpuhost.services import arguments
from gpuhost.services.placement import Placement, place, short_of_memory
from gpuhost.services.stacks import bind_problems

READ_ONLY_STAGES = {"verify", "gpu-proof", "audit", "model_status", "status", "logs"}
STATUS = {"status"}  # which is to take a second
MAKING_STAGES = {"images", "installs", "stacks"}
# Asked without privileges; the answer is prefixed so that nothing takes it for a password prompt.
_SUDO = """
if [ "$(id -u)" = 0 ]; then echo 'sudo=root'
elif ! command -v sudo >/dev/null 2>&1; then echo 'sudo=absent'
else printf 'sudo=%s\\n' "$(sudo -n true 2>&1 && echo ok)"; fi
"""


def preflight() -> HostRun | None:
    """The run of this host, or None when it is refused (its problems reported, the host failed)."""
    current().report.add("host", host.name)
    at("preflight")
    asked = only() or frozenset()
    # A run that only reads is neither refused for the host's state nor kept out by the lock.
    read_only = asked if asked <= READ_ONLY_STAGES else frozenset()
    tune(host)
    try:
        read = site()  # by config.py
        catalog = read.catalog(host.name)
        unknown = sorted(asked - STAGES)
        if unknown:
            raise UserError(Problem(f"there is no stage `{unknown[0]}`", suggest(unknown[0], list(STAGES), "stage")))
        secrets = SecretStore(catalog, host.name, site=read.folder)
        needs_secrets = not read_only or "verify" in read_only
        if needs_secrets:
            secrets.check_hashes(beside)
        found = _sudo()
        if not found:
            ahead.together(*_asks(catalog, asked))
            found = _root()
        if not found:
            reading = _read(catalog, asked)
            placement = _placement(catalog, reading)
            run = HostRun(catalog, reading, placement, secrets, read.pins)
            found = [replace(each, host=host.name) for each in arguments.problems(catalog)]
            if not read_only:
                found += problems(reading, catalog, run.services, host.name)
                found += bind_problems(run, host.name)
                found += [_stale(name, read.pins.shown) for name in run.stale_installs()]
            needed = run.secret_names if needs_secrets else []
            found += [*secrets.missing(needed), *secrets.mismatched(needed)]
            found += secrets.unfit(needed, run.token_names if needed else [])
            secrets.retired()  # a source that cannot be read is reported here, not by a traceback later
    except UserError as error:
        found = [Problem(problem.what, problem.hint, host.name) for problem in error.problems]
    if not found:
        run, found, notes = _with_models(run, asked)
    if found:
        for problem in found:
            report_problem(problem)
        state.fail_hosts({host})
        return None
    living = [each for each in reading.containers if each.lives]
    current().report.add(
        "running",
        host.name,
        containers=[
            {"name": each.name, "restart": each.restart, "ours": bool(each.service), "removed": each.removed}
            for each in living
        ],
        live_restore=run.lives_on,
    )
    current().report.add(
        "measured",
        host.name,
        measures=[asdict(each) for each in reading.measures],
        free_bytes={folder: kib * 1024 for folder, kib in reading.disk_kib.items()},
        data=reading.disk_of(catalog.data_root),
        docker=reading.disk_of(reading.docker_root),
        proof_s=catalog.verify_window_s if run.services and (not asked or "verify" in asked) else 0.0,
    )
    if not reading.gpus:
        note("gpu", "no NVIDIA GPU on this host: the NVIDIA Container Toolkit is not installed")
    for gpu in reading.gpus:
        if gpu.mig:
            undo = f"`nvidia-smi -i {gpu.index} -mig 0` makes it whole"
            note("gpu", f"GPU {gpu.index} is cut into instances (MIG), no service gets it; {undo}")
    if reading.gpus and run.gpu_access == "runtime":
        note("gpu", f"containers get GPUs by the nvidia runtime, not by CDI: {run.gpu_access_reason}")
    for service, why in run.placement.skipped.items():
        note("skipped", f"skipped: {service}: {why}", service=service, reason=why)
    for service, why in exposed(run.services):
        note("exposed", f"{service}: {why}", service=service, reason=why)
    for event, message in notes:
        note(event, message)
    if not asked or asked & MAKING_STAGES:
        _note_what_is_made(run)
    if not read_only:
        lock.host_lock(name="preflight | host lock")
    return run


def _note_what_is_made(run: HostRun) -> None:
    """What is to be known by who makes images, installs and services: no news to others."""
    for service, why in limits(run.reading, run.services):
        note("limit", f"{service}: {why}", service=service, reason=why)
    if together := memory_together(run.reading, run.services):
        note("limit", together)
    for image, why in unpinned_images(run.images):
        note("unpinned", f"image {image}: {why}", image=image, reason=why)
    for install in run.unpinned_installs():
        note("unpinned", f"install {install}: {UNPINNED}", install=install, reason=UNPINNED)


def _read(catalog: Catalog, asked: frozenset[str]) -> HostReading:
    roots, paths = [catalog.data_root, catalog.state_root], Paths.of(catalog)
    ours = [catalog.data_root, catalog.tools_root, catalog.state_root]
    accounts = [(each.name, each.uid, each.gid) for each in catalog.accounts().values()]
    files = {"measured": paths.measures, "engine_stamp": paths.engine_stamp}
    return host.get_fact(HostState, roots=roots, ours=ours, accounts=accounts, brief=asked == STATUS, **files)


def _placement(catalog: Catalog, reading: HostReading) -> Placement:
    """Who runs on which GPU, of those that the host's memory carries."""
    enabled = catalog.enabled()
    short = short_of_memory(enabled, reading.memory_kib * 1024)
    carried = {name: entry for name, entry in enabled.items() if name not in short}
    placed = place(carried, whole(reading.gpus), reading.placed, reading.foreign_vram)
    return replace(placed, skipped={**short, **placed.skipped})


def _with_models(run: HostRun, asked: frozenset[str]) -> tuple[HostRun, list[Problem], list[models.Note]]:
    """The run with what its models are, as far as the stages that are asked for need it. Only a deploy and an import
    ask the hub, and only for what neither a lock.json nor the host knows."""
    if not asked or "models" in asked:
        decided, found, notes = models.check(run)
        return replace(run, decided=decided), found, notes
    if "model_import" in asked:
        decided, found = models.asked(run)
        return replace(run, decided=decided), found, []
    if any(stage.startswith("model_") for stage in asked):
        return replace(run, decided=models.known(run)), [], []
    return run, [], []


def _stale(install: str, file: str) -> Problem:
    return Problem(
        f"{file}: `installs.{install}` {STALE}", f"run `gpuhost lock {install}`, and look at what it shows", host.name
    )


def _asks(catalog: Catalog, asked: frozenset[str]) -> Iterator[Callable[[], object]]:
    """What is asked of a host before it is known what is to be done there."""
    yield _user
    yield partial(_read, catalog, asked)
    if asked == STATUS:
        yield partial(docker.look, "states")
    if not asked:  # of a whole plan: all, beside the rest
        yield partial(docker.look, "containers")
    if not asked or "models" in asked:
        yield partial(models.look, Paths.of(catalog))


def _sudo() -> list[Problem]:
    """Commands must run as root: first what sudo says without a password, then whether they do (_root)."""
    sources = (state.config.SUDO_PASSWORD, getattr(state.config, "USE_SUDO_PASSWORD", False))
    has_password = any((*sources, host.data.get("_sudo_password")))
    problem = sudo_problem(run_now(_SUDO, sudo=False).stdout, has_password)
    return [Problem(*problem, host=host.name)] if problem else []


def _user() -> Completed:
    return run_now("id -u")


def _root() -> list[Problem]:
    try:
        asked = _user()
        problem = root_problem(asked.ok, asked.output)
    except EOFError:  # pyinfra itself asks for the password of its option --use-sudo-password
        what = "sudo asks for a password, and there is no terminal to ask on"
        problem = Cause(what, "run it in a terminal, or allow NOPASSWD")
    return [Problem(*problem, host=host.name)] if problem else []
