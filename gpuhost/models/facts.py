"""The models that a host has: the manifest of what was fetched and verified, and the files' stat."""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from pyinfra.api.facts import FactBase

_SCRIPT = r"""
[ -f "$manifest" ] && printf 'manifest\t%s\n' "$(base64 -w0 < "$manifest")"
for p in "$@"; do [ -e "$p" ] && stat -L -c 'stat|%n|%s|%.9Y|%i' "$p" | tr '|' '\t'; done; printf 'end\n'
"""


@dataclass
class ModelsReading:
    """`entries`: model -> what the manifest says; `stats`: path -> (size in bytes, mtime in ns, inode)."""

    entries: dict[str, dict[str, Any]] = field(default_factory=dict)
    stats: dict[str, tuple[int, int, int]] = field(default_factory=dict)


class ModelsState(FactBase[ModelsReading]):
    """The reading for some model files."""

    def command(self, manifest: str, paths: Iterable[str]) -> str:
        """One script for all."""
        return f"manifest={shlex.quote(manifest)}; set -- {' '.join(map(shlex.quote, paths))}\n{_SCRIPT}"

    @staticmethod
    def default() -> ModelsReading:
        """No model."""
        return ModelsReading()

    def process(self, output: list[str]) -> ModelsReading:
        """A manifest that cannot be read counts as none: the files are then verified again."""
        reading = ModelsReading()
        for line in output:
            kind, *values = line.split("\t")
            if kind == "manifest":
                try:
                    reading.entries = json.loads(base64.b64decode(values[0]))["models"]
                except (ValueError, KeyError, TypeError):
                    reading.entries = {}
            elif kind == "stat":
                path, size, mtime, inode = values
                reading.stats[path] = (int(size), int(mtime.replace(".", "")), int(inode))
        return reading
