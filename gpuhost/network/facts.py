"""The packet filter's rules: their files, and what the kernel has loaded, in one round trip."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field

from gpuhost.files.facts import FileState, parse, read_script
from gpuhost.run.fact import HostFact

# What nft lists differs from version to version: the file's rules are loaded into an empty network of their own, and
# that listing is compared with the real one.
_SCRIPT = r"""
{ @READ@
} | sed '/^end$/d;s/^/firewall_file\t/'
if command -v nft >/dev/null 2>&1 && loaded="$(nft -s list table inet gpuhost 2>/dev/null)"; then
  printf 'firewall\tloaded\n'
  if wanted="$(unshare --net sh -c 'nft -f "$0" && nft -s list table inet gpuhost' @RULES@ 2>/dev/null)"; then
    [ "$wanted" = "$loaded" ] && printf 'firewall\tas_in_file\n'
  fi
fi
if systemctl is-enabled --quiet @UNIT@ 2>/dev/null; then printf 'firewall\tenabled\n'; fi
if systemctl is-active --quiet @UNIT@; then printf 'firewall\tactive\n'; fi
if [ "$(systemctl show --property=NeedDaemonReload --value @UNIT@)" = yes ]; then printf 'firewall\tstale_unit\n'; fi
"""


@dataclass
class FirewallReading:
    """`files`: path -> what lies there; `loaded`: the kernel has rules of ours, `as_in_file`: those of the file;
    `enabled`, `active`: the unit that loads them; `stale_unit`: systemd has not read its file since it changed."""

    files: dict[str, FileState] = field(default_factory=dict)
    loaded: bool = False
    as_in_file: bool = False
    enabled: bool = False
    active: bool = False
    stale_unit: bool = False


class FirewallState(HostFact[FirewallReading]):
    """The reading of a host."""

    def command(self, files: Sequence[str], unit: str) -> str:
        """`files`: the file of the rules first; `unit`: the one that loads it."""
        marks = {"READ": read_script(files), "RULES": shlex.quote(files[0]), "UNIT": shlex.quote(unit)}
        return re.sub("@([A-Z]+)@", lambda found: marks[found[1]], _SCRIPT)

    @staticmethod
    def default() -> FirewallReading:
        """Nothing."""
        return FirewallReading()

    def read(self, output: list[str]) -> FirewallReading:
        """Lines of kind and value."""
        rows = [line.partition("\t") for line in output]
        flags = {value: True for kind, _, value in rows if kind == "firewall"}
        found = parse(value for kind, _, value in rows if kind == "firewall_file")
        return FirewallReading(found, **flags)
