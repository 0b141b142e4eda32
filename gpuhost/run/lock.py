"""One run at a time on a host.

The lock is a `flock` on a folder that every host has: taking it changes nothing. It is held by a process at the end of
the connection, so the run's death, however it dies, frees it.
"""

from __future__ import annotations

import shlex
import subprocess

from pyinfra.api.operation import operation
from pyinfra.context import host, state

from gpuhost.run.session import Commands, failing

LOCKED = "/var/lib"
# `cat` ends when its input does: with the connection, or with this program.
_HOLD = ("flock", "--nonblock", LOCKED, "sh", "-c", "echo locked; exec cat >/dev/null")

# Kept so that the lock is not dropped with the last reference: host -> what holds it.
_holders: dict[str, object] = {}


@operation()
def host_lock() -> Commands:
    """Fails the host when another run works on it; changes nothing. A plan takes no lock."""
    if state.is_executing and not _take():
        yield failing(
            "another gpuhost run works on this host",
            "wait for it to end; when its connection is gone the lock is free",
        )


def _take() -> bool:
    client = getattr(host.connector, "client", None)
    if client is None:
        local = subprocess.Popen(_HOLD, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        _holders[host.name] = local
        assert local.stdout is not None
        return local.stdout.readline() == b"locked\n"
    channel = client.get_transport().open_session()
    channel.exec_command(shlex.join(_HOLD))
    _holders[host.name] = channel
    return bool(channel.recv(16) == b"locked\n")
