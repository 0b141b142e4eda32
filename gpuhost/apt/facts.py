"""Debian packages, apt's sources and indexes, in one round trip."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field

from gpuhost.run.fact import HostFact

_SCRIPT = r"""
# dpkg's abbreviation of a status: what is wanted (`h`: held), what is (`i`: installed), errors.
[ $# = 0 ] || dpkg-query -W -f '${db:Status-Abbrev}\t${Package}\t${Version}\n' "$@" 2>/dev/null |
  awk -F '\t' -v OFS='\t' 'substr($1,2,1)=="i"{print "package",$2,$3} substr($1,1,1)=="h"{print "hold",$2}'
if [ -n "$source" ]; then set -- "$source"
else set -- /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; fi
for list in "$@"; do
  [ -f "$list" ] || continue
  case "$source$list" in /etc/apt/sources.list.d/gpuhost-*) [ -n "$source" ] || continue ;; esac
  if [ ! -e "$stamp" ]; then printf 'unread\t%s\tgpuhost has not read\n' "$list"
  elif [ -z "$(find /var/lib/apt/lists -maxdepth 1 -name "$lists" 2>/dev/null | head -n1)" ]; then
    printf 'unread\t%s\tapt has no index of\n' "$list"
  elif [ -n "$(find "$list" -newer "$stamp")" ]; then printf 'unread\t%s\tnot read since it changed:\n' "$list"; fi
done
[ -z "$install" ] || {
  # As apt would install them, of the indexes that it has; its caches are kept in memory, for a plan writes nothing.
  uris="$(apt-get -qq -y --print-uris --no-install-recommends --allow-downgrades --allow-change-held-packages \
    -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= install $install 2>/dev/null)" &&
    printf '%s\n' "$uris" | awk -v OFS='\t' '{bytes += $3} END {printf "download\t%.0f\n", bytes}'
}
printf 'end\tend\n'
"""


@dataclass
class AptReading:
    """Of the packages that were asked for, `packages`: installed name -> version; `held`: names. `unread`: source file
    -> why apt's index lacks what it says, in words that its path follows; `download_bytes`: of what is to be installed
    and what that needs, None when apt's indexes do not know all of it."""

    packages: dict[str, str] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)
    unread: dict[str, str] = field(default_factory=dict)
    download_bytes: int | None = None


class AptState(HostFact[AptReading]):
    """The reading for some package names, and of one source of ours, or of all that are not: `stamp` is the file
    touched after each `apt-get update` that read them, `url` what the one source declares. `install`: `name` or
    `name=version` of what is to be installed."""

    def command(
        self, packages: Iterable[str], stamp: str, source: str = "", url: str = "", install: Iterable[str] = ()
    ) -> str:
        """One script for all names."""
        names = " ".join(map(shlex.quote, packages))
        # apt's name of an index: the URL without its scheme, `_` for `/` (apt-transport's URItoFileName).
        lists = f"{url.partition('://')[2].rstrip('/').replace('/', '_')}_*" if url else "*Packages*"
        marks = {"stamp": stamp, "source": source, "lists": lists, "install": " ".join(install)}
        given = "; ".join(f"{name}={shlex.quote(text)}" for name, text in marks.items())
        return f"LC_ALL=C; export LC_ALL; {given}; set -- {names}\n{_SCRIPT}"

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
            elif kind == "download":
                reading.download_bytes = int(values[0])
            elif kind == "unread":
                reading.unread[values[0]] = values[1]
        return reading


# A status of dpkg's is three letters: wanted, is, error. Unpacked, half-configured, triggers awaited or pending.
_CUT_OFF = r"""
dpkg-query -W -f '${db:Status-Abbrev}\t${Package}\n' 2>/dev/null | awk -F '\t' 'substr($1,2,1) ~ /[UFHWt]/ {print $2}'
[ -z "$(ls -A /var/lib/dpkg/updates 2>/dev/null)" ] || echo 'a journal of dpkg'
"""


class CutOff(HostFact[list[str]]):
    """The packages whose installation was cut off in the middle: `apt-get` installs nothing before they are whole."""

    def command(self) -> str:
        """dpkg's own status."""
        return _CUT_OFF

    @staticmethod
    def default() -> list[str]:
        """None."""
        return []

    def read(self, output: list[str]) -> list[str]:
        """A name a line."""
        return [line for line in output if line]
