"""Compose services, started in order; compose only executes, the decision is ours."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace

from pyinfra.api.operation import operation
from pyinfra.context import host, state

from gpuhost.catalog.checks import LABEL_KEY
from gpuhost.engine.facts import UP_LOCK, DockerGroup, DockerState
from gpuhost.files.facts import FileState
from gpuhost.files.operations import observe, resolve, write
from gpuhost.files.rules import FileSpec, reconcile, same
from gpuhost.plan.change import Change
from gpuhost.run.host_run import HostRun
from gpuhost.run.remote import Step
from gpuhost.run.session import Commands, carry_out, current
from gpuhost.secrets import locations
from gpuhost.secrets.operations import observe as observe_secrets
from gpuhost.services import rules
from gpuhost.services.stacks import Stacks
from gpuhost.verify.document import request
from hostside.protocol import HeldFile, HeldVariable
from hostside.wire import to_json


@operation()
def rendered(run: HostRun, stack: str) -> Commands:
    """A stack's folder holds its compose file, `.env.docker` and secret files, as the catalogue says."""
    stacks = Stacks(run, host.get_fact(DockerGroup))
    wanted, key = stacks.files(stack), run.secrets.file_key()
    observed = observe(wanted, key)
    changes = reconcile("stacks", wanted, resolve(wanted), observed, key, "rendered")
    changes = _explained(run, stacks, stack, changes, observed)
    yield from write(changes, wanted, observed, run.layout.backups, key)


def _explained(
    run: HostRun, stacks: Stacks, stack: str, changes: list[Change], observed: Mapping[str, FileState]
) -> list[Change]:
    """The changes of files that hold secrets, with the differences name by name."""
    env_file, key = run.layout.env_file(stack), run.secrets.optional(LABEL_KEY)
    templates = {path: text for name in run.stacks[stack] for path, text in stacks.secret_files(name).items()}
    held = {path: stacks.file_variables(template) for path, template in templates.items()}
    held[env_file] = stacks.variables(stack)
    asked = [change.resource.name for change in changes if change.resource.name in held]
    there = [path for path in asked if path in observed]
    seen: dict[str, Mapping[str, HeldVariable]] = {}
    if there and key:
        env = {env_file: held[env_file]} if env_file in there else {}
        files = {path: templates[path] for path in there if path in templates}
        answer = observe_secrets(run, locations.request(key, env, files, None))
        if not isinstance(answer, tuple):
            seen = {path: answer.env_files.get(path, {}) for path in env}
            seen |= {path: _of_file(answer.secret_files.get(path)) for path in files}
    found = {
        path: locations.differences(held[path], seen.get(path, {}), run.secrets.fingerprint if key else None)
        for path in asked
        if path not in there or path in seen
    }
    return [replace(change, diff=found.get(change.resource.name, ())) for change in changes]


def _of_file(file: HeldFile | None) -> dict[str, HeldVariable]:
    return {name: HeldVariable(digits) for name, digits in ((file and file.fingerprints) or {}).items()}


@operation()
def running(run: HostRun) -> Commands:
    """Every service runs in a container with the right stamps. The next one starts when the one before is healthy."""
    stacks = Stacks(run, host.get_fact(DockerGroup))
    wanted = {name: stacks.stamps(name) for name in run.services}
    promised = current().promised(host.name, "stacks") if state.is_executing else set()
    reading = host.get_fact(DockerState)
    clock = rules.Clock(_written(run, stacks), reading.now_s)
    changes = rules.reconcile(wanted, reading.containers, promised, clock, reading.cut_off)

    def act() -> Commands:
        for change in changes:
            yield Step(_up(run, change.resource.name), _explain)
            # Whether it became healthy is for verify to judge, with the cause.
            wait = f"{run.layout.verify_command} --wait-only >/dev/null 2>&1 || true"
            yield Step(wait, stdin=to_json(request(run, [change.resource.name], with_secrets=False)))

    yield from carry_out(changes, act())


def _written(run: HostRun, stacks: Stacks) -> dict[str, float]:
    """service -> when the newest file that its process reads at its start was written, or that it will be."""
    key = run.secrets.file_key()
    wanted = {name: stacks.read_at_start(name) for name in run.services}
    every = [spec for specs in wanted.values() for spec in specs]
    observed, contents = observe(every, key), resolve(every)

    def written_s(spec: FileSpec) -> float:
        found = observed.get(spec.path)
        if found is None or not same(spec, contents[spec.path], found, key):
            return rules.WILL_BE_WRITTEN
        return found.modified_s

    return {name: max(map(written_s, specs)) for name, specs in wanted.items() if specs}


_ALONE = f"mkdir -p {UP_LOCK.rpartition('/')[0]}; exec 9>{UP_LOCK}; flock 9\n"
# A service that changes its stack: compose does not see its container in the other project, and trips over its name.
# A container of ours without the service's name: a run was cut off before the new one had taken the old one's place.
_LEAVE = r"""
docker ps -aq --filter label=gpuhost.service=@NAME@ | while read -r id; do
  seen="$(docker inspect -f '{{.Name}} {{index .Config.Labels "com.docker.compose.project"}}' "$id")"
  [ "$seen" = "/@NAME@ @STACK@" ] || docker rm -f "$id" >/dev/null
done
"""


def _up(run: HostRun, name: str) -> str:
    stack, layout = run.services[name].stack, run.layout
    files = ["--project-directory", layout.stack(stack), "-f", layout.compose_file(stack)]
    flags = "up -d --no-deps --no-build --pull never --force-recreate --quiet-pull"
    leave = _LEAVE.replace("@NAME@", name).replace("@STACK@", stack)
    return f"{_ALONE}{leave}docker compose {shlex.join(files)} --env-file {layout.env_file(stack)} {flags} {name}"


def _explain(text: str) -> tuple[str, str] | None:
    for line in text.splitlines():
        if "port is already allocated" in line or "address already in use" in line:
            return line.strip(), "another program took the port since preflight: stop it, then run again"
        if "is already in use by container" in line:
            return line.strip(), "a container that is not gpuhost's has this name: rename or remove it, then run again"
        if "could not select device driver" in line or "unresolvable CDI devices" in line:
            return line.strip(), "the GPU is gone from the CDI specification: nvidia-smi -L, then run again"
    return None
