"""systemd's units."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from gpuhost.run.fact import HostFact

FOLDER = "/etc/systemd/system"
_SHOW = f"""
for unit in "$@"; do
  systemctl show --property=UnitFileState,ActiveState,NeedDaemonReload "$unit" 2>/dev/null | sed "s|^|$unit |"
  for link in {FOLDER}/*.wants/"$unit"; do
    [ ! -L "$link" ] || {{ link="${{link%.wants/*}}"; echo "$unit WantedBy=${{link##*/}}"; }}
  done
done; true
"""


@dataclass(frozen=True)
class UnitState:
    """A unit as systemd has it. `enabled`: it starts at boot; `active`: it runs, or will in a moment; `stale`: its file
    changed since it was read; `wanted_by`: the units that start it. Nothing of one that systemd does not know."""

    enabled: bool = False
    active: bool = False
    stale: bool = False
    wanted_by: frozenset[str] = frozenset()


class AtBoot(HostFact[dict[str, str]]):
    """unit -> whether it starts at boot, in systemd's words (`enabled`, `disabled`, `masked`, `static`); without those
    that systemd does not know."""

    def command(self, units: Sequence[str]) -> str:
        """One round trip for all."""
        ask = 'printf "%s %s\\n" "$unit" "$(systemctl is-enabled "$unit" 2>/dev/null)"'
        return f"for unit in {shlex.join(units)}; do {ask}; done"

    @staticmethod
    def default() -> dict[str, str]:
        """Nothing is known."""
        return {}

    def read(self, output: list[str]) -> dict[str, str]:
        """Lines of unit and word."""
        pairs = (line.partition(" ")[::2] for line in output)
        return {unit: word for unit, word in pairs if word not in ("", "not-found")}


class UnitsState(HostFact[dict[str, UnitState]]):
    """unit -> how systemd has it."""

    def command(self, units: Sequence[str]) -> str:
        """One round trip for all."""
        return f"set -- {shlex.join(units)}{_SHOW}"

    @staticmethod
    def default() -> dict[str, UnitState]:
        """Nothing is known."""
        return {}

    def read(self, output: list[str]) -> dict[str, UnitState]:
        """Lines of `<unit> <property>=<value>`."""
        seen: dict[str, set[str]] = {}
        for line in output:
            unit, _, said = line.partition(" ")
            seen.setdefault(unit, set()).add(said)
        return {unit: _state(said) for unit, said in seen.items()}


def _state(said: set[str]) -> UnitState:
    return UnitState(
        enabled="UnitFileState=enabled" in said,
        active=bool({"ActiveState=active", "ActiveState=activating"} & said),
        stale="NeedDaemonReload=yes" in said,
        wanted_by=frozenset(each.removeprefix("WantedBy=") for each in said if each.startswith("WantedBy=")),
    )
