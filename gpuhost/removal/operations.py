"""What gpuhost made is taken off a host: services, networks, rules, images, units, programs. Data, models and installs
stay, and so do Docker, packages, accounts, and what gpuhost did not make."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import PurePosixPath

from pyinfra.api.operation import operation
from pyinfra.context import host

from gpuhost.engine.containers import Container
from gpuhost.engine.facts import DockerState, parts
from gpuhost.host import programs
from gpuhost.host.paths import unit_file
from gpuhost.network.rules import TABLE
from gpuhost.network.rules import UNIT as FIREWALL
from gpuhost.removal import rules
from gpuhost.removal.facts import Ours, OursState
from gpuhost.removal.rules import Known
from gpuhost.run.host_run import HostRun
from gpuhost.run.remote import Script
from gpuhost.run.session import Commands, carry_out, note
from gpuhost.services.stacks import Stacks

# What replaces nothing is moved where what was replaced lies; what holds secrets is not kept.
_TAKE = r"""
set -eu; umask 077; backup=@BACKUPS@/"$(date -u +%Y%m%dT%H%M%SZ)"
take() { mkdir -p "$backup$(dirname "$1")"; mv -f "$1" "$backup$1"; }
"""
_UNITS = "systemctl disable --quiet --now @UNITS@"
_SERVICES = "docker stop @IDS@ >/dev/null && docker rm @IDS@ >/dev/null"
_NETWORK = r"""
said="$(docker network rm @NAME@ 2>&1)" || {
  printf '%s\n' "$said" >&2
  echo "error: the network @NAME@ is still used by a container that is not gpuhost's" >&2
  echo "hint: \`docker network inspect @NAME@\` names it; disconnect it, then run again" >&2; exit 1; }
"""
_IMAGE = r"""
said="$(docker image rm @NAME@ 2>&1)" || {
  printf '%s\n' "$said" >&2
  echo "error: the image @NAME@ is still used by a container that is not gpuhost's" >&2
  echo "hint: \`docker ps -a --filter ancestor=@NAME@\` names it; remove it, then run again" >&2; exit 1; }
"""


def known(run: HostRun, units: Sequence[str]) -> Known:
    """What gpuhost writes on this host. `units`: besides that of the packet filter."""
    stacks = Stacks.of(run)
    of_stacks = {stack: stacks.files(stack) for stack in run.stacks}
    shipped = [*programs.programs(run), *programs.contexts(run)]
    return Known(
        units={unit: unit_file(unit) for unit in (*units, FIREWALL)},
        stacks={stack: [spec.path for spec in specs] for stack, specs in of_stacks.items()},
        programs=[*(spec.path for spec in shipped), run.paths.firewall_rules],
        whole=[run.paths.venv],
        tools=run.paths.tools,
        secret=frozenset(spec.path for specs in of_stacks.values() for spec in specs if spec.secret),
    )


@operation()
def removed(run: HostRun, units: Sequence[str]) -> Commands:
    """Nothing of it is left, but for what a person made or wants to keep."""
    wanted, paths = known(run, units), run.paths
    found: Ours = host.get_fact(OursState, files=wanted.files, folders=wanted.whole, table=TABLE)
    containers = host.get_fact(DockerState, parts=parts("containers")).containers
    changes = rules.reconcile(
        wanted,
        found,
        containers,
        TABLE,
        lambda name: f"in {paths.service_data(name)} and {paths.service_outputs(name)}",
    )
    if changes:
        note("kept", f"kept: {paths.data} (models, installs, outputs, data), {paths.state}, accounts, Docker, packages")
    yield from carry_out(changes, _steps(run, wanted, found, containers))


def _steps(run: HostRun, wanted: Known, found: Ours, containers: Sequence[Container]) -> Commands:
    there = set(found.files)
    units = [unit for unit, file in wanted.units.items() if file in there]
    # Their files go with them, so that a run that is killed between two commands leaves none that starts what is gone.
    first = [unit for unit in units if unit != FIREWALL]
    if first:
        yield Script(_UNITS.replace("@UNITS@", shlex.join(first)))
        yield _taken(run, wanted, [wanted.units[unit] for unit in first])
    if ours := [each.id for each in containers if not each.own]:
        yield Script(_SERVICES.replace("@IDS@", shlex.join(ours)))
    for name in found.networks:
        yield Script(_NETWORK.replace("@NAME@", shlex.quote(name)))
    if FIREWALL in units:
        yield Script(_UNITS.replace("@UNITS@", FIREWALL))
        yield _taken(run, wanted, [wanted.units[FIREWALL]])
    if found.rules:
        yield Script(f"nft delete table inet {TABLE}")
    for tag in found.images:
        yield Script(_IMAGE.replace("@NAME@", shlex.quote(tag)))
    yield _taken(run, wanted, sorted(there - set(wanted.units.values())), _folders(run, wanted))
    if wanted.whole:
        gone = f"rm -rf --one-file-system {shlex.join(wanted.whole)}"
        yield Script(f"{gone}; [ ! -d {shlex.quote(wanted.tools)} ] || {_EMPTY} {shlex.quote(wanted.tools)}")


_EMPTY = "rmdir --ignore-fail-on-non-empty"


def _taken(run: HostRun, wanted: Known, files: Sequence[str], folders: Sequence[str] = ()) -> Script:
    """The files go, then the folders that are empty then."""
    lines = [f"rm -f {shlex.quote(file)}" if file in wanted.secret else f"take {shlex.quote(file)}" for file in files]
    lines += [f"[ ! -d {shlex.quote(each)} ] || {_EMPTY} {shlex.quote(each)}" for each in folders]
    return Script("\n".join([_TAKE.replace("@BACKUPS@", run.paths.backups), *lines, "systemctl daemon-reload"]))


def _folders(run: HostRun, wanted: Known) -> list[str]:
    """Those that hold nothing but files of ours, inner ones first."""
    files = [PurePosixPath(file) for each in wanted.stacks.values() for file in each]
    above = {str(parent) for file in files for parent in file.parents}
    inside = {each for each in above if each.startswith(f"{run.paths.stacks}/")}
    return sorted({*inside, *programs.folders(run)} - {run.paths.tools}, key=len, reverse=True)
