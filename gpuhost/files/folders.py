"""Folders as they should be, all of them in one round trip, and why one must be made or corrected."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from pyinfra.api.operation import operation
from pyinfra.context import host

from gpuhost.files.owners import NOBODY, Owners, called
from gpuhost.plan.change import Change, Resource, differing, in_words
from gpuhost.run.fact import HostFact
from gpuhost.run.remote import Script
from gpuhost.run.session import Commands, carry_out, fail_host


@dataclass(frozen=True)
class Folder:
    """A folder as it should be. `mode`: octal without a leading 0; `group`: the owner's, which has the same name, when
    none is given; `whole`: when the folder gets another owner, so does all that is in it."""

    path: str
    mode: str
    owner: str
    group: str = ""
    whole: bool = False

    @property
    def ownership(self) -> str:
        """`owner:group`."""
        return f"{self.owner}:{self.group or self.owner}"


@dataclass(frozen=True)
class FolderState:
    """What is at a path; a link that root made, to another disk, say, is what it points to, `linked`. `owner`:
    `user:group`, an id where no account has it."""

    kind: str
    mode: str
    owner: str
    linked: bool = False

    @property
    def is_roots(self) -> bool:
        """True when nobody else can put anything there."""
        return self.owner.startswith("root:") and int(self.mode, 8) & 0o022 == 0


_LINKS = "links lead to:"


class FoldersState(HostFact[dict[str, FolderState]]):
    """path -> what is there; a path with nothing is not in the answer."""

    def command(self, paths: Iterable[str]) -> str:
        """Two questions: what is there, and where it leads to."""
        form, asked = "'%F|%a|%U|%u|%G|%g|%n'", shlex.join(paths)
        return f"stat -c {form} {asked} 2>/dev/null; echo '{_LINKS}'; stat -L -c {form} {asked} 2>/dev/null; true"

    @staticmethod
    def default() -> dict[str, FolderState]:
        """Nothing is there."""
        return {}

    def read(self, output: list[str]) -> dict[str, FolderState]:
        """Lines of kind, mode, user, uid, group, gid and path."""
        half = output.index(_LINKS)
        there, leads_to = _states(output[:half]), _states(output[half:])
        return {
            path: replace(leads_to[path], linked=True)
            if state.kind == "symbolic link" and state.owner.startswith("root:") and path in leads_to
            else state
            for path, state in there.items()
        }


def _states(lines: Iterable[str]) -> dict[str, FolderState]:
    rows = (line.split("|", 6) for line in lines if line.count("|") >= 6)
    return {
        path: FolderState(kind, mode, f"{called(user, uid)}:{called(group, gid)}")
        for kind, mode, user, uid, group, gid, path in rows
    }


def reconcile(stage: str, wanted: Sequence[Folder], observed: Mapping[str, FolderState]) -> list[Change]:
    """The folders to make and to correct, in order. Pure."""
    changes = []
    for folder in wanted:
        there = observed.get(folder.path)
        resource = Resource("folder", folder.path)
        if there is None:
            changes.append(Change(stage, resource, "create", "it does not exist"))
            continue
        diff = differing(("mode", there.mode, folder.mode), ("owner", there.owner, folder.ownership))
        if diff:
            reason = in_words(diff)
            if folder.whole and there.owner != folder.ownership:
                reason += ", and so is what it holds"
            changes.append(Change(stage, resource, "correct", reason, diff))
    return changes


# What stands there already keeps its content and gets its owner before its mode: chown takes setgid away. A mode has
# five digits: with fewer, chmod keeps the setgid of a folder. In a folder of the account's, where it may put a link (to
# a folder, or a hard one to a file) at any moment, root only gives away the folder in which it stands, and the account
# does the rest.
_MAKE = r"""
set -eu; umask 022
folder() { no_link "$1"; [ -d "$1" ] || mkdir -p -m 700 "$1"; chown "$3" "$1"; chmod "$2" "$1"; }
# Root's alone until all in it is given away, so that nobody adds to it meanwhile, and an interrupted run goes on.
whole() {
  no_link "$1"; [ -d "$1" ] || mkdir -p -m 700 "$1"; chown root:root "$1"; chmod 700 "$1"
  chown -hRP "$3" "$1/."; chmod "$2" "$1"
}
no_link() {
  if [ -L "$1" ] && [ "$(stat -c %u "$1")" != 0 ]; then
    echo "error: a link that root did not make is in the place of the folder $1" >&2
    echo "hint: look at where it leads to, then remove it" >&2; exit 1
  fi
}
own() {
  [ ! -e "$1" ] || (
    parent="$(cd -P "${1%/*}" && pwd -P)"; cd -P "$1"; [ "$(pwd -P)" = "$parent/${1##*/}" ]; chown "$3" .)
  setpriv --reuid="${3%%:*}" --regid="${3##*:}" --clear-groups -- \
    sh -c '[ -d "$1" ] || mkdir -m 700 "$1"; chmod "$2" "$1"' sh "$1" "$2"
}
"""


def look(wanted: Iterable[Folder]) -> dict[str, FolderState]:
    """What is in the place of each."""
    return host.get_fact(FoldersState, paths=[folder.path for folder in wanted])


@operation()
def folders(stage: str, wanted: Sequence[Folder], owners: Owners = NOBODY) -> Commands:
    """Every folder is there, with its owner and mode; parents before what is in them. `owners`: those to come."""
    own = inside(wanted)
    observed = {path: replace(there, owner=owners.both(there.owner)) for path, there in look(wanted).items()}
    for path, there in observed.items():
        above = observed.get(parent(path))
        untrusted = there.linked and (path in own or (above is not None and not above.is_roots))
        if there.kind != "directory" or untrusted:
            kind = "symbolic link" if untrusted else there.kind
            what = f"a {kind} is in the place of the folder {path}"
            yield from fail_host(what, "move it away; nothing is deleted that gpuhost did not make")
            return
    changes = reconcile(stage, wanted, observed)
    named = {change.resource.name for change in changes}
    calls = [
        shlex.join([_function(each, observed.get(each.path), own), each.path, each.mode.zfill(5), each.ownership])
        for each in wanted
        if each.path in named
    ]
    yield from carry_out(changes, [Script(_MAKE + "\n".join(calls))])


def _function(folder: Folder, there: FolderState | None, own: Set[str]) -> str:
    if folder.path in own:
        return "own"
    return "whole" if folder.whole and there and there.owner != folder.ownership else "folder"


def inside(wanted: Sequence[Folder]) -> set[str]:
    """The folders that lie in one of another account than root, which may put a link in their place. Pure."""
    others = {folder.path for folder in wanted if folder.owner != "root"}
    return {folder.path for folder in wanted if parent(folder.path) in others}


def parent(path: str) -> str:
    """The folder in which a path lies."""
    return str(PurePosixPath(path).parent)
