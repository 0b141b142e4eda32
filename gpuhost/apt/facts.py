"""Debian packages, apt's sources and indexes, in one round trip."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field

from gpuhost.run.fact import HostFact

_SCRIPT = r"""
[ $# = 0 ] || dpkg-query -W -f '${db:Status-Abbrev}\t${Package}\t${Version}\n' "$@" 2>/dev/null |
  awk -F '\t' -v OFS='\t' 'substr($1,2,1)=="i"{print "package",$2,$3}'
apt-mark showhold 2>/dev/null | sed 's/^/hold\t/'
for list in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
  [ -f "$list" ] || continue
  if [ ! -e "$stamp" ] || [ -z "$(find /var/lib/apt/lists -maxdepth 1 -name '*Packages*' 2>/dev/null | head -n1)" ] ||
     [ -n "$(find "$list" -newer "$stamp")" ]; then printf 'unread\t%s\n' "$list"; fi
done
printf 'end\tend\n'
"""


@dataclass
class AptReading:
    """`packages`: installed name -> version; `held`: names; `unread`: source files newer than our last index."""

    packages: dict[str, str] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)
    unread: list[str] = field(default_factory=list)


class AptState(HostFact[AptReading]):
    """The reading for some package names; `stamp` is the file touched after each successful `apt-get update`."""

    def command(self, packages: Iterable[str], stamp: str) -> str:
        """One script for all names."""
        names = " ".join(map(shlex.quote, packages))
        return f"LC_ALL=C; export LC_ALL; stamp={shlex.quote(stamp)}; set -- {names}\n{_SCRIPT}"

    @staticmethod
    def default() -> AptReading:
        """Nothing installed."""
        return AptReading()

    def read(self, output: list[str]) -> AptReading:
        """Lines of kind and values."""
        reading = AptReading()
        for line in output:
            kind, *values = line.split("\t")
            if kind == "package":
                reading.packages[values[0]] = values[1]
            elif kind == "hold":
                reading.held.add(values[0])
            elif kind == "unread":
                reading.unread.append(values[0])
        return reading
