"""A proxy that reaches others by CONNECT, as those of companies do."""

from __future__ import annotations

import base64
import socket
import threading

from gpuhost.run import stream


class ConnectProxy:
    """`account`: `name:password` that it wants, "" for none; `answer`: instead of a tunnel. `asked`: what for,
    `refused`: how often without the account, or with that answer."""

    def __init__(self, account: str = "", answer: str = "") -> None:
        self.asked: list[str] = []
        self.refused = 0
        self._wanted = f"Basic {base64.b64encode(account.encode()).decode()}" if account else ""
        self._answer = answer
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """No further connection is taken."""
        self._server.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._tunnel, args=(client,), daemon=True).start()

    def _tunnel(self, client: socket.socket) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += client.recv(1)
        first, *lines = head.decode().splitlines()
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        answer = self._answer
        if self._wanted and headers.get("proxy-authorization") != self._wanted:
            answer = "407 Proxy Authentication Required"
        if answer:
            self.refused += 1
            client.sendall(f"HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n".encode())
            client.close()
            return
        method, target, _ = first.split()
        assert method == "CONNECT"
        self.asked.append(target)
        host, _, port = target.rpartition(":")
        server = socket.create_connection((host, int(port)))
        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        threading.Thread(target=stream.hand_on, args=(server, client), daemon=True).start()
        stream.hand_on(client, server)
