"""One run at a time on a host.

The lock is a `flock` on a folder that every host has: taking it changes nothing. It is held by a process at the end of
the connection, so the run's death, however it dies, frees it.
"""

from __future__ import annotations

import shlex
import subprocess

from pyinfra.api.operation import operation
from pyinfra.context import host, state

from gpuhost.errors import Cause
from gpuhost.run.session import Commands, failing

LOCKED = "/var/lib"
_OTHER_RUN = 75  # EX_TEMPFAIL, by which flock says that somebody else holds it
# `cat` ends when its input does: with the connection, or with this program.
_HOLD = ("flock", "-n", "-E", str(_OTHER_RUN), LOCKED, "sh", "-c", "echo locked; exec cat >/dev/null")

# Kept so that the lock is not dropped with the last reference: host -> what holds it.
_holders: dict[str, object] = {}


@operation()
def host_lock() -> Commands:
    """Fails the host when another run works on it; changes nothing. A plan takes no lock."""
    if state.is_executing:
        refusal = _take()
        if refusal:
            yield failing(*refusal)


def _take() -> Cause | None:
    """None when the lock is ours now, else why not."""
    client = getattr(host.connector, "client", None)
    if client is None:
        local = subprocess.Popen(_HOLD, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        _holders[host.name] = local
        assert local.stdout is not None
        return None if local.stdout.readline() == b"locked\n" else _refusal(local.wait())
    channel = client.get_transport().open_session()
    channel.exec_command(shlex.join(_HOLD))
    _holders[host.name] = channel
    return None if channel.recv(16) == b"locked\n" else _refusal(channel.recv_exit_status())


def _refusal(code: int) -> Cause:
    if code == _OTHER_RUN:
        return Cause(
            "another gpuhost run works on this host",
            "wait for its end; when its connection is gone the lock is free",
        )
    what = f"the lock of this host cannot be taken (flock ended with {code})"
    return Cause(what, f"try it there: flock -n {LOCKED} true")
