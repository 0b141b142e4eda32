"""Compose stacks: their files, then their containers, step by step; compose only executes, the decision is ours."""

from __future__ import annotations

import base64
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import replace

from pyinfra.api.operation import operation
from pyinfra.context import host, state

from gpuhost.catalog.checks import LABEL_KEY
from gpuhost.catalog.types import Account
from gpuhost.engine.containers import PROJECT_LABEL, Container
from gpuhost.engine.facts import DockerState, parts
from gpuhost.errors import Cause
from gpuhost.files.facts import FileState, Kinds
from gpuhost.files.folders import FoldersState, FolderState
from gpuhost.files.operations import blocked, observe, resolve, with_text_diffs, write
from gpuhost.files.operations import look as look_at_files
from gpuhost.files.owners import NOBODY, Owners
from gpuhost.files.rules import FileSpec, encoded, reconcile, same
from gpuhost.host.measures import BEGIN, noted
from gpuhost.host.paths import RUNTIME, STACKS_LOCK
from gpuhost.plan.change import Change, Resource, differing, in_words
from gpuhost.run.host_run import HostRun
from gpuhost.run.lock import alone
from gpuhost.run.remote import Script
from gpuhost.run.remote import run as run_now
from gpuhost.run.session import Commands, carry_out, current, fail_host
from gpuhost.secrets import locations
from gpuhost.secrets.operations import observe as observe_secrets
from gpuhost.services import files, rules
from gpuhost.services.binds import of_spec
from gpuhost.services.compose import environment_of
from gpuhost.services.facts import SecretFiles
from gpuhost.services.files import ComposeFiles
from gpuhost.services.placement import sharing
from gpuhost.services.rules import WILL_BE_WRITTEN, Desired, FileTimes, ServiceStep
from gpuhost.services.stacks import Renewal, SeedFile, Stacks
from gpuhost.verify.request import request
from hostside import labels
from hostside.protocol.secret_audit import HeldFile, HeldVariable, SecretAuditAnswer
from hostside.vram import shared_mib
from hostside.wire import to_json

BOOT_UNIT = "gpuhost-services.service"  # runs files/host/start_services.sh

# -- what a service is given once --------------------------------------------------------------------------------------

# Where a container writes, root follows no link that it may have put there: the service's account does it.
_AS_ACCOUNT = "setpriv --reuid={uid} --regid={gid} --clear-groups -- mkdir -p {folders}"

# What stands for the marks in a seed; a shell expression each.
_SEED_MARKS = {
    "{random_key}": r"""'"$(head -c 32 /dev/urandom | base64 -w0 | tr '+/' '-_')"'""",
    "{now}": """'"$(date +%Y-%m-%dT%H:%M:%S.%6N)"'""",
}


def look_at_own_folders(paths: Iterable[str]) -> dict[str, str]:
    """What is in the place of each."""
    return host.get_fact(Kinds, paths=list(paths))


@operation()
def own_folders(folders: Mapping[str, Account]) -> Commands:
    """Folders that a service wants in its data folder; there from the first start on, then its own."""
    observed = look_at_own_folders(folders)
    absent = {path: account for path, account in folders.items() if path not in observed}
    changes = [Change("stacks", Resource("folder", path), "create", "the service needs it") for path in absent]
    made = [
        _AS_ACCOUNT.format(uid=account.uid, gid=account.gid, folders=shlex.quote(path))
        for path, account in absent.items()
    ]
    yield from carry_out(changes, [Script("\n".join(["set -eu; umask 022", *made]))])


def look_at_seeds(seeds: Iterable[SeedFile]) -> dict[str, FolderState]:
    """What is in the place of each."""
    return host.get_fact(FoldersState, paths=[seed.path for seed in seeds])


@operation()
def seeded(seeds: Sequence[SeedFile], owners: Owners = NOBODY) -> Commands:
    """Each is there and its service's; what is in one that holds anything is left alone. `owners`: those to come."""
    observed = look_at_seeds(seeds)
    for path, there in observed.items():
        if there.linked or not there.kind.startswith("regular"):
            yield from fail_host(
                f"a {'symbolic link' if there.linked else there.kind} is in the place of the file {path}",
                "look at where it leads to, then move it away",
            )
            return
    found = {seed: _seed_change(seed, observed.get(seed.path), owners) for seed in seeds}
    changes = [change for change in found.values() if change]
    made = [_seed(seed) if change.action == "create" else _give(seed) for seed, change in found.items() if change]
    yield from carry_out(changes, [_as_root(made)])


def _seed_change(seed: SeedFile, there: FolderState | None, owners: Owners) -> Change | None:
    resource, owner = Resource("file", seed.path), f"{seed.account}:{seed.account}"
    if there is None or there.kind == "regular empty file":
        return Change("stacks", resource, "create", "it is empty" if there else "it does not exist")
    diff = differing(("mode", there.mode, "600"), ("owner", owners.both(there.owner), owner))
    return Change("stacks", resource, "correct", in_words(diff), diff) if diff else None


# What is there stays the same file, for a container that runs has it mounted: it gets the new text in one write, and is
# never empty. Killed between the two steps, a text that is longer than the new one keeps its end; then, as no record of
# the renewal is written yet, the next run makes it once more.
_SEED = r"""
seed() {
  if [ -e "$1" ]; then
    printf %s "$2" | dd of="$1" bs=64k iflag=fullblock conv=notrunc,fsync status=none; truncate -s "${#2}" "$1"
  else
    printf %s "$2" > "$1.gpuhost-new"; sync "$1.gpuhost-new"; mv -f "$1.gpuhost-new" "$1"
  fi
}
"""


def _as_root(commands: Iterable[str]) -> Script:
    """In a folder of root's, where nobody else can put a link."""
    return Script("\n".join(["set -eu; umask 077; export LC_ALL=C", _SEED, *commands]))


def _seed(seed: SeedFile) -> str:
    text = shlex.quote(seed.text)
    for mark, expression in _SEED_MARKS.items():
        text = text.replace(mark, expression)
    return f"seed {shlex.quote(seed.path)} {text}; {_give(seed)}"


def _give(seed: SeedFile) -> str:
    path = shlex.quote(seed.path)
    return f"chown -h {shlex.quote(f'{seed.account}:{seed.account}')} {path}; chmod 600 {path}"


# -- the files of a stack ----------------------------------------------------------------------------------------------


def _files(run: HostRun, stacks: Stacks) -> list[FileSpec]:
    return [file for stack in run.stacks for file in stacks.files(stack)]


def _secret_files(run: HostRun) -> Sequence[str]:
    return host.get_fact(SecretFiles, pattern=run.paths.secret_files("*", "*") + "/*")


@operation()
def rendered(run: HostRun) -> Commands:
    """The folder of each stack holds its compose file, `.env.docker`, configuration and secret files, as the catalogue
    says."""
    stacks = Stacks.of(run)
    wanted, key = _files(run, stacks), run.secrets.file_key()
    observed, contents = observe(wanted, key, run.owners), resolve(wanted)
    if problem := blocked(observed):
        yield from fail_host(*problem)
        return
    changes = reconcile("stacks", wanted, contents, observed, key, "rendered")
    renewals = {path: each for name in run.services for path, each in stacks.renewals(name).items()}
    renewed = {
        spec.path: renewals[spec.path]
        for spec in wanted
        if spec.path in renewals and not same(spec, contents[spec.path], observed.get(spec.path))
    }
    changes = [_of_renewal(change, renewed.get(change.resource.name)) for change in changes]
    # What differs in a service's spec stands below the service.
    changes = with_text_diffs(changes, wanted, observed, run.secrets.masked(), stamp=labels.SPEC)
    changes = _with_secret_diffs(run, stacks, changes, observed)
    written = {change.resource.name for change in changes}
    dropped = _dropped(stacks, run, _secret_files(run))
    changes += [Change("stacks", Resource("file", path), "remove", _DROPPED, scope="rendered") for path in dropped]
    first = _before_writing(run, stacks, written, [each.seed for each in renewed.values()], dropped)
    yield from write(changes, wanted, observed, run.paths.backups, key, first)


def _before_writing(
    run: HostRun, stacks: Stacks, written: Set[str], seeds: Sequence[SeedFile], dropped: Sequence[str]
) -> Iterator[Script]:
    """What must be done before any file is replaced. Drawn by a run that acts: a plan may lack secrets."""
    paths = run.paths
    for stack in run.stacks:
        if written & {paths.compose_file(stack), paths.env_file(stack)}:
            yield _accepted(stack, paths.stack(stack), stacks)
    if seeds:  # before the records: a run that dies in between makes them once more
        yield _as_root(map(_seed, seeds))
    if dropped:
        yield Script(_SET_ASIDE.replace("@BACKUPS@", paths.backups) + shlex.join(dropped))


# Both files are read before one of them is in its place. Compose quotes what it cannot read: its words are those about
# a file of variables without secrets. The folder is in memory.
_ACCEPT = r"""
set -eu; umask 022; mkdir -p @RUNTIME@; umask 077
rm -rf @RUNTIME@/compose.*  # of one that was killed
new="$(mktemp -d @RUNTIME@/compose.XXXXXX)"; trap 'rm -rf "$new"' EXIT; trap 'exit 1' HUP INT TERM
for name in compose env blank; do IFS= read -r encoded; printf '%s' "$encoded" | base64 -d > "$new/$name"; done
accepts() {
  env -i PATH="$PATH" HOME=/root docker compose -p @STACK@ --project-directory @FOLDER@ \
    -f "$new/compose" --env-file "$new/$1" config -q
}
accepts env >/dev/null 2>&1 && exit 0
said="$(accepts blank 2>&1 >/dev/null | tail -n 1)" || true
echo "error: docker compose refuses the new files of the stack @STACK@: ${said:-a value of a secret cannot be read}" >&2
echo "hint: what runs stays as it is; mend the template or the data" >&2; exit 1
"""


def _accepted(stack: str, folder: str, stacks: Stacks) -> Script:
    """Compose accepts the compose file of a stack with its variables."""
    texts = (stacks.compose(stack), stacks.env(stack), stacks.env(stack, blank=True))
    marks = {"@STACK@": stack, "@FOLDER@": folder, "@RUNTIME@": RUNTIME}
    script = re.sub("@[A-Z]+@", lambda mark: marks[mark[0]], _ACCEPT)
    return Script(script, stdin="".join(f"{base64.b64encode(encoded(each)).decode()}\n" for each in texts))


_DROPPED = "no service of this host has such a secret file any more; it goes to the backups"
_SET_ASIDE = r"""
set -eu; umask 077; to="@BACKUPS@/$(date -u +%Y%m%dT%H%M%SZ)"; mkdir -p -m 700 @BACKUPS@
aside() { for file; do mkdir -p "$to$(dirname "$file")"; cat < "$file" > "$to$file"; rm "$file"; done; }
aside """


def _dropped(stacks: Stacks, run: HostRun, there: Sequence[str]) -> list[str]:
    """Of the secret files that are there those that no service reads: that of a renamed or removed service, or one that
    its entry names no more."""
    wanted = {path for name in run.services for path in stacks.secret_files(name)}
    return [path for path in there if path not in wanted]


# -- files of stacks that nobody wants any more ------------------------------------------------------------------------


def _compose_files(run: HostRun) -> list[str]:
    return host.get_fact(ComposeFiles, folder=run.paths.stacks)


@operation()
def archived(run: HostRun) -> Commands:
    """The folder of the stacks holds the compose files of this host's catalogue, and no others."""
    paths = run.paths
    wanted = [paths.compose_file(entry.stack) for entry in run.catalog.enabled().values()]
    foreign = files.foreign(_compose_files(run), wanted)
    archive = f"{paths.stacks}/archived"
    changes = [
        Change("stacks", Resource("file", path), "archive", f"no stack of this host has it; it goes to {archive}")
        for path in foreign
    ]
    yield from carry_out(changes, [_archive(foreign, paths.stacks, archive)])


# What is there by the name already is kept: `--backup` numbers it.
_ARCHIVE = r"""
set -eu; umask 022; to=@ARCHIVE@/"$(date -u +%F)"
for path in @PATHS@; do
  inside="${path#@STACKS@/}"; target="$to/$inside"
  mkdir -p "$(dirname "$target")"; mv --no-target-directory --backup=numbered -- "$path" "$target"
done
"""


def _archive(paths: Sequence[str], stacks: str, archive: str) -> Script:
    marks = {"@PATHS@": shlex.join(paths), "@STACKS@": stacks, "@ARCHIVE@": archive}
    return Script(re.sub("@[A-Z]+@", lambda mark: marks[mark[0]], _ARCHIVE))


def _of_renewal(change: Change, renewal: Renewal | None) -> Change:
    if renewal is None:
        return change
    why = f"its {renewal.secret} is another one" if change.action == "write" else f"no {renewal.secret} is recorded"
    return replace(change, reason=f"{why}: {renewal.seed.path} is made anew")


def _with_secret_diffs(
    run: HostRun, stacks: Stacks, changes: list[Change], observed: Mapping[str, FileState]
) -> list[Change]:
    """The changes of files that hold secrets, with the differences name by name."""
    key, changed = run.secrets.optional(LABEL_KEY), {change.resource.name for change in changes}
    env_files = {run.paths.env_file(stack): stacks.variables(stack) for stack in run.stacks}
    templates = {path: text for name in run.services for path, text in stacks.secret_files(name).items()}
    wanted = env_files | {path: stacks.file_variables(template) for path, template in templates.items()}
    wanted = {path: variables for path, variables in wanted.items() if path in changed}
    there = {path for path in wanted if path in observed}
    seen: dict[str, Mapping[str, HeldVariable]] = {}
    if there and key:
        env = {path: env_files[path] for path in there & env_files.keys()}
        files = {path: templates[path] for path in there & templates.keys()}
        answer = observe_secrets(run, locations.request(key, env, files, None))
        if not isinstance(answer, Cause):
            seen = {path: answer.env_files.get(path, {}) for path in env}
            seen |= {path: _of_file(answer.secret_files.get(path)) for path in files}
    diffs = {
        path: locations.differences(variables, seen.get(path, {}), run.secrets.fingerprint if key else None)
        for path, variables in wanted.items()
        if path not in there or path in seen
    }
    return [replace(change, diff=diffs.get(change.resource.name, change.diff)) for change in changes]


def _of_file(file: HeldFile | None) -> dict[str, HeldVariable]:
    return {name: HeldVariable(digits) for name, digits in ((file and file.fingerprints) or {}).items()}


# -- the containers ----------------------------------------------------------------------------------------------------


@operation()
def running(run: HostRun) -> Commands:
    """Every service has the right container, and no other service of ours has one. The next one starts when the one
    before is healthy."""
    stacks = Stacks.of(run)
    _await_boot_unit(run)
    reading = host.get_fact(DockerState, parts=parts("containers"))
    desired = _with_remade_installs(run, stacks.desired())
    planned = rules.reconcile(
        desired,
        _with_environments(run, stacks, reading.containers),
        run.placement.skipped,
        FileTimes(_written(run, stacks), reading.now_s),
        current().planned_actions(host.name, "stacks") if state.is_executing else None,
        lambda service: f"in {run.paths.service_data(service)} and {run.paths.service_outputs(service)}",
    )
    if taken := rules.taken_for_service(desired, reading.containers, planned):
        container, service = taken
        yield from fail_host(
            f"docker compose would replace the container {container}: it has the labels of `{service}`, of which it is "
            "a copy",
            f"remove it, or make it again with `docker run --label {PROJECT_LABEL}= ...`, then run again",
        )
        return
    room = {gpu.uuid: shared_mib(gpu.vram_mib) - run.reading.foreign_vram[gpu.uuid] for gpu in run.reading.gpus}
    if crowded := rules.without_room(desired, reading.containers, planned, room):
        yield from fail_host(*crowded)
        return
    yield from carry_out(planned.changes, (_command(run, stacks, step) for step in planned.steps))


def _await_boot_unit(run: HostRun) -> None:
    """Where this run restarted Docker: until the services that share a GPU are started again, one after the other."""
    restarted = state.is_executing and current().finds(host.name, Resource("engine", "dockerd"), "restart")
    if restarted and sharing(run.placement, run.services):
        run_now(f"systemctl start {BOOT_UNIT} || true")


def _with_remade_installs(run: HostRun, desired: Mapping[str, Desired]) -> Mapping[str, Desired]:
    """What is desired, with what this run makes anew under a service: in a plan its folder is still the old one."""

    def remade(name: str) -> str:
        install = run.services[name].install or ""
        folder = Resource("install", run.install_path(install) if install else "")
        return install if current().finds(host.name, folder, "install", "reinstall") else ""

    return {name: replace(wanted, remade_install=remade(name)) for name, wanted in desired.items()}


def _with_environments(run: HostRun, stacks: Stacks, containers: Sequence[Container]) -> Sequence[Container]:
    """The containers with what their environments hold: a label says only what they were meant to hold."""
    answer = _environments(run, stacks) if containers else None
    # The audit program is not installed yet or is broken: this run installs it.
    if answer is None or isinstance(answer, Cause):
        return containers
    held = {each.name: each for each in answer.containers}
    return [
        replace(each, environment=held[each.name].env, added=held[each.name].added) if each.name in held else each
        for each in containers
    ]


def _environments(run: HostRun, stacks: Stacks) -> SecretAuditAnswer | Cause | None:
    """What the environments of our containers hold; None while there is no key to compare it by."""
    names = sorted({name for spec in stacks.specs.values() for name in environment_of(spec)})
    key = run.secrets.optional(LABEL_KEY)
    return observe_secrets(run, locations.request(key, {}, {}, names)) if key else None


def _written(run: HostRun, stacks: Stacks) -> dict[str, float]:
    """service -> when the newest file that its process reads at its start was written, or that it will be."""
    key = run.secrets.file_key()
    wanted, every = _read_at_start(run, stacks)
    observed, contents = observe(every, key), resolve(every)

    def written_s(spec: FileSpec) -> float:
        found = observed.get(spec.path)
        if found is None or not same(spec, contents[spec.path], found, key):
            return WILL_BE_WRITTEN
        return found.modified_s

    return {name: max(map(written_s, specs)) for name, specs in wanted.items() if specs}


def _read_at_start(run: HostRun, stacks: Stacks) -> tuple[dict[str, list[FileSpec]], list[FileSpec]]:
    """By service, and all."""
    wanted = {name: stacks.read_at_start(name) for name in run.services}
    return wanted, [spec for specs in wanted.values() for spec in specs]


def look(run: HostRun) -> None:
    """What the operations on a host's stacks ask of it."""
    stacks, key = Stacks.of(run), run.secrets.file_key()
    look_at_files(_files(run, stacks), key)
    _secret_files(run)
    host.get_fact(DockerState, parts=parts("containers"))
    _environments(run, stacks)
    look_at_files(_read_at_start(run, stacks)[1], key)
    _compose_files(run)


# One compose at a time; a later run's reading waits for it, too.
_UNDER_LOCK = f"{alone(STACKS_LOCK)}\n"


_REMOVE = r"""
docker stop @ID@ >/dev/null 2>&1; said="$(docker rm -f @ID@ 2>&1)" && exit 0
docker info >/dev/null 2>&1 && ! docker inspect @ID@ >/dev/null 2>&1 && exit 0
printf '%s\n' "$said" >&2; exit 1
"""


# Docker calls a paused container unhealthy without a check that failed, and after that until its next check: what
# verifies it must not read that.
_UNPAUSE = r"""
docker unpause @ID@ >/dev/null || exit
i=0; health='{{if .State.Health}}{{.State.Health.Status}} {{.State.Health.FailingStreak}}{{end}}'
while [ $i -lt @LIMIT@ ] && [ "$(docker inspect -f "$health" @ID@)" = 'unhealthy 0' ]; do i=$((i+1)); sleep 1; done
"""


# How long a start took counts from its first step, the end of the container before: so long the service is away.
_BEGAN = f"{RUNTIME}/start-began"
_WAIT = r"""
@WAIT@ >/dev/null || exit 0
read -r began < @BEGAN@ || exit 0; rm -f @BEGAN@
@NOTE@"""


def _command(run: HostRun, stacks: Stacks, step: ServiceStep) -> Script:
    match step.do:
        case "remove":  # not its volumes; a container that went meanwhile is gone, too
            return Script(_UNDER_LOCK + _REMOVE.replace("@ID@", step.container), _docker_failure)
        case "unpause":
            health = run.services[step.service].health
            marks = {"@ID@": step.container, "@LIMIT@": str(health.interval_s + health.timeout_s + 5)}
            return Script(re.sub("@[A-Z]+@", lambda mark: marks[mark[0]], _UNPAUSE), _docker_failure)
        case "up":
            sources = [bind.source for bind in of_spec(step.service, stacks.specs[step.service])]
            return Script(_up(run, step, sources), _docker_failure)
        case "wait":  # whether it became healthy is for verify to judge, with the cause
            asked = to_json(request(run, [step.service], with_secrets=False))
            note = noted(run.paths.measures, "service", step.service)
            marks = {"@WAIT@": f"{run.paths.verify_command} --wait-only", "@BEGAN@": _BEGAN, "@NOTE@": note}
            return Script(re.sub("@[A-Z]+@", lambda mark: marks[mark[0]], _WAIT), stdin=asked, live=True)


def _up(run: HostRun, step: ServiceStep, sources: Sequence[str]) -> str:
    stack, paths = run.services[step.service].stack, run.paths
    files = ["--project-directory", paths.stack(stack), "-f", paths.compose_file(stack)]
    flags = "up --no-deps --no-build --pull never --force-recreate"
    how = "-d" if step.start else "--no-start"
    # Compose prefers the shell's variables to those of the env file, and COMPOSE_PROJECT_NAME to the file's name.
    alone = f'env -i PATH="$PATH" HOME="${{HOME:-/root}}" docker compose -p {stack}'
    up = f"{alone} {shlex.join(files)} --env-file {paths.env_file(stack)} {flags} {how} {step.service}"
    begin = f"{BEGIN}; echo $began > {_BEGAN}"
    return f"{_UNDER_LOCK}{paths.binds_command} {shlex.join(sources)} || exit 1\n{begin}\n{up}"


def _docker_failure(text: str) -> Cause | None:
    for line in text.splitlines():
        if "port is already allocated" in line or "address already in use" in line:
            return Cause(line.strip(), "another program took the port since preflight: stop it, then run again")
        if "is already in use by container" in line:
            return Cause(
                line.strip(), "a container that is not gpuhost's has this name: rename or remove it, then run again"
            )
        if "could not select device driver" in line or "unresolvable CDI devices" in line:
            return Cause(line.strip(), "the GPU is gone from the CDI specification: nvidia-smi -L, then run again")
    return None
