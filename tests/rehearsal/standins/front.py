"""The HTTPS (443) and HTTP (80) front of a world: one process that answers for every name.

Run as `python -m tests.rehearsal.standins.front <config.json>`; keys of the config: see World._start_front.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import struct
import sys
import threading
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .debian import DebianProxy
from .git import GitServer
from .http import Request, Response, Site, text
from .hub import Hub
from .misbehaviour import ConnectionCut, Order, Orders, refusal, spoil
from .pypi import PypiProxy
from .registry import RegistryProxy
from .static import StaticTree, WheelIndex

# The hosts that the product itself talks to. Those of packages come with the config: programs know them.
NAMES = {
    "download.docker.com": "docker-apt",
    "nvidia.github.io": "nvidia-apt",
    "registry-1.docker.io": "registry",
    "auth.docker.io": "registry",
    "github.com": "git",
    "huggingface.co": "hub",
    "download.pytorch.org": "torch",
}
IDLE_TIMEOUT_S = 75


def build_sites(config: dict[str, Any]) -> dict[str, Site]:
    """The stand-ins by name."""
    sites: list[Site] = [
        DebianProxy(config["debian_archives"], Path(config["proxy_cache"]) / "debian"),
        PypiProxy(config["pip_indexes"], config["pip_files_name"], Path(config["proxy_cache"]) / "pypi"),
        StaticTree("docker-apt", Path(config["docker_apt"])),
        StaticTree("nvidia-apt", Path(config["nvidia_apt"])),
        RegistryProxy(config["registry_port"]),
        GitServer(Path(config["git_root"])),
        Hub(Path(config["hub_root"])),
        WheelIndex("torch", Path(config["torch_wheels"])),
    ]
    return {site.name: site for site in sites}


class Front(ThreadingHTTPServer):
    """One listening socket; TLS when `context` is given, its handshake in the connection's own thread."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(
        self, config: dict[str, Any], port: int, context: ssl.SSLContext | None, sites: dict[str, Site], run_dir: Path
    ) -> None:
        self.context, self.sites, self.run_dir = context, sites, run_dir
        self.names: dict[str, str] = config["names"]
        self.orders = Orders(run_dir / "misbehave.json")
        self.log_lock = threading.Lock()
        super().__init__((config["address"], port), Handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        request.settimeout(IDLE_TIMEOUT_S)
        request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.context is None:
            super().finish_request(request, client_address)
            return
        with contextlib.suppress(OSError):
            tls = self.context.wrap_socket(request, server_side=True)
            try:
                super().finish_request(tls, client_address)
            finally:
                with contextlib.suppress(OSError):
                    tls.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError | ConnectionCut):
            traceback.print_exc()

    def record(self, name: str, line: str) -> None:
        """Append one request to the stand-in's log."""
        with self.log_lock, (self.run_dir / "requests" / f"{name}.log").open("a") as log:
            log.write(line + "\n")


class Handler(BaseHTTPRequestHandler):
    """Reads a request, finds its stand-in by host name, spoils the answer when ordered, writes it."""

    protocol_version = "HTTP/1.1"
    server: Front

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _handle(self) -> None:
        request = self._read_request()
        name = self.server.names.get(request.host)
        if name is None:
            self._write(request, text(421, f"rehearsal: no stand-in for {request.host}\n"))
            return
        order = self.server.orders.for_request(name, request)
        sent, status = 0, 0
        try:
            response = (refusal(order) if order else None) or self._ask(name, request, order)
            status = response.status
            sent = self._write(request, response)
        except ConnectionCut:
            self._reset()
        finally:
            self.server.record(name, f"{request.method} {self.path} {status or 'cut'} {sent}")

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle

    def _ask(self, name: str, request: Request, order: Order | None) -> Response:
        try:
            response = self.server.sites[name].serve(request)
        except Exception as error:
            traceback.print_exc()
            return text(502, f"rehearsal: {name}: {error}\n")
        return spoil(order, response) if order else response

    def _read_request(self) -> Request:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            body = b"".join(parts)
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        host = (self.headers.get("Host") or "").split(":")[0].lower()
        return Request(self.command, host, url.path, url.query, self.headers, body)

    def _write(self, request: Request, response: Response) -> int:
        self.send_response(response.status)
        for key, value in response.headers.items():
            self.send_header(key, value)
        chunked = response.length is None
        self.send_header(*("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(response.length)))
        self.end_headers()
        sent = 0
        if request.method == "HEAD":
            return sent
        try:
            for block in response.body:
                if block:
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(block), block) if chunked else block)
                    sent += len(block)
        except ConnectionCut:
            raise
        except Exception:
            self.close_connection = True
            raise
        if chunked:
            self.wfile.write(b"0\r\n\r\n")
        return sent

    def _reset(self) -> None:
        """End the connection as a broken network does: a TCP reset."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def main() -> None:
    """Serve until killed."""
    config = json.loads(Path(sys.argv[1]).read_text())
    run_dir = Path(config["run_dir"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(config["chain"], config["key"])
    sites = build_sites(config)
    plain = Front(config, 80, None, sites, run_dir)
    secure = Front(config, 443, context, sites, run_dir)
    threading.Thread(target=plain.serve_forever, daemon=True).start()
    (run_dir / "front.ready").touch()
    secure.serve_forever()


if __name__ == "__main__":
    main()
