"""systemd's units."""

from __future__ import annotations

import shlex

from gpuhost.run.fact import HostFact


class IsStale(HostFact[bool]):
    """Whether a unit's file changed since systemd read it; False for a unit that systemd has not loaded."""

    def command(self, unit: str) -> str:
        """One question."""
        return f"systemctl show --property=NeedDaemonReload --value {shlex.quote(unit)} || true"

    @staticmethod
    def default() -> bool:
        """No."""
        return False

    def read(self, output: list[str]) -> bool:
        """`yes` or `no`."""
        return output == ["yes"]
