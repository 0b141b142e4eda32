"""Compose services, started in order; compose only executes, the decision is ours."""

from __future__ import annotations

import json
import shlex

from pyinfra.api.operation import operation
from pyinfra.context import host, state

from .. import services as rules
from ..facts.docker import DockerGroup, DockerState
from ..remote import Step
from ..run import HostRun
from ..session import Commands, carry_out, current
from ..stacks import Stacks
from ..verify import document
from . import files as file_operations


@operation()
def rendered(run: HostRun, stack: str) -> Commands:
    """A stack's folder holds its compose file, `.env.docker` and secret files, as the catalogue says."""
    stacks = Stacks(run, host.get_fact(DockerGroup))
    yield from file_operations.files._inner("stacks", stacks.files(stack), run.layout.backups)


@operation()
def running(run: HostRun) -> Commands:
    """Every service runs in a container with the right stamps. The next one starts when the one before is healthy."""
    stacks = Stacks(run, host.get_fact(DockerGroup))
    wanted = {name: stacks.stamps(name) for name in run.services}
    promised = current().promised(host.name, "stacks") if state.is_executing else set()
    changes = rules.reconcile(wanted, host.get_fact(DockerState).containers, promised)

    def act() -> Commands:
        for change in changes:
            yield Step(_up(run, change.subject), _explain)
            # Whether it became healthy is for verify to judge, with the cause.
            wait = f"{run.layout.probe} --wait-only >/dev/null 2>&1 || true"
            yield Step(wait, stdin=json.dumps(document(run, [change.subject], with_secrets=False)))

    yield from carry_out(changes, act())


# A service that changes its stack: compose does not see its container in the other project, and trips over its name.
_LEAVE = r"""
docker ps -aq --filter label=gpuhost.service=@NAME@ | while read -r id; do
  [ "$(docker inspect -f '{{index .Config.Labels "com.docker.compose.project"}}' "$id")" = @STACK@ ] ||
    docker rm -f "$id" >/dev/null
done
"""


def _up(run: HostRun, name: str) -> str:
    stack, layout = run.services[name].stack, run.layout
    files = ["--project-directory", layout.stack(stack), "-f", layout.compose_file(stack)]
    flags = "up -d --no-deps --no-build --pull never --force-recreate --quiet-pull"
    leave = _LEAVE.replace("@NAME@", name).replace("@STACK@", stack)
    return f"{leave}docker compose {shlex.join(files)} --env-file {layout.env_file(stack)} {flags} {name}"


def _explain(text: str) -> tuple[str, str] | None:
    for line in text.splitlines():
        if "port is already allocated" in line or "address already in use" in line:
            return line.strip(), "another program took the port since preflight: stop it, then run again"
        if "is already in use by container" in line:
            return line.strip(), "a container that is not gpuhost's has this name: rename or remove it, then run again"
        if "could not select device driver" in line or "unresolvable CDI devices" in line:
            return line.strip(), "the GPU is gone from the CDI specification: nvidia-smi -L, then run again"
    return None
