"""The SSH connection under a host: to whom it is made, how it is tuned, and how its loss is explained."""

from __future__ import annotations

import socket
from typing import Any

from paramiko import Transport
from pyinfra.api.host import Host
from pyinfra.connectors.ssh import connector_data_meta
from pyinfra.connectors.sshuserclient import client
from pyinfra.connectors.sshuserclient.client import get_missing_host_key_policy as _policy

from gpuhost.errors import Cause
from gpuhost.run import known_hosts

# Without the first a command on loopback takes 52 ms instead of 6. Without the others a run waits for ever for a host
# that went away: it ends a minute after the last sign of life. Not every system has all of them.
_TCP = {
    "TCP_NODELAY": 1,
    "TCP_KEEPIDLE": 15,
    "TCP_KEEPINTVL": 15,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": 60_000,
}


def refuse_unknown_keys() -> None:
    """From now on a host whose key is not in known_hosts is refused, unless its data or the user's ssh_config says
    otherwise.

    pyinfra by itself takes any key that it sees first (`accept-new`), over what ssh_config says; a host on the way
    (ProxyJump) it asks about, without a fingerprint. Its SSHClient has no `_ssh_config` before it reached the last of
    them, and reads it to explain another key than the known one.
    """
    connector_data_meta["ssh_strict_host_key_checking"].default = None
    client.get_missing_host_key_policy = _strict
    client.get_host_keys = known_hosts.read
    client.SSHClient._ssh_config = {}


def _strict(setting: str | None) -> Any:
    """pyinfra's policy for a value of StrictHostKeyChecking; `gpuhost trust` is what asks."""
    return _policy("yes" if setting in (None, "ask") else setting)


def tune(host: Host) -> None:
    """Let the connection send at once, and end when the other side is gone. Nothing for one that is not paramiko's."""
    transport = _transport(host)
    connection = getattr(transport, "sock", None)
    if isinstance(connection, socket.socket):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _TCP.items():
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def lost(host: Host) -> Cause | None:
    """Said when the connection has broken: then nothing that a command said is the cause."""
    transport = _transport(host)
    if transport is None or transport.is_active():
        return None
    return Cause("the SSH connection broke", "check the host and the network, then run again: it goes on from there")


def _transport(host: Host) -> Transport | None:
    client = getattr(host.connector, "client", None)
    return client.get_transport() if client is not None else None
