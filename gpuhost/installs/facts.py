"""The stamps of every version of an install, in one round trip."""

from __future__ import annotations

import base64
import shlex

from gpuhost.installs.rules import STAMP
from gpuhost.run.fact import HostFact

_SCRIPT = r"""
for folder in @ROOT@/*/; do
  # The account owns the folder: it is not listed to its end, no link of its is followed, no FIFO waited for.
  [ -d "$folder" ] && [ -n "$(find "$folder" -mindepth 1 -maxdepth 1 -printf x -quit)" ] || continue
  stamp="$(dd if="$folder@STAMP@" iflag=nofollow,nonblock,fullblock bs=64k count=1 2>/dev/null | base64 -w0)"
  printf '%s\t%s\n' "${folder%/}" "$stamp"
done; printf 'end\n'
"""


class Stamps(HostFact[dict[str, str]]):
    """folder -> the stamp in it; "" when it holds things and no stamp, no entry when it is empty."""

    def command(self, root: str) -> str:
        """One loop over the folders below `root`."""
        return _SCRIPT.replace("@ROOT@", shlex.quote(root)).replace("@STAMP@", STAMP)

    @staticmethod
    def default() -> dict[str, str]:
        """No version is there."""
        return {}

    def read(self, output: list[str]) -> dict[str, str]:
        """Decode each line."""
        rows = (line.split("\t") for line in output if "\t" in line)
        return {path: base64.b64decode(stamp).decode(errors="replace") for path, stamp in rows}
