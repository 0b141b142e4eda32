"""An apply that a person stops: the command at hand is finished, no further one is begun.

`gpuhost` takes Ctrl-C and says so to its pyinfra run by a signal of its own (run/pyinfra.py). A terminal sends SIGINT
to every program in front of it: the run ignores it, and so do the commands that it starts on this machine.
"""

from __future__ import annotations

import os
import signal

import gevent  # type: ignore[import-untyped]
from pyinfra.api.state import State
from pyinfra.context import state

from gpuhost.run.pyinfra import STOP

STOPPED = 130  # the exit code of what a person ended by Ctrl-C, as shells have it

_asked = False
_at_work: set[tuple[str, str]] = set()  # (host, operation) of those that may have begun to change something


def listen() -> None:
    """From now on this process stops when it is told so, and by nothing that is typed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gevent.signal_handler(STOP, _stop)


def asked() -> bool:
    """Whether the run is to end."""
    return _asked


def begins(host: str, operation: str) -> None:
    """An operation is about to change something."""
    _at_work.add((host, operation))


def ends(host: str, operation: str) -> None:
    """An operation has ended, whether it changed something or not."""
    _at_work.discard((host, operation))


def leave(run: State) -> None:
    """After an operation: end the run when that is asked for. pyinfra hangs up, and exits with 1."""
    if _asked:
        run.fail_hosts(set(run.active_hosts))


def _stop() -> None:
    global _asked
    _asked = True
    if not _at_work or not state.is_executing:  # nothing is half done
        os._exit(STOPPED)
