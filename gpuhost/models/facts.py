"""The models that a host has: the manifest of what was fetched and verified, and what lies at the files' paths."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field

from gpuhost.models.former import Manifest
from gpuhost.run.fact import HostFact
from hostside import hub_cache
from hostside.wire import WireError, from_host

# `stat` follows links into the cache (a snapshot is a link to its blob) and none in the models folder, where a model is
# a plain file. The account may write all three folders: nothing there is opened but the manifest, which is no link, and
# a cache with more commits than anybody fetches is not looked through to its end.
_SCRIPT = r"""
[ -f "$manifest" ] && printf 'manifest\t%s\n' "$(
  dd if="$manifest" iflag=nofollow,nonblock,fullblock bs=1M count=16 2>/dev/null | base64 -w0)"
for p in @LINKS@; do stat --printf='model\t%F\t%s\t%.9Y\t%i\t%n\n' -- "$p" 2>/dev/null; done
printf '%s\0' @SNAPSHOTS@ | head -zn 100000 |
  xargs -0 stat -L --printf='cache\t%F\t%s\t%.9Y\t%i\t%n\n' -- 2>/dev/null
printf 'end\n'
"""


@dataclass(frozen=True)
class FileStat:
    """A plain file: `size` in bytes, `mtime_ns` in Unix nanoseconds."""

    size: int
    mtime_ns: int
    inode: int


@dataclass
class ModelsReading:
    """`manifest`: what was verified; `links`: path in the models folder -> its stat, None when it is no plain file;
    `cached`: path in the hub's cache, by a snapshot's link -> the stat of the file there."""

    manifest: Manifest = field(default_factory=Manifest)
    links: dict[str, FileStat | None] = field(default_factory=dict)
    cached: dict[str, FileStat] = field(default_factory=dict)


class ModelsState(HostFact[ModelsReading]):
    """The reading for some model files: `links`: their paths in the models folder; `files`: (repo, file) of each,
    looked for in every commit that the cache (`.../huggingface/hub`) has."""

    def command(self, manifest: str, cache_dir: str, links: Iterable[str], files: Iterable[tuple[str, str]]) -> str:
        """One script for all."""
        # The shell's pattern matches the commit alone: a name with `*` stands in quotes.
        patterns = [
            f"{shlex.quote(hub_cache.snapshots(cache_dir, repo))}/*/{shlex.quote(file)}" for repo, file in files
        ]
        script = _SCRIPT.replace("@LINKS@", " ".join(map(shlex.quote, links))).replace(
            "@SNAPSHOTS@", " ".join(patterns)
        )
        return f"manifest={shlex.quote(manifest)}\n{script}"

    @staticmethod
    def default() -> ModelsReading:
        """No model."""
        return ModelsReading()

    def read(self, output: list[str]) -> ModelsReading:
        """A manifest that cannot be read counts as none: its files are then verified again."""
        reading = ModelsReading()
        for line in output:
            kind, *values = line.split("\t")
            if kind == "manifest":
                reading.manifest = _manifest(values[0])
            elif kind in ("model", "cache"):
                path, stat = _file(values)
                if kind == "model":
                    reading.links[path] = stat
                elif stat:
                    reading.cached[path] = stat
        return reading


def _file(values: list[str]) -> tuple[str, FileStat | None]:
    file_type, size, mtime, inode, path = values
    is_plain = file_type in ("regular file", "regular empty file")
    return path, FileStat(int(size), int(mtime.replace(".", "")), int(inode)) if is_plain else None


def _manifest(encoded: str) -> Manifest:
    try:
        return from_host(Manifest, base64.b64decode(encoded))
    except (ValueError, WireError):
        return Manifest()
