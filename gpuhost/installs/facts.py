"""The stamps of every version of an install, and of one version what lies in it, in one round trip."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

from gpuhost.errors import Problem, UserError
from gpuhost.files.trees import LIMIT_S, look_command
from gpuhost.run.fact import HostFact
from hostside.protocol.trees import TreeSeen
from hostside.wire import from_host

STAMP = ".gpuhost/installed.json"
# Without python3 nothing is compared: the host has none of our programs either, and they come first. But that there is
# no record is known: the system was installed anew, and the data are on a disk of their own.
_SCRIPT = r"""
for folder in @ROOT@/*/; do
  # The account owns the folder: it is not listed to its end, no link of its is followed, no FIFO waited for.
  [ -d "$folder" ] && [ -n "$(find "$folder" -mindepth 1 -maxdepth 1 -printf x -quit)" ] || continue
  stamp="$(dd if="$folder@STAMP@" iflag=nofollow,nonblock,fullblock bs=64k count=1 2>/dev/null | base64 -w0)"
  printf 'stamp\t%s\t%s\n' "${folder%/}" "$stamp"
done
if [ ! -d @PATH@ ] || [ -L @PATH@ ]; then :
elif command -v python3 >/dev/null; then
  seen="$(@LOOK@ 2>/dev/null)" && printf 'tree\t%s\n' "$seen" || printf 'unread\n'
elif [ ! -e @MANIFEST@ ]; then
  printf 'unrecorded\t%s\n' "$(timeout @LIMIT@ du -s --block-size=1 @PATH@ 2>/dev/null | cut -f1)"
fi
printf 'end\n'
"""


@dataclass(frozen=True)
class InstallReading:
    """`stamps`: folder -> the stamp in it, of every version; "" when it holds things and no stamp, no entry when it is
    empty. `tree`: what is in the wanted version, compared with its manifest; None when it was not looked at."""

    stamps: Mapping[str, str] = field(default_factory=dict)
    tree: TreeSeen | None = None


class InstallState(HostFact[InstallReading]):
    """The reading of the version at `path`, and of the stamps of those beside it."""

    def command(self, path: str, manifest: str) -> str:
        """One script."""
        marks = {
            "@ROOT@": shlex.quote(path.rpartition("/")[0]),
            "@STAMP@": STAMP,
            "@PATH@": shlex.quote(path),
            "@LOOK@": look_command(path, manifest),
            "@MANIFEST@": shlex.quote(manifest),
            "@LIMIT@": str(LIMIT_S),
        }
        script = _SCRIPT
        for mark, text in marks.items():
            script = script.replace(mark, text)
        return script

    @staticmethod
    def default() -> InstallReading:
        """No version is there."""
        return InstallReading()

    def read(self, output: list[str]) -> InstallReading:
        """Decode each line."""
        stamps, tree = {}, None
        for line in output:
            kind, *values = line.split("\t")
            if kind == "stamp":
                stamps[values[0]] = base64.b64decode(values[1]).decode(errors="replace")
            elif kind == "tree":
                tree = from_host(TreeSeen, values[0])
            elif kind == "unrecorded":
                tree = TreeSeen("unknown", int(values[0] or 0), 0, [], 0, "")
            elif kind == "unread":
                raise UserError(Problem("the files of an install cannot be looked at", "check the disk of `data_root`"))
        return InstallReading(stamps, tree)
