"""What of services lies on a host beside what the data names."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from gpuhost.run.fact import HostFact


class SecretFiles(HostFact[Sequence[str]]):
    """The secret files of all stacks and services, whether the data still names them."""

    def command(self, pattern: str) -> str:
        """`pattern`: of their paths, with `*` within a name."""
        depth = pattern.count("/")
        top = pattern.partition("*")[0].rstrip("/")
        inner = depth - top.count("/")
        return (
            f"find {shlex.quote(top)} -mindepth {inner} -maxdepth {inner} -type f "
            f"-path {shlex.quote(pattern)} 2>/dev/null || true"
        )

    @staticmethod
    def default() -> Sequence[str]:
        """None."""
        return []

    def read(self, output: list[str]) -> Sequence[str]:
        """A path a line."""
        return sorted(output)
