"""An SSH server that shows its host keys and lets nobody in."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Sequence

from paramiko import PKey, ServerInterface, SSHException, Transport


class SshServer:
    """On a free port of the loopback; `close()` ends it. `keys` may change while it runs."""

    def __init__(self, *keys: PKey) -> None:
        self.keys: Sequence[PKey] = keys
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._transports: list[Transport] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            transport = Transport(connection)
            self._transports.append(transport)
            for key in self.keys:
                transport.add_server_key(key)
            try:
                transport.start_server(event=threading.Event(), server=ServerInterface())
            except (SSHException, EOFError):
                continue

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # or accept() goes on with it
        self._socket.close()
        for transport in self._transports:
            transport.close()
