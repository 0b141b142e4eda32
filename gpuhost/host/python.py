"""The Python environment of our host programs: made from a lock file, whole, and nobody else's to write."""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field

from pyinfra.api.operation import operation
from pyinfra.context import host

from gpuhost.host.paths import RUNTIME, VENV_LOCK
from gpuhost.plan.change import Change, Difference, Resource
from gpuhost.run.fact import HostFact
from gpuhost.run.lock import alone
from gpuhost.run.remote import Script
from gpuhost.run.session import Commands, carry_out
from hostside.wire import WireError, from_host

# -- what is there -----------------------------------------------------------------------------------------------------

# pip writes down every file of a package, with its size, in its RECORD (packaging.python.org, "Recording installed
# projects"): that all of them are there is seen without starting Python. Compiled modules may come and go.
_READ = r"""
command -v python3 >/dev/null 2>&1 && printf 'host\t%s\n' "$(python3 -V 2>&1)"
[ -d "$venv" ] && printf 'exists\n' || { printf 'end\n'; exit 0; }
[ -f "$venv/.gpuhost" ] && printf 'stamp\t%s\n' "$(base64 -w0 < "$venv/.gpuhost")"
[ -x "$venv/bin/python" ] && printf 'interpreter\n'
for file in "$venv"/lib/python3*/site-packages/gpuhost.pth; do
  [ -f "$file" ] && printf 'programs\t%s\n' "$(cat "$file")"
done
find "$venv" \( ! -uid "$(id -u)" -o ! -type l -perm /022 \) -printf 'writable\t%p\t%u\t%m\n' -quit
find "$venv" -type f -printf '%s\t%p\n' | awk -F '\t' '
  FNR == NR { size[$2] = $1; next }
  FNR == 1 {
    package = FILENAME; sub(/\.dist-info\/RECORD$/, "", package); sub(/.*\//, "", package); broken[package] = 0
    folder = FILENAME; sub(/[^\/]*\/RECORD$/, "", folder)
  }
  { sub(/\r$/, "") }  # as csv writes lines
  match($0, /,[^,]*,[0-9]*$/) {
    path = substr($0, 1, RSTART - 1); wanted = $0; sub(/.*,/, "", wanted)
    if (path ~ /^"/) { path = substr(path, 2, length(path) - 2); gsub(/""/, "\"", path) }
    if (path ~ /\.pyc$/) next
    path = folder path; while (sub(/[^\/]+\/\.\.\//, "", path)) {}
    if (!(path in size) || (wanted != "" && size[path] != wanted)) broken[package]++
  }
  END { for (package in broken) print "package\t" package "\t" broken[package] }
' - "$venv"/lib/python3*/site-packages/*.dist-info/RECORD 2>/dev/null
printf 'end\n'
"""


@dataclass(frozen=True)
class Stamp:
    """What an environment was made from: sha256 of the lock file, the Python (`3.13`), the folder of the programs that
    it finds; and the packages (`httpx-0.28.1`) that it then held."""

    lock: str
    python: str
    programs: str
    packages: list[str]


@dataclass
class VenvReading:
    """`host_python`: what `python3` is there now, "" when there is none; `stamp` None: it was not finished; `programs`:
    the folder that it finds; `packages`: package -> how many of its files are gone or of another size; `writable`: a
    file that others may write, with its owner and mode."""

    host_python: str = ""
    exists: bool = False
    stamp: Stamp | None = None
    has_interpreter: bool = False
    programs: str = ""
    packages: dict[str, int] = field(default_factory=dict)
    writable: tuple[str, str, str] | None = None


class VenvState(HostFact[VenvReading]):
    """The reading of the environment at a path."""

    def command(self, path: str) -> str:
        """One script, which does not start the environment's Python."""
        return f"venv={shlex.quote(path)}\n{_READ}"

    @staticmethod
    def default() -> VenvReading:
        """None is there."""
        return VenvReading()

    def read(self, output: list[str]) -> VenvReading:
        """Parse the script's lines."""
        reading = VenvReading()
        for line in output:
            _read(reading, *line.split("\t"))
        return reading


def _read(reading: VenvReading, kind: str, *values: str) -> None:
    match kind, values:
        case "host", (version,):
            found = re.match(r"Python (\d+\.\d+)", version)
            reading.host_python = found[1] if found else ""
        case "exists", ():
            reading.exists = True
        case "interpreter", ():
            reading.has_interpreter = True
        case "stamp", (encoded,):
            reading.stamp = _stamp(base64.b64decode(encoded))
        case "programs", (folder,):
            reading.programs = folder
        case "writable", (path, owner, mode):
            reading.writable = (path, owner, mode)
        case "package", (name, broken):
            reading.packages[name] = int(broken)


def _stamp(text: bytes) -> Stamp | None:
    """None for what an earlier version wrote: the environment is then made anew."""
    try:
        return from_host(Stamp, text)
    except WireError:
        return None


# -- what differs ------------------------------------------------------------------------------------------------------


def reason(lock: str, programs: str, reading: VenvReading) -> str | None:
    """Why the environment must be made anew, None when it is right. `lock`: the sha256 that is wanted."""
    return next(_differing(lock, programs, reading), None)


def _differing(lock: str, programs: str, reading: VenvReading) -> Iterator[str]:
    """Everything that differs, the nearest to the root first."""
    stamp = reading.stamp
    if not reading.exists:
        yield "it does not exist"
    if stamp is None:
        yield "it was not finished"
        return
    if stamp.python != reading.host_python:
        yield f"it was made by Python {stamp.python}, the host has {reading.host_python or 'none'}"
    if not reading.has_interpreter:
        yield "its interpreter is gone"
    if stamp.lock != lock:
        yield "the lock file changed"
    if {stamp.programs, reading.programs} != {programs}:
        yield f"it does not find the programs in {programs}"
    if reading.writable:
        path, owner, mode = reading.writable
        yield f"others may write to {path} (owner {owner}, mode {mode})"
    for package in sorted({*stamp.packages, *reading.packages}):
        name = package.rpartition("-")[0]
        if package not in reading.packages:
            yield f"package {name} is gone"
        elif package not in stamp.packages:
            yield f"package {name} was added by somebody"
        elif reading.packages[package]:
            yield f"package {name} is not whole"


def _diff(lock: str, reading: VenvReading) -> tuple[Difference, ...]:
    stamp, python = reading.stamp, reading.host_python or None
    if stamp is None:
        return ()
    pairs = {"lock": (stamp.lock[:12], lock[:12]), "python": (stamp.python, python)}
    return tuple(Difference(name, before, after) for name, (before, after) in pairs.items() if before != after)


# -- what is done ------------------------------------------------------------------------------------------------------

# Unstamped means half-made, and ours: it is made anew. The stamp is written after every package has been imported.
# What a run that was stopped has left behind goes on here for a while: its end is awaited.
_MAKE = r"""rm -rf @VENV@; lock="$(mktemp @RUNTIME@/packages.XXXXXX)"; trap 'rm -f "$lock"' EXIT; cat > "$lock"
python3 -m venv @VENV@ || {
  echo "error: python3 cannot make a venv" >&2; echo "hint: apt-get install python3-venv" >&2; exit 1; }
export SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt PIP_CERT=/etc/ssl/certs/ca-certificates.crt
export PIP_QUIET=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
why="$(@VENV@/bin/python -m pip install --require-hashes -r "$lock" 2>&1)" || {
  echo "error: the host's Python packages could not be installed: $(printf %s "$why" | tail -n1)" >&2
  echo "hint: check that the host reaches the package index, then run again" >&2; exit 1; }
site="$(@VENV@/bin/python -I -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
printf '%s\n' @PROGRAMS@ > "$site/gpuhost.pth"
@VENV@/bin/python -I -B -c 'import docker, httpx, huggingface_hub, hostside'
@VENV@/bin/python -I -c @WRITE_STAMP@ "$site" @LOCK@ @PROGRAMS@ > @VENV@/.gpuhost.new
sync; mv -f @VENV@/.gpuhost.new @VENV@/.gpuhost
"""
_WRITE_STAMP = """
import json, pathlib, sys
site, lock, programs = sys.argv[1:]
packages = sorted(path.name[: -len(".dist-info")] for path in pathlib.Path(site).glob("*.dist-info"))
python = "%d.%d" % sys.version_info[:2]
print(json.dumps({"lock": lock, "python": python, "programs": programs, "packages": packages}))
"""


def look(path: str) -> VenvReading:
    """The environment that is there."""
    return host.get_fact(VenvState, path=path)


@operation()
def environment(path: str, lock: str, programs: str) -> Commands:
    """The venv at `path` holds exactly what `lock` (the text of a requirements file with hashes) names, and finds the
    package in the folder `programs`."""
    digest = hashlib.sha256(lock.encode()).hexdigest()
    reading = look(path)
    why = reason(digest, programs, reading)
    changes = [Change("layout", Resource("venv", path), "make", why, _diff(digest, reading))] if why else []
    yield from carry_out(changes, [Script(make_script(path, digest, programs), stdin=lock)])


def make_script(path: str, digest: str, programs: str) -> str:
    """The script that makes the environment; the lock file is its stdin."""
    marks = {
        "@VENV@": path,
        "@RUNTIME@": RUNTIME,
        "@PROGRAMS@": programs,
        "@LOCK@": digest,
        "@WRITE_STAMP@": _WRITE_STAMP,
    }
    script = _MAKE
    for mark, value in marks.items():
        script = script.replace(mark, shlex.quote(value))
    return f"set -eu; umask 022; {alone(VENV_LOCK, wait_s=600)}\n{script}"
