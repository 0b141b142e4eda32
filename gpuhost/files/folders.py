"""Folders as they should be, all of them in one round trip, and why one must be made or corrected."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pyinfra.api.operation import operation
from pyinfra.context import host

from gpuhost.plan.change import Change, Difference, Resource
from gpuhost.run.fact import HostFact
from gpuhost.run.remote import Step
from gpuhost.run.session import Commands, carry_out, failing


@dataclass(frozen=True)
class Folder:
    """A folder of one owner (whose group has the same name). `mode`: octal without a leading 0."""

    path: str
    mode: str
    owner: str


@dataclass(frozen=True)
class FolderState:
    """What is at a path; a link to another disk, say, is what it points to: who made it answers for that."""

    kind: str
    mode: str
    owner: str


class FoldersState(HostFact[dict[str, FolderState]]):
    """path -> what is there; a path with nothing is not in the answer."""

    def command(self, paths: Iterable[str]) -> str:
        """One question for all paths; stat's complaints about those that are not there are no answer."""
        return f"stat -L -c '%F|%a|%U:%G|%n' {shlex.join(paths)} 2>/dev/null || true"

    @staticmethod
    def default() -> dict[str, FolderState]:
        """Nothing is there."""
        return {}

    def read(self, output: list[str]) -> dict[str, FolderState]:
        """Lines of kind, mode, owner and path."""
        rows = (line.split("|", 3) for line in output if line.count("|") >= 3)
        return {path: FolderState(kind, mode, owner) for kind, mode, owner, path in rows}


def reconcile(stage: str, wanted: Sequence[Folder], observed: Mapping[str, FolderState]) -> list[Change]:
    """The folders to make and to correct, in order. Pure."""
    changes = []
    for folder in wanted:
        there = observed.get(folder.path)
        resource = Resource("folder", folder.path)
        if there is None:
            changes.append(Change(stage, resource, "create", "it does not exist"))
            continue
        pairs = (("mode", there.mode, folder.mode), ("owner", there.owner, f"{folder.owner}:{folder.owner}"))
        diff = tuple(Difference(*pair) for pair in pairs if pair[1] != pair[2])
        if diff:
            reason = ", ".join(f"its {each.field} is {each.before}, not {each.after}" for each in diff)
            changes.append(Change(stage, resource, "correct", reason, diff))
    return changes


# What stands there already keeps its content and gets its owner before its mode: chown takes setgid away.
_MAKE = r"""
set -eu; umask 022
# A mode of five digits: with fewer, chmod keeps the setgid of a folder.
folder() { [ -d "$1" ] || mkdir -p -m 700 "$1"; chown "$3:$3" "$1"; chmod "$2" "$1"; }
"""


@operation()
def folders(stage: str, wanted: Sequence[Folder]) -> Commands:
    """Every folder is there, with its owner and mode; parents before what is in them."""
    observed: dict[str, FolderState] = host.get_fact(FoldersState, paths=[folder.path for folder in wanted])
    for path, there in observed.items():
        if there.kind != "directory":
            yield failing(
                f"a {there.kind} is in the place of the folder {path}",
                "move it away; nothing is deleted that gpuhost did not make",
            )
            return
    changes = reconcile(stage, wanted, observed)
    named = {change.resource.name for change in changes}
    calls = [
        f"folder {shlex.join([each.path, each.mode.zfill(5), each.owner])}" for each in wanted if each.path in named
    ]
    yield from carry_out(changes, [Step(_MAKE + "\n".join(calls))])
