"""A Docker Engine of a few routes, speaking real HTTP over a real unix socket."""

from __future__ import annotations

import json
import re
import socket
import socketserver
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from hostside import broker


def container(name: str, **over: Any) -> dict[str, Any]:
    """An inspect document. `state` replaces keys of State; `labels`, `ports`, `restarts` are what they say."""
    state = {
        "Status": "running",
        "ExitCode": 0,
        "OOMKilled": False,
        "Error": "",
        "StartedAt": "2026-01-01T00:00:00.123456789Z",
        "Health": {"Status": "healthy", "Log": [{"Output": "fine\n"}]},
    }
    return {
        "Id": f"id-{name}",
        "Name": f"/{name}",
        "Image": f"sha256:of-{name}",
        "RestartCount": over.get("restarts", 0),
        "State": state | over.get("state", {}),
        "Config": {
            "Image": "gpuhost/test:1",
            "Env": ["TOKEN=environment-secret"],
            "Tty": False,
            "Labels": {"gpuhost.service": name, "gpuhost.stack": "stack-a", **over.get("labels", {})},
        },
        "HostConfig": {"LogConfig": {"Type": "json-file"}},
        "NetworkSettings": {"Ports": over.get("ports", {})},
    }


class FakeDocker:
    """`containers`: name -> the inspect documents that it shows one after another; the last one stays; `images`: id ->
    its own.

    `status` 500 makes every answer a failure, 0 cuts every connection; `cannot_act`: why it starts and stops nothing;
    `requests`: the path of every GET, and method and path of everything else.
    """

    def __init__(self, socket_path: Path) -> None:
        self.socket_path = str(socket_path)
        self.reset()
        self._server = _Server(self.socket_path, _handler(self))
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def reset(self) -> None:
        """A working engine without containers."""
        self.containers: dict[str, list[dict[str, Any]]] = {}
        self.images: dict[str, dict[str, Any]] = {}
        self.logs: dict[str, str] = {}
        self.events: list[dict[str, Any]] = []
        self.delay_s = 0.0
        self.status = 200
        self.cannot_act = ""
        self.requests: list[str] = []

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        Path(self.socket_path).unlink(missing_ok=True)

    def act(self, path: str) -> tuple[int, bytes]:
        """Status and body of one POST: a container is started or stopped."""
        name, _, action = path.removeprefix("/containers/").removeprefix("id-").partition("/")
        if name not in self.containers or action not in ("start", "stop"):
            return 404, b'{"message": "no such container"}'
        if self.cannot_act:
            return 500, json.dumps({"message": self.cannot_act}).encode()
        state, wanted = self.containers[name][-1]["State"], "running" if action == "start" else "exited"
        was, state["Status"] = state["Status"], wanted
        return (304 if was == wanted else 204), b""

    def answer(self, path: str, query: dict[str, list[str]]) -> tuple[int, bytes]:
        """Status and body of one GET."""
        if path == "/_ping":
            return 200, b"OK"
        if path == "/version":
            return 200, b'{"ApiVersion": "1.41", "Version": "20.10.24"}'
        if path == "/events":
            return 200, b"".join(json.dumps(event).encode() + b"\n" for event in self.events)
        if path == "/containers/json":
            label, _, value = json.loads(query["filters"][0])["label"][0].partition("=")
            shown = [
                states[0]
                for states in self.containers.values()
                if label in (attached := states[0]["Config"]["Labels"]) and value in ("", attached[label])
            ]
            return 200, json.dumps([{"Id": state["Id"]} for state in shown]).encode()
        if path.startswith("/images/"):
            image = self.images.get(path.removeprefix("/images/").removesuffix("/json"))
            return (200, json.dumps(image).encode()) if image else (404, b'{"message": "no such image"}')
        name, _, what = path.removeprefix("/containers/").removeprefix("id-").partition("/")
        if name not in self.containers:
            return 404, b'{"message": "no such container"}'
        if what == "logs":
            text = self.logs.get(name, "").encode("utf-8", "surrogateescape")
            return 200, struct.pack(">BxxxL", 1, len(text)) + text if text else b""
        states = self.containers[name]
        return 200, json.dumps(states.pop(0) if len(states) > 1 else states[0]).encode()


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


def _handler(fake: FakeDocker) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            parts = urlsplit(self.path)
            fake.requests.append(f"POST {parts.path}")
            status, body = fake.act(parts.path)
            self.send_response(status)
            if status not in (204, 304):
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            fake.requests.append(parts.path)
            time.sleep(fake.delay_s)
            if fake.status == 0:
                self.close_connection = True
                return
            status, body = 500, b'{"message": "broken"}'
            if fake.status == 200:
                status, body = fake.answer(re.sub(r"^/v\d\.\d+", "", parts.path), parse_qs(parts.query))
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            if parts.path.endswith("/events"):  # a stream, which the docker SDK reads only in chunks
                self.send_header("Transfer-Encoding", "chunked")
                body = b"".join(b"%x\r\n%s\r\n" % (len(line), line) for line in body.splitlines(True)) + b"0\r\n\r\n"
            else:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def address_string(self) -> str:
            return "unix"

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def serve_broker(socket_path: Path, docker: FakeDocker) -> None:
    """Serves as systemd has it: a broker that has ended is started again for the connection that waits."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(socket_path))
    listening.listen()

    def serve() -> None:
        while True:
            broker.serve(listening, broker.Docker(docker.socket_path))

    threading.Thread(target=serve, daemon=True).start()
