"""Files written in one round trip, secret or not: compared by sha256, owner and mode; replaced atomically; the old
content backed up first (0600); never readable by another user, not for a moment."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Mapping, Sequence

from pyinfra.api.operation import operation
from pyinfra.context import host

from ..facts.files import FilesState
from ..files import FileSpec, reconcile
from ..remote import Step
from ..secrets import NotYet
from ..session import Commands, carry_out

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
  rm -f "$1.gpuhost-new"; printf '%s' "$encoded" | base64 -d > "$1.gpuhost-new"
  chown "$3:$4" "$1.gpuhost-new"; chmod "$2" "$1.gpuhost-new"; sync "$1.gpuhost-new"; mv -f "$1.gpuhost-new" "$1"
}
"""


def write_step(wanted: Sequence[FileSpec], contents: Mapping[str, str], backups: str) -> Step:
    """One command that writes all of them; the contents travel by stdin, base64, one a line."""
    calls = [f"put {shlex.join([spec.path, spec.mode, spec.user, spec.group])}" for spec in wanted]
    encoded = [base64.b64encode(contents[spec.path].encode()).decode() for spec in wanted]
    return Step(_WRITE.replace("@BACKUPS@", backups) + "\n".join(calls), stdin="\n".join(encoded) + "\n")


def _resolve(spec: FileSpec) -> str | None:
    try:
        return spec.content()
    except NotYet:
        return None


@operation()
def files(stage: str, wanted: Sequence[FileSpec], backups: str) -> Commands:
    """Make files be what they should be. `backups`: the folder for what is replaced."""
    observed = host.get_fact(FilesState, paths=[spec.path for spec in wanted])
    contents = {spec.path: _resolve(spec) for spec in wanted}
    changes = reconcile(stage, wanted, contents, observed)
    subjects = {change.subject for change in changes}

    def act() -> Commands:
        chosen = [spec for spec in wanted if spec.path in subjects]
        yield write_step(chosen, {spec.path: spec.content() for spec in chosen}, backups)

    yield from carry_out(changes, act())
