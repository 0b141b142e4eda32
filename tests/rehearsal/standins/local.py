"""The hub on a port of this machine, for tests that need no host: the same stand-in, the same misbehaviours."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .http import Request
from .hub import Hub, HubStore
from .misbehaviour import ConnectionCut, Order, refusal, spoil


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


class LocalHub:
    """`orders`: for the next requests for content, one each, None: none; then `order`, for all that follow."""

    def __init__(self, root: Path, certificate: tuple[Path, Path] | None = None) -> None:
        self.store = HubStore(root)
        self.requests: list[str] = []
        self.tokens: list[str | None] = []  # of each request
        self.elsewhere = ""  # where the bytes of a file are asked for, when that is another server
        self.orders: list[Order | None] = []
        self.order: Order | None = None
        self.sent_bytes = 0
        self.away_s = 0.0  # how long an answer is on its way
        self._hub = Hub(root)
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                outer._answer(self)

            do_HEAD = do_GET

            def log_message(self, *_: object) -> None:
                pass

        self._server = _Server(("127.0.0.1", 0), Handler)
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"http{'s' if certificate else ''}://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def misbehave(self, mode: str, **over: Any) -> None:
        """From now on, whatever is downloaded."""
        self.order = Order(mode, **over)

    def misbehave_first(self, orders: Sequence[Order | None]) -> None:
        """At the next downloads, then no more."""
        self.orders = list(orders)

    def close(self) -> None:
        """As if it had never been."""
        self._server.shutdown()
        self._server.server_close()

    def _next_order(self, handler: BaseHTTPRequestHandler, path: str) -> Order | None:
        with self._lock:
            self.requests.append(f"{handler.command} {path}")
            self.tokens.append(handler.headers.get("Authorization"))
            if handler.command != "GET" or "/resolve/" not in path:
                return None
            return self.orders.pop(0) if self.orders else self.order

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        order = self._next_order(handler, parts.path)
        request = Request(handler.command, "hub", parts.path, parts.query, handler.headers, b"")
        if self.away_s:
            time.sleep(self.away_s)
        try:
            response = (order and refusal(order)) or self._hub.serve(request)
            if self.elsewhere and response.payload:
                response.status, response.body, response.length = 302, (), 0
                response.headers["Location"] = f"{self.elsewhere}{handler.path}"
            response = spoil(order, response) if order else response
            handler.send_response(response.status)
            for name, value in response.headers.items():
                handler.send_header(name, value)
            handler.send_header("Content-Length", str(response.length))
            handler.end_headers()
            if handler.command == "GET":
                for block in response.body:
                    handler.wfile.write(block)
                    self.sent_bytes += len(block)
        except (ConnectionCut, OSError):
            handler.close_connection = True
