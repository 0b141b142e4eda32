"""Files written in one round trip, secret or not: compared by sha256, owner and mode; replaced atomically; the old
content backed up first (0600); never readable by another user, not for a moment."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import replace

from pyinfra.api.operation import operation
from pyinfra.context import host, state

from gpuhost.errors import Cause, Problem
from gpuhost.files.diffs import unified
from gpuhost.files.facts import FilesState, FileState, Texts, parse, read_script
from gpuhost.files.owners import NOBODY, Owners
from gpuhost.files.rules import FileSpec, encoded, reconcile, same
from gpuhost.plan.change import Change
from gpuhost.run.connection import lost
from gpuhost.run.remote import Completed, Script, last_line, run
from gpuhost.run.session import Commands, carry_out, fail_host, report_problem, text_diffs
from gpuhost.secrets.store import NotYet
from hostside.redaction import Redactor

_WRITE = r"""
set -eu; umask 077; stamp="$(date -u +%Y%m%dT%H%M%SZ)"
put() {
  if [ -f "$1" ] && [ ! -L "$1" ]; then
    mkdir -p -m 700 @BACKUPS@; mkdir -p "@BACKUPS@/$stamp$(dirname "$1")"; cat < "$1" > "@BACKUPS@/$stamp$1"
  elif [ -d "$1" ]; then echo "error: a folder is in the place of the file $1" >&2
    echo "hint: move it away; nothing is deleted that gpuhost did not make" >&2; exit 1
  fi
  [ -d "$(dirname "$1")" ] || (umask 022; mkdir -p "$(dirname "$1")")
  IFS= read -r encoded
  rm -f "$1.gpuhost-new"
  printf '%s' "$encoded" | base64 -d > "$1.gpuhost-new"
  own "$1.gpuhost-new" "$2" "$3" "$4"; sync "$1.gpuhost-new"; mv -f "$1.gpuhost-new" "$1"
}
own() { chmod "$2" "$1"; chown "$3:$4" "$1"; }
"""


def write_step(
    wanted: Sequence[FileSpec], contents: Mapping[str, str], backups: str, right: Set[str] = frozenset()
) -> Script:
    """One command that writes all of them; the contents travel by stdin, base64, one a line. `right`: paths whose
    content is right already: they get mode and owner and keep their time, by which a reader knows what it has read."""
    calls, lines = [], []
    for spec in wanted:
        calls.append(f"{'own' if spec.path in right else 'put'} {shlex.join([spec.path, spec.mode, *_owner(spec)])}")
        if spec.path not in right:
            lines.append(base64.b64encode(encoded(contents[spec.path])).decode())
    return Script(_WRITE.replace("@BACKUPS@", backups) + "\n".join(calls), stdin="\n".join(lines) + "\n")


def _owner(spec: FileSpec) -> tuple[str, str]:
    return spec.user, spec.group


def resolve(wanted: Sequence[FileSpec]) -> dict[str, str | None]:
    """path -> content; None for what holds a secret still to be generated."""
    found: dict[str, str | None] = {}
    for spec in wanted:
        try:
            found[spec.path] = spec.content()
        except NotYet:
            found[spec.path] = None
    return found


def look(wanted: Sequence[FileSpec], key: str = "") -> tuple[dict[str, FileState], Completed | None]:
    """What the host says of them; of those that may hold a secret, if any, apart from the others."""
    plain = host.get_fact(FilesState, paths=[spec.path for spec in wanted if not spec.secret])
    secret = [spec.path for spec in wanted if spec.secret]
    return plain, run(read_script(secret, keyed=True), stdin=f"{key}\n") if secret else None


def observe(wanted: Sequence[FileSpec], key: str, owners: Owners = NOBODY) -> dict[str, FileState]:
    """What lies at their paths; the hashes of those that may hold a secret are keyed, and no fact that -vvv prints.
    `owners`: those to come. A host that cannot be read fails."""
    plain, secret = look(wanted, key)
    found = {**plain, **(_keyed(secret) if secret else {})}
    return {
        path: replace(there, user=owners.user(there.user), group=owners.group(there.group))
        for path, there in found.items()
    }


def _keyed(completed: Completed) -> dict[str, FileState]:
    """What the keyed script said; else the host fails, as with a fact that cannot be read: `carry_out` does nothing on
    one that failed. An exception would end the run for all hosts."""
    lines = completed.stdout.splitlines()
    with suppress(ValueError):
        if completed.ok and "end" in lines:
            return parse(lines)
    # Not a line of an answer, which may hold anything.
    broken = Cause("what the host answered is not what was asked", "run it again; see whether its `stat` is the usual")
    cause = lost(host) or (broken if completed.ok else last_line(completed.output))
    report_problem(Problem(f"the files of secrets could not be read: {cause.what}", cause.hint, host.name))
    state.fail_hosts({host})
    return {}


def with_text_diffs(
    changes: Sequence[Change],
    wanted: Iterable[FileSpec],
    observed: Mapping[str, FileState],
    secrets: Iterable[str] = (),
    shipped: bool = False,
    stamp: str = "",
) -> list[Change]:
    """The changes of files that hold no secret with what changes in their text, in a plan. One question to the host,
    when there is something to show. `secrets`: values that are masked, should a file hold one after all; `shipped`:
    the files are programs of ours, whose lines nobody wants to see unasked; `stamp`: as of unified(), likewise."""
    asked = text_diffs()
    if not asked or (shipped and asked != "all"):
        return list(changes)
    known = {spec.path: spec for spec in wanted if not spec.secret}
    chosen = {change.resource.name for change in changes if change.resource.kind == "file"} & known.keys()
    there = [path for path in sorted(chosen) if path in observed and observed[path].kind.startswith("regular")]
    before: dict[str, str] = host.get_fact(Texts, paths=there) if there else {}
    mask, diffs = Redactor(secrets).text, {}
    for path in chosen:
        if (path in there and path in before) or (path not in observed and asked == "all"):
            after = resolve([known[path]])[path]
            if after is not None and before.get(path) != after:
                diffs[path] = unified(before.get(path), after, mask, "" if asked == "all" else stamp)
    return [replace(change, text_diff=diffs.get(change.resource.name, ())) for change in changes]


@operation()
def files(stage: str, wanted: Sequence[FileSpec], backups: str, shipped: bool = False) -> Commands:
    """Make files be what they should be. `backups`: the folder for what is replaced; `shipped`: they are programs of
    ours."""
    observed, contents = observe(wanted, ""), resolve(wanted)
    if problem := blocked(observed):
        yield from fail_host(*problem)
        return
    changes = with_text_diffs(reconcile(stage, wanted, contents, observed), wanted, observed, shipped=shipped)
    yield from write(changes, wanted, observed, backups)


def blocked(observed: Mapping[str, FileState]) -> Cause | None:
    """Why files cannot be written; None when they can."""
    folder = next((path for path, there in observed.items() if there.kind == "directory"), None)
    if folder is None:
        return None
    return Cause(
        f"a folder is in the place of the file {folder}",
        "move it away; nothing is deleted that gpuhost did not make",
    )


def write(
    changes: Sequence[Change],
    wanted: Sequence[FileSpec],
    observed: Mapping[str, FileState],
    backups: str,
    key: str = "",
    first: Iterable[Script] = (),
) -> Commands:
    """Carry out what reconcile() found. `first`: steps that come before the files are written."""
    subjects = {change.resource.name for change in changes}

    def act() -> Commands:
        yield from first
        chosen = [spec for spec in wanted if spec.path in subjects]
        contents = {spec.path: spec.content() for spec in chosen}
        right = {spec.path for spec in chosen if same(spec, contents[spec.path], observed.get(spec.path), key)}
        yield write_step(chosen, contents, backups, right)

    yield from carry_out(changes, act())
