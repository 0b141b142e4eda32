"""One run at a time on a host, and one script at a time.

The lock of a run is a `flock` on a folder that every host has and that root alone may open (Debian and Ubuntu make it
0700): taking it changes nothing, and no other user can keep a run out. It is held by a process at the end of the
connection, so the run's death, however it dies, frees it. What it started may still work then: that holds a lock of its
own.
"""

from __future__ import annotations

import shlex
import subprocess
from pathlib import PurePosixPath

from pyinfra.api.operation import operation
from pyinfra.context import host, state

from gpuhost.errors import Cause
from gpuhost.run.remote import privileged
from gpuhost.run.session import Commands, failing

LOCKED = "/root"
_OTHER_RUN = 75  # EX_TEMPFAIL, by which flock says that somebody else holds it
# `cat` ends when its input does: with the connection, or with this program.
_HOLD = shlex.join(("flock", "-n", "-E", str(_OTHER_RUN), LOCKED, "sh", "-c", "echo locked; exec cat >/dev/null"))

# Kept so that the lock is not dropped with the last reference: host -> what holds it.
_holders: dict[str, object] = {}


def alone(path: str, wait_s: int | None = None) -> str:
    """The first line of a script of which only one works at a time: the others wait, for ever or so long.

    The file `path` is root's alone from its first moment: whoever can open a file can keep others from its lock.
    """
    wait = "" if wait_s is None else f"--wait {wait_s} "
    folder = PurePosixPath(path).parent
    return f"mkdir -p -m 755 {folder}; (umask 077; : >> {path}; chmod 600 {path}); exec 9<> {path}; flock {wait}9"


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
        local = subprocess.Popen(["sh", "-c", privileged(_HOLD)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        _holders[host.name] = local
        assert local.stdout is not None
        return None if local.stdout.readline() == b"locked\n" else _refusal(local.wait())
    channel = client.get_transport().open_session()
    channel.exec_command(privileged(_HOLD))
    _holders[host.name] = channel
    return None if channel.recv(16) == b"locked\n" else _refusal(channel.recv_exit_status())


def _refusal(code: int) -> Cause:
    if code == _OTHER_RUN:
        return Cause(
            "another gpuhost run works on this host",
            "wait for its end; when its connection is gone the lock is free",
        )
    what = f"the lock of this host cannot be taken (flock ended with {code})"
    return Cause(what, f"try it there as root: flock -n {LOCKED} true")
