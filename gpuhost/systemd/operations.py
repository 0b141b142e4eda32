"""systemd units of ours: written, read by systemd, enabled and started. (pyinfra's `daemon_reload` is a change at every
run, and its `systemd.service` asks the host twice for each unit.)"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace

from pyinfra.api.operation import operation
from pyinfra.context import host, state

from gpuhost.files.facts import FilesState, FileState
from gpuhost.files.operations import blocked, with_text_diffs, write_step
from gpuhost.files.rules import same
from gpuhost.plan.change import Change
from gpuhost.run.remote import Script
from gpuhost.run.session import Commands, carry_out, current, fail_host
from gpuhost.systemd.facts import UnitsState, UnitState
from gpuhost.systemd.rules import Unit, reconcile


def look(wanted: Sequence[Unit]) -> tuple[dict[str, FileState], dict[str, UnitState]]:
    """The units' files that are there, and how systemd has the units."""
    observed = host.get_fact(FilesState, paths=[each.file.path for each in wanted])
    return observed, host.get_fact(UnitsState, units=[each.name for each in wanted])


@operation()
def units(stage: str, wanted: Sequence[Unit], backups: str) -> Commands:
    """The units' files are as they should be, systemd has read those and no earlier ones, and what should run does.

    `wanted`: units that belong together, a unit before the one that it starts: when the file of one changes, all are
    stopped before systemd reads it, so that none runs as its old file says.
    """
    files = [each.file for each in wanted]
    texts = {spec.path: spec.content() for spec in files}
    observed, states = look(wanted)
    if problem := blocked(observed):
        yield from fail_host(*problem)
        return
    states = _as_planned(stage, wanted, states)
    changes = reconcile(stage, wanted, observed, states)
    if stopped := _stopped_with_docker(changes, states):
        yield Script(f"systemctl start {shlex.join(sorted(stopped))}")
        changes = [change for change in changes if change.resource.name not in stopped]
    changes = with_text_diffs(changes, files, observed)
    to_write = {change.resource.name for change in changes if change.resource.kind == "file"}

    def act() -> Commands:
        if to_write:
            chosen = [spec for spec in files if spec.path in to_write]
            right = {spec.path for spec in chosen if same(spec, texts[spec.path], observed.get(spec.path))}
            yield write_step(chosen, texts, backups, right)
            names = shlex.join(each.name for each in wanted)
            yield Script(f"systemctl stop {names} 2>/dev/null; systemctl daemon-reload")
        elif needed := shlex.join(each.name for each in wanted if not each.runs):
            # systemd refuses to start a socket whose service works, as it does when somebody stopped the socket alone.
            yield Script(f"systemctl stop {needed}")
        running = shlex.join(each.name for each in wanted if each.runs)
        yield Script(f"systemctl enable --quiet {running} && systemctl start {running}")

    yield from carry_out(changes, act())


def _as_planned(stage: str, wanted: Sequence[Unit], states: Mapping[str, UnitState]) -> dict[str, UnitState]:
    """What the plan found unread is read in its turn, though an earlier step of this run let systemd read it: for that
    it reads the files of all units."""
    found = dict(states)
    for each in wanted:
        if reads_again(stage, each.file.path):
            found[each.name] = replace(found.get(each.name, UnitState()), stale=True)
    return found


def reads_again(stage: str, path: str) -> bool:
    """Whether this run carries out a plan in which the file of a unit was to be written, or read."""
    return state.is_executing and (path, "write") in (current().planned_actions(host.name, stage) or ())


def _stopped_with_docker(changes: Sequence[Change], states: Mapping[str, UnitState]) -> set[str]:
    """The units that do not run because this run, as planned, restarted Docker, of which they are part: to start them
    again belongs to that change, and no plan could list it."""
    session = current()
    if not state.is_executing or ("dockerd", "restart") not in (session.planned_actions(host.name, "engine") or ()):
        return set()
    found = [each for each in changes if each.resource.kind == "unit" and not session.allows(host.name, each)]
    return {each.resource.name for each in found if states.get(each.resource.name, UnitState()).enabled}
