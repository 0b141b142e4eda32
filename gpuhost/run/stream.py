"""A program on a host whose stdin and stdout are a stream of bytes, for another program at its other end.

It has a channel of its own on the host's connection, as the lock has (run/lock.py), and ends with it.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
from typing import cast

from paramiko import SSHException
from pyinfra.context import host

from gpuhost.run.remote import privileged

OPEN_S = 20.0
PIECE_BYTES = 2**16
ERRORS = (OSError, EOFError, SSHException)  # what breaks one

# paramiko's channel has what of a socket is used here: recv, sendall, settimeout, close.
Stream = socket.socket


def opened(script: str) -> Stream:
    """Starts a script on the current host, with its connection's privileges. Raises one of `ERRORS`."""
    client = getattr(host.connector, "client", None)
    if client is None:
        ours, its = socket.socketpair()
        with its:
            subprocess.Popen(
                ["sh", "-c", privileged(script)], stdin=its.fileno(), stdout=its.fileno(), stderr=subprocess.DEVNULL
            )
        return ours
    channel = client.get_transport().open_session(timeout=OPEN_S)
    channel.exec_command(privileged(script))
    return cast(Stream, channel)


def line(stream: Stream, bytes_max: int) -> bytes:
    """The first line that it says, without its end. Raises one of `ERRORS`."""
    found = bytearray()
    stream.settimeout(OPEN_S)
    while not found.endswith(b"\n"):
        piece = stream.recv(1)
        if not piece or len(found) >= bytes_max:
            raise EOFError("the program said nothing that is expected")
        found += piece
    stream.settimeout(None)
    return bytes(found[:-1])


def hand_on(source: Stream, target: Stream) -> None:
    """All that one says to the other, until either ends; then both are."""
    with contextlib.suppress(*ERRORS):  # the programs are told by their end
        while piece := source.recv(PIECE_BYTES):
            target.sendall(piece)
    for stream in (source, target):
        close(stream)


def close(stream: Stream) -> None:
    """Ends the program. Where the connection is gone it has ended."""
    with contextlib.suppress(*ERRORS):
        stream.shutdown(socket.SHUT_RDWR)
    with contextlib.suppress(*ERRORS):
        stream.close()
