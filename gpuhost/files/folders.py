"""Folders as they should be, all of them in one round trip, and why one must be made or corrected."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from pyinfra.api.operation import operation
from pyinfra.context import host

from gpuhost.plan.change import Change, Difference, Resource
from gpuhost.run.fact import HostFact
from gpuhost.run.remote import Step
from gpuhost.run.session import Commands, carry_out, fail_host


@dataclass(frozen=True)
class Folder:
    """A folder as it should be. `mode`: octal without a leading 0; `group`: the owner's, which has the same name, when
    none is given."""

    path: str
    mode: str
    owner: str
    group: str = ""

    @property
    def ownership(self) -> str:
        """`owner:group`."""
        return f"{self.owner}:{self.group or self.owner}"


@dataclass(frozen=True)
class FolderState:
    """What is at a path; a link to another disk, say, is what it points to: who made it answers for that."""

    kind: str
    mode: str
    owner: str


class FoldersState(HostFact[dict[str, FolderState]]):
    """path -> what is there; a path with nothing is not in the answer."""

    def command(self, paths: Iterable[str], own: Iterable[str] = ()) -> str:
        """Two questions: of `paths` a link is what it points to, of `own` it is a link."""
        form = "'%F|%a|%U:%G|%n'"
        asked = [f"stat -L -c {form} {shlex.join(paths)}", f"stat -c {form} {shlex.join(own)}"]
        return "; ".join(f"{each} 2>/dev/null" for each in asked) + "; true"

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
        pairs = (("mode", there.mode, folder.mode), ("owner", there.owner, folder.ownership))
        diff = tuple(Difference(*pair) for pair in pairs if pair[1] != pair[2])
        if diff:
            reason = ", ".join(f"its {each.field} is {each.before}, not {each.after}" for each in diff)
            changes.append(Change(stage, resource, "correct", reason, diff))
    return changes


# What stands there already keeps its content and gets its owner before its mode: chown takes setgid away. A mode has
# five digits: with fewer, chmod keeps the setgid of a folder. In a folder of the account's, where it may put a link (to
# a folder, or a hard one to a file) at any moment, root only gives away the folder in which it stands, and the account
# does the rest.
_MAKE = r"""
set -eu; umask 022
folder() { [ -d "$1" ] || mkdir -p -m 700 "$1"; chown "$3" "$1"; chmod "$2" "$1"; }
own() {
  [ ! -e "$1" ] || (
    parent="$(cd -P "${1%/*}" && pwd -P)"; cd -P "$1"; [ "$(pwd -P)" = "$parent/${1##*/}" ]; chown "$3" .)
  setpriv --reuid="${3%%:*}" --regid="${3##*:}" --clear-groups -- \
    sh -c '[ -d "$1" ] || mkdir -m 700 "$1"; chmod "$2" "$1"' sh "$1" "$2"
}
"""


@operation()
def folders(stage: str, wanted: Sequence[Folder]) -> Commands:
    """Every folder is there, with its owner and mode; parents before what is in them."""
    own = inside(wanted)
    paths = [folder.path for folder in wanted if folder.path not in own]
    observed: dict[str, FolderState] = host.get_fact(FoldersState, paths=paths, own=sorted(own))
    for path, there in observed.items():
        if there.kind != "directory":
            what = f"a {there.kind} is in the place of the folder {path}"
            yield from fail_host(what, "move it away; nothing is deleted that gpuhost did not make")
            return
    changes = reconcile(stage, wanted, observed)
    named = {change.resource.name for change in changes}
    calls = [
        shlex.join(["own" if each.path in own else "folder", each.path, each.mode.zfill(5), each.ownership])
        for each in wanted
        if each.path in named
    ]
    yield from carry_out(changes, [Step(_MAKE + "\n".join(calls))])


def inside(wanted: Sequence[Folder]) -> set[str]:
    """The folders that lie in one of another account than root, which may put a link in their place. Pure."""
    others = {folder.path for folder in wanted if folder.owner != "root"}
    return {folder.path for folder in wanted if str(PurePosixPath(folder.path).parent) in others}
