"""The rehearsal's hub on a port of this machine: the real protocol, without a world."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from tests.rehearsal.standins.http import Request
from tests.rehearsal.standins.hub import Hub, HubStore


class HubServer:
    """`requests`: all that were asked, `METHOD path`; `tokens`: of each; `refusals`: (status, headers) of the next
    answers, 0: the connection is cut."""

    def __init__(self, root: Path) -> None:
        self.store = HubStore(root)
        self.requests: list[str] = []
        self.tokens: list[str | None] = []
        self.refusals: list[tuple[int, dict[str, str]]] = []
        hub, outer = Hub(root), self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                outer.requests.append(f"{self.command} {parts.path}")
                outer.tokens.append(self.headers.get("Authorization"))
                if outer.refusals:
                    status, headers = outer.refusals.pop(0)
                    if not status:
                        self.close_connection = True
                        return
                    self.answer(status, headers, b"{}")
                    return
                found = hub.serve(Request(self.command, "hub", parts.path, parts.query, self.headers, b""))
                self.answer(found.status, found.headers, b"".join(found.body))

            def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
