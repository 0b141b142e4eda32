"""Many files and folders read in one round trip."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, replace

from gpuhost.files.owners import called
from gpuhost.run.fact import HostFact


@dataclass(frozen=True)
class FileState:
    """What lies at a path: `kind` in stat's words, `mode` octal without a leading 0, `modified_s` in Unix time,
    `sha256` of a regular file; of one that may hold a secret, of a key and then the content (see read_script). `user`,
    `group`: the id where no account has it."""

    kind: str
    mode: str
    user: str
    group: str
    modified_s: float
    sha256: str


# No link is followed, no FIFO waited for, and a file is read as far as one of ours can be long: a longer one has
# another hash anyway.
BYTES_MAX = 16 * 2**20
_CONTENT = 'dd if="$p" iflag=nofollow,nonblock,fullblock bs=1M count=17 2>/dev/null'

# A program that is started costs a millisecond: one for all paths, two for what a file holds.
_READ = rf"""
stat --printf 'stat\t%n\t%F\t%a\t%U\t%u\t%G\t%g\t%.9Y\n' -- "$@" 2>/dev/null
for p in "$@"; do
  [ -f "$p" ] && [ ! -L "$p" ] || continue
  printf 'sha256\t%s\t' "$p"
  if [ -n "$key" ]; then {{ printf '%s' "$key"; {_CONTENT}; }} | sha256sum; else {_CONTENT} | sha256sum; fi
done; printf 'end\n'
"""


def read_script(paths: Iterable[str], keyed: bool = False) -> str:
    """The shell script that reads them. `keyed`: the key of the hashes is the first line of its stdin."""
    key = "IFS= read -r key" if keyed else "key="
    return f"{key}; set -- {' '.join(map(shlex.quote, paths))}{_READ}"


def parse(lines: Iterable[str]) -> dict[str, FileState]:
    """Its lines with tabs between: `stat`, path, kind, mode, user, uid, group, gid, time; then `sha256`, path, sum."""
    found: dict[str, FileState] = {}
    for word, path, *values in (line.split("\t") for line in lines if line != "end"):
        if word == "stat":
            kind, mode, user, uid, group, gid, modified = values
            found[path] = FileState(kind, mode, called(user, uid), called(group, gid), float(modified), "-")
        elif word != "sha256":
            raise ValueError("neither of the two")
        elif path in found:  # else the file came between the two
            found[path] = replace(found[path], sha256=values[0].partition(" ")[0])
    return found


class FilesState(HostFact[dict[str, FileState]]):
    """path -> what lies there; a path with nothing is not in the answer."""

    def command(self, paths: Iterable[str]) -> str:
        """One loop over all paths."""
        return read_script(paths)

    @staticmethod
    def default() -> dict[str, FileState]:
        """Nothing is there."""
        return {}

    def read(self, output: list[str]) -> dict[str, FileState]:
        """What the script printed."""
        return parse(output)


class Kinds(HostFact[dict[str, str]]):
    """path -> what lies there in stat's words, a link being a link; for what a container can write: nothing is read."""

    def command(self, paths: Iterable[str]) -> str:
        """One question."""
        return f"stat -c '%F|%n' {shlex.join(paths)} 2>/dev/null || true"

    @staticmethod
    def default() -> dict[str, str]:
        """Nothing is there."""
        return {}

    def read(self, output: list[str]) -> dict[str, str]:
        """Lines of kind and path."""
        return {path: kind for kind, _, path in (line.partition("|") for line in output)}


class Texts(HostFact[dict[str, str]]):
    """path -> content of small text files of ours that hold no secret (stamps, manifests); a missing one is absent."""

    def command(self, paths: Iterable[str]) -> str:
        """base64, so that any content is one line."""
        names = " ".join(map(shlex.quote, paths))
        row = rf"""printf '%s\t%s\n' "$p" "$({_CONTENT} | base64 -w0)" """
        return f"""set -- {names}; for p in "$@"; do [ ! -f "$p" ] || {row}; done; printf 'end\\n'"""

    @staticmethod
    def default() -> dict[str, str]:
        """Nothing is there."""
        return {}

    def read(self, output: list[str]) -> dict[str, str]:
        """Decode each line."""
        rows = (line.split("\t") for line in output if line != "end")
        return {path: base64.b64decode(content).decode(errors="replace") for path, content in rows}
