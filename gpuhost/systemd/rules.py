"""A systemd unit as it should be, and what differs. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gpuhost.files import rules as files
from gpuhost.files.facts import FileState
from gpuhost.files.rules import FileSpec
from gpuhost.plan.change import Change, Resource
from gpuhost.systemd.facts import UnitState


@dataclass(frozen=True)
class Unit:
    """`runs`: it is active now and after a boot; False: another unit starts it when it is needed."""

    file: FileSpec
    runs: bool = True

    @property
    def name(self) -> str:
        """`ours.service`."""
        return self.file.path.rpartition("/")[2]


def reconcile(
    stage: str, wanted: Sequence[Unit], observed: Mapping[str, FileState], states: Mapping[str, UnitState]
) -> list[Change]:
    """The files to write or to have read, then the units to enable."""
    texts = {unit.file.path: unit.file.content() for unit in wanted}
    changes = files.reconcile(stage, [unit.file for unit in wanted], texts, observed)
    written = {change.resource.name for change in changes}
    for unit in wanted:
        state = states.get(unit.name, UnitState())
        if state.stale and unit.file.path not in written:
            resource = Resource("file", unit.file.path)
            changes.append(Change(stage, resource, "write", "systemd has not read it since it changed"))
    # All are started after a file is written. Whether one runs by then is a volatile reading: an earlier stage may have
    # restarted Docker, whose unit stops others.
    will_start = bool(changes)
    for unit in wanted:
        state = states.get(unit.name, UnitState())
        if unit.runs and not (state.enabled and (state.active or will_start)):
            reason = "it does not run" if state.enabled else "it does not run at boot"
            changes.append(Change(stage, Resource("unit", unit.name), "enable", reason))
        elif unit.runs and (left := _wanted_by(texts[unit.file.path]) - state.wanted_by):
            # systemd calls a unit enabled that has any of its links.
            reason = f"{', '.join(sorted(left))} would not start it"
            changes.append(Change(stage, Resource("unit", unit.name), "enable", reason))
    return changes


def _wanted_by(text: str) -> set[str]:
    """The units that start one, by its file."""
    return {name for line in re.findall(r"^WantedBy=(.*)$", text, re.MULTILINE) for name in line.split()}
