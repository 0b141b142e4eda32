"""How long what takes long took on this host when it was last done, and what it took of the disk: noted by the step
that does it, read by preflight. A plan estimates by that."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass

LINES_MAX = 500
_LINE = re.compile(r"([a-z]{1,20})\t([^\t]{1,200})\t([0-9]{1,7}(?:\.[0-9]+)?)\t([0-9]{0,15})", re.ASCII)


@dataclass(frozen=True)
class Measure:
    """Of the last time. `kind`: that of a change's resource; `name`: the one that its next version has as well;
    `disk_bytes`: None when nobody looked."""

    kind: str
    name: str
    seconds: float
    disk_bytes: int | None = None


def name_of(kind: str, resource: str) -> str:
    """Under which name the last version of a resource was measured: an image's without its tag and digest, an install's
    without its version."""
    if kind == "install":
        return resource.rstrip("/").rpartition("/")[0].rpartition("/")[2]
    if kind == "image":
        folder, slash, image = resource.partition("@")[0].rpartition("/")
        return f"{folder}{slash}{image.partition(':')[0]}"
    return resource


def parse(line: str) -> Measure | None:
    """A line of the file; None for one that is none: it is then as if nobody had measured."""
    found = _LINE.fullmatch(line)
    return Measure(found[1], found[2], float(found[3]), int(found[4]) if found[4] else None) if found else None


# By the clock that nobody sets. The step is done, whatever becomes of its measure.
BEGIN = "read -r began _ < /proc/uptime"
_NOTE = r"""
( umask 022; file=@FILE@; read -r now _ < /proc/uptime
  seconds="$(awk -v a="$began" -v b="$now" 'BEGIN {printf "%.1f", b - a}')"; bytes="$(@BYTES@)"
  { [ ! -f "$file" ] || awk -F'\t' -v k=@KIND@ -v n=@NAME@ '$1 != k || $2 != n' "$file" | tail -n @MORE@
    printf '%s\t%s\t%s\t%s\n' @KIND@ @NAME@ "$seconds" "$bytes"
  } > "$file.new" && mv -f "$file.new" "$file" ) 2>/dev/null || true
"""


def noted(file: str, kind: str, resource: str, disk_bytes: str = ":") -> str:
    """Shell that notes how long something took since `$began`. `disk_bytes`: a command that prints them."""
    marks = {
        "FILE": shlex.quote(file),
        "BYTES": disk_bytes,
        "KIND": shlex.quote(kind),
        "NAME": shlex.quote(name_of(kind, resource)),
        "MORE": str(LINES_MAX - 1),
    }
    return re.sub("@([A-Z]+)@", lambda found: marks[found[1]], _NOTE)


def timed(command: str, note: str) -> str:
    """The command, whose exit code it is, and when that is 0 what notes how long it took."""
    return f"{BEGIN}\n(\n{command}\n)\ncode=$?; [ $code = 0 ] || exit $code\n{note}"


def parsed(lines: Iterable[str]) -> list[Measure]:
    """Those of some lines that are measures."""
    return [measure for line in lines if (measure := parse(line))]
