"""The Python environment of our host programs: made from a lock file, stamped with its hash."""

from __future__ import annotations

import shlex

from pyinfra.api.operation import operation
from pyinfra.context import host

from gpuhost.files.facts import Texts
from gpuhost.plan.change import Change, Resource
from gpuhost.plan.spec import digest
from gpuhost.run.remote import Step
from gpuhost.run.session import Commands, carry_out

# Unstamped means half-made, and ours: it is made anew. The stamp is written after every package has been imported.
_MAKE = r"""
set -eu; umask 022; rm -rf @VENV@; lock="$(mktemp)"; trap 'rm -f "$lock"' EXIT; cat > "$lock"
python3 -m venv @VENV@ || {
  echo "error: python3 cannot make a venv" >&2; echo "hint: apt-get install python3-venv" >&2; exit 1; }
export SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt PIP_CERT=/etc/ssl/certs/ca-certificates.crt
export PIP_QUIET=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
why="$(@VENV@/bin/python -m pip install --require-hashes -r "$lock" 2>&1)" || {
  echo "error: the host's Python packages could not be installed: $(printf %s "$why" | tail -n1)" >&2
  echo "hint: check that the host reaches the package index, then run again" >&2; exit 1; }
@VENV@/bin/python -c 'import docker, httpx, huggingface_hub'
sync; printf %s @STAMP@ > @VENV@/.gpuhost.new; mv -f @VENV@/.gpuhost.new @VENV@/.gpuhost
"""


@operation()
def environment(path: str, lock: str) -> Commands:
    """The venv at `path` holds exactly what `lock` (the text of a requirements file with hashes) names."""
    stamp_file = f"{path}/.gpuhost"
    stamp = digest({"lock": lock})
    observed = host.get_fact(Texts, paths=[stamp_file]).get(stamp_file)
    changes = []
    if observed != stamp:
        why = "it does not exist, or was not finished" if observed is None else "the lock file changed"
        changes.append(Change("layout", Resource("venv", path), "make", why))
    script = _MAKE.replace("@VENV@", shlex.quote(path)).replace("@STAMP@", stamp)
    yield from carry_out(changes, [Step(script, stdin=lock)])
