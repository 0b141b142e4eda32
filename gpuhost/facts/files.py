"""Many files and folders read in one round trip."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Iterable
from dataclasses import dataclass

from pyinfra.api.facts import FactBase


@dataclass(frozen=True)
class FileState:
    """What lies at a path: `kind` in stat's words, `mode` octal without a leading 0, `sha256` of a regular file."""

    kind: str
    mode: str
    user: str
    group: str
    sha256: str


_ONE = r"""
for p in "$@"; do
  if [ -e "$p" ] || [ -L "$p" ]; then
    sum=-; [ -f "$p" ] && [ ! -L "$p" ] && sum="$(sha256sum < "$p" | cut -c1-64)"
    printf '%s\t%s\t%s\n' "$p" "$(stat -c '%F\t%a\t%U\t%G' "$p" | sed 's/\\t/\t/g')" "$sum"
  fi
done; printf 'end\n'
"""


class FilesState(FactBase[dict[str, FileState]]):
    """path -> what lies there; a path with nothing is not in the answer."""

    def command(self, paths: Iterable[str]) -> str:
        """One loop over all paths."""
        return f"set -- {' '.join(map(shlex.quote, paths))}{_ONE}"

    @staticmethod
    def default() -> dict[str, FileState]:
        """Nothing is there."""
        return {}

    def process(self, output: list[str]) -> dict[str, FileState]:
        """Lines of path, kind, mode, user, group, sha256 with tabs between."""
        rows = (line.split("\t") for line in output if line != "end")
        return {path: FileState(kind, mode, user, group, digest) for path, kind, mode, user, group, digest in rows}


class Texts(FactBase[dict[str, str]]):
    """path -> content of small text files of ours that hold no secret (stamps, manifests); a missing one is absent."""

    def command(self, paths: Iterable[str]) -> str:
        """base64, so that any content is one line."""
        names = " ".join(map(shlex.quote, paths))
        loop = (
            r"""for p in "$@"; do [ -f "$p" ] && printf '%s\t%s\n' "$p" "$(base64 -w0 < "$p")"; done; printf 'end\n'"""
        )
        return f"set -- {names}; {loop}"

    @staticmethod
    def default() -> dict[str, str]:
        """Nothing is there."""
        return {}

    def process(self, output: list[str]) -> dict[str, str]:
        """Decode each line."""
        rows = (line.split("\t") for line in output if line != "end")
        return {path: base64.b64decode(content).decode(errors="replace") for path, content in rows}
