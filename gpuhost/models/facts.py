"""The models that a host has: the manifest of what was fetched and verified, and what lies at the files' paths."""

from __future__ import annotations

import base64
import shlex
from dataclasses import dataclass, field, replace

from pydantic import ValidationError

from gpuhost.catalog.lock import EMPTY, Lock
from gpuhost.run.fact import HostFact
from hostside.protocol.models import Manifest
from hostside.wire import WireError, from_host

FILES_MAX = 200_000  # of a cache: one with more is not looked through to its end

# A snapshot is a link into the cache and is followed; a model in the models folder is a plain file. The account may
# write all of these folders: nothing there is opened but the manifest, which is no link, and the first 64 bytes of a
# ref. Names with control characters are nobody's. find's %T@ has ten digits behind the point.
_SCRIPT = r"""
export LC_ALL=C
read_file() { dd if="$1" iflag=nofollow,nonblock,fullblock bs=1M count=16 2>/dev/null | base64 -w0; }
[ -f "$manifest" ] && printf 'manifest\t%s\n' "$(read_file "$manifest")"
[ -f "$revisions" ] && printf 'revisions\t%s\n' "$(read_file "$revisions")"
[ -f "$speed" ] && printf 'speed\t%s\n' "$(head -c 20 "$speed" | tr -cd 0-9)"
find "$models" -mindepth 1 ! -type d ! -path '*[[:cntrl:]]*' -printf 'model\t%y\t%s\t%T@\t%i\t%p\n' 2>/dev/null |
  head -n @FILES@
find "$cache"/models--*/blobs -type f ! -path '*[[:cntrl:]]*' -printf 'blob\t%y\t%s\t%T@\t%i\t%p\n' 2>/dev/null |
  head -n @FILES@
find "$cache"/models--*/snapshots -mindepth 2 ! -type d ! -path '*[[:cntrl:]]*' -print0 2>/dev/null |
  head -zn @FILES@ | xargs -0r stat -L --printf='cache\t%F\t%s\t%.9Y\t%i\t%u %a %n\n' -- 2>/dev/null
find "$cache"/models--*/refs -type f -size -2 ! -path '*[[:cntrl:]]*' 2>/dev/null | head -n 1000 |
  while IFS= read -r ref; do
    printf 'ref\t%s\t%s\n' "$(dd if="$ref" iflag=nofollow,nonblock bs=64 count=1 2>/dev/null | tr -cd 0-9a-f)" "$ref"
  done
printf 'end\n'
"""


@dataclass(frozen=True)
class FileStat:
    """A plain file: `size` in bytes, `mtime_ns` in Unix nanoseconds. `uid` and `mode`, read of a snapshot's files,
    say nothing of the bytes."""

    size: int
    mtime_ns: int
    inode: int
    uid: int = field(default=0, compare=False)
    mode: int = field(default=0o644, compare=False)


@dataclass
class ModelsReading:
    """`manifest`: what was verified; `revisions`: what each revision was when this host first asked for it; `links`:
    path in the models folder -> its stat, None when it is no plain file; `cached`: path in the hub's cache, by a
    snapshot's link -> the stat of the file there; `blobs`: path in the cache -> bytes; `refs`: path -> commit;
    `bytes_per_s`: of the last fetch, None when nothing was measured."""

    manifest: Manifest = field(default_factory=Manifest)
    revisions: Lock = EMPTY
    links: dict[str, FileStat | None] = field(default_factory=dict)
    cached: dict[str, FileStat] = field(default_factory=dict)
    blobs: dict[str, FileStat] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    bytes_per_s: int | None = None


class ModelsState(HostFact[ModelsReading]):
    """The reading of a host: `cache_dir`: the hub's cache (`.../huggingface/hub`); the others: paths of files."""

    def command(self, manifest: str, revisions: str, speed: str, cache_dir: str, models_dir: str) -> str:
        """One script for all."""
        given = {
            "manifest": manifest,
            "revisions": revisions,
            "speed": speed,
            "cache": cache_dir,
            "models": models_dir,
        }
        names = "\n".join(f"{name}={shlex.quote(value)}" for name, value in given.items())
        return f"{names}\n{_SCRIPT.replace('@FILES@', str(FILES_MAX))}"

    @staticmethod
    def default() -> ModelsReading:
        """No model."""
        return ModelsReading()

    def read(self, output: list[str]) -> ModelsReading:
        """A manifest that cannot be read, or is of an earlier gpuhost, counts as none: its files are verified again."""
        reading = ModelsReading()
        for line in output:
            kind, _, rest = line.partition("\t")
            if kind == "manifest":
                reading.manifest = _manifest(rest)
            elif kind == "revisions":
                reading.revisions = _revisions(rest)
            elif kind == "speed":
                reading.bytes_per_s = int(rest) if rest and int(rest) else None
            elif kind == "ref":
                commit, path = rest.split("\t")
                reading.refs[path] = commit
            elif kind in ("model", "cache", "blob"):
                _take(reading, kind, rest)
        return reading


def _take(reading: ModelsReading, kind: str, line: str) -> None:
    file_type, size, mtime, inode, path = line.split("\t")
    seconds, _, fraction = mtime.partition(".")
    stat = FileStat(int(size), int(seconds + fraction[:9].ljust(9, "0")), int(inode))
    if kind == "model":
        reading.links[path] = stat if file_type == "f" else None
    elif kind == "blob":
        reading.blobs[path] = stat
    elif file_type.startswith("regular"):
        uid, mode, path = path.split(" ", 2)
        reading.cached[path] = replace(stat, uid=int(uid), mode=int(mode, 8))


def _manifest(encoded: str) -> Manifest:
    try:
        return from_host(Manifest, base64.b64decode(encoded))
    except (ValueError, WireError):
        return Manifest()


def _revisions(encoded: str) -> Lock:
    try:
        return Lock.model_validate_json(base64.b64decode(encoded))
    except (ValueError, ValidationError):
        return EMPTY
