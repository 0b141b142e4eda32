"""A host that reboots in the middle of a run, and the run that waits until it is back."""

from __future__ import annotations

import time

from paramiko import SSHException
from pyinfra.api.command import FunctionCommand
from pyinfra.api.host import Host
from pyinfra.api.state import State
from pyinfra.connectors.local import LocalConnector
from pyinfra.connectors.util import clear_askpass_cache
from pyinfra.context import host as current_host

from gpuhost.errors import Problem
from gpuhost.run import stop
from gpuhost.run.connection import tune
from gpuhost.run.remote import Script, run
from gpuhost.run.session import Commands, report_problem

WITHIN_S = 1800.0  # large servers take ten minutes and more until they boot
EVERY_S = 5.0
# In a file system that a reboot empties; a host's uptime says little where it runs in a container or slept.
_MARK = "/run/gpuhost-reboots"
# A moment later, so that the command that says so comes to its end.
_BEGIN = f": > {_MARK}; systemd-run --quiet --on-active=1 systemctl reboot"
_BACK = f"[ ! -e {_MARK} ] && timeout 300 systemctl is-system-running --wait; [ ! -e {_MARK} ]"


def waits() -> bool:
    """Whether the run goes on after a reboot of this host: not when it runs on the host itself."""
    return not isinstance(current_host.connector, LocalConnector)


def reboots() -> Commands:
    """The host reboots, and unless the run is on it, this waits until it is back and has started everything."""
    yield Script(_BEGIN)
    if waits():
        yield FunctionCommand(_wait, [], {})


def _wait(state: State, host: Host) -> bool:
    until = time.monotonic() + WITHIN_S
    while time.monotonic() < until:
        time.sleep(EVERY_S)
        if stop.asked():
            return False
        if _is_back(host):
            tune(host)
            return True
    what = f"the host has not come back within {WITHIN_S / 60:.0f} minutes after its reboot"
    report_problem(Problem(what, "look at its console; when it answers again, run again", host.name))
    return False


def _is_back(host: Host) -> bool:
    """Asked over a new connection: the old one may look alive for a minute after its host is gone."""
    clear_askpass_cache(host)  # lies on the host, and is lost
    try:
        host.disconnect()
        host.connect(show_errors=False)
        return host.connected and run(_BACK).ok
    except (SSHException, OSError, EOFError):  # it went while it was asked
        return False
