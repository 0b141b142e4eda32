"""The compose files that lie in the folder of the stacks, and which of them no stack has."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterable
from pathlib import PurePosixPath

from gpuhost.run.fact import HostFact

_COMPOSE = re.compile(r"(docker-)?compose([._-][\w.-]*)?\.ya?ml")


class ComposeFiles(HostFact[list[str]]):
    """The paths of all files in a folder of stacks and in the folders in it, links being files. Only root writes there.

    A name with a line's end is left out.
    """

    def command(self, folder: str) -> str:
        """One question."""
        where = shlex.quote(folder)
        archive = shlex.quote(f"{folder}/archived")
        found = f"find {where} -mindepth 1 -maxdepth 2 -path {archive} -prune -o ! -type d ! -name '*\n*' -print"
        return f"[ ! -d {where} ] || {found}"

    @staticmethod
    def default() -> list[str]:
        """Nothing is there."""
        return []

    def read(self, output: list[str]) -> list[str]:
        """A path a line."""
        return output


def foreign(paths: Iterable[str], wanted: Collection[str]) -> list[str]:
    """The compose files among them that are none of these, in order."""
    return sorted(path for path in paths if is_compose_file(PurePosixPath(path).name) and path not in set(wanted))


def is_compose_file(name: str) -> bool:
    """Whether compose, or a person, takes a file of this name for a compose file."""
    return _COMPOSE.fullmatch(name) is not None
