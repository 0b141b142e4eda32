"""A registry on this machine, under the names that a reference has: what it answers is the test's."""

from __future__ import annotations

import hashlib
import json
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
REALM = "https://auth.example/token"
CHALLENGE = f'Bearer realm="{REALM}",service="registry.example",scope="repository:acme/server:pull"'


@dataclass
class Answer:
    """What a request gets. `token`: without it 401 with a challenge; `endless`: the body does not end; `wait_s`: it
    comes so late."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    token: str = ""
    challenge: str = CHALLENGE
    endless: bool = False
    wait_s: float = 0


@dataclass
class Registry:
    """`answers`: (method, URL without query) -> answer, else 404; `asked`: (method, URL, Authorization) in order;
    `headers`: those of the last request."""

    answers: dict[tuple[str, str], Answer] = field(default_factory=dict)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    ended: threading.Event = field(default_factory=threading.Event)

    def put(
        self, server: str, repository: str, name: str, content: bytes, kind: str = MANIFEST, token: str = ""
    ) -> str:
        """A manifest under a tag and its digest, or a blob (name "") under its digest; the digest."""
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        headers = {"Docker-Content-Digest": digest, "Content-Type": kind}
        folder = "manifests" if name else "blobs"
        for each in (name, digest):
            for method in ("HEAD", "GET"):
                url = f"https://{server}/v2/{repository}/{folder}/{each}"
                self.answers[method, url] = Answer(headers=headers, body=content, token=token)
        return digest

    def put_image(self, server: str, repository: str, tag: str, environment: Sequence[str], token: str = "") -> str:
        """An image for two platforms, of which linux/amd64 has this environment; its digest."""

        def blob(value: Any, name: str = "", kind: str = MANIFEST) -> str:
            return self.put(server, repository, name, json.dumps(value).encode(), kind, token)

        other = blob({"config": {"digest": blob({"config": {"Env": ["OTHER=1"]}})}}, "other")
        wanted = blob({"config": {"digest": blob({"config": {"Env": list(environment)}})}}, "wanted")
        platforms = [(other, "arm64"), (wanted, "amd64")]
        listed = [{"digest": d, "platform": {"os": "linux", "architecture": name}} for d, name in platforms]
        return blob({"manifests": listed}, tag, INDEX)


class _Handler(BaseHTTPRequestHandler):
    registry: Registry

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _handle(self) -> None:
        url = f"https://{self.headers['Host']}{self.path}"
        given = self.headers.get("Authorization", "")
        self.registry.asked.append((self.command, url, given))
        self.registry.headers = dict(self.headers.items())
        answer = self.registry.answers.get((self.command, url.partition("?")[0]), Answer(404))
        if answer.token and given != f"Bearer {answer.token}":
            answer = Answer(401, {"WWW-Authenticate": answer.challenge})
        self.registry.ended.wait(answer.wait_s)
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if not answer.endless:
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(answer.body)
            while answer.endless and not self.registry.ended.is_set():
                self.wfile.write(b"x" * (1 << 20))

    do_GET = do_HEAD = _handle


class _Here(httpx.BaseTransport):
    """Leads every name to this machine."""

    def __init__(self, port: int) -> None:
        self._port, self._inner = port, httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url.copy_with(scheme="http", host="127.0.0.1", port=self._port)
        return self._inner.handle_request(
            httpx.Request(request.method, url, headers=request.headers, extensions=request.extensions)
        )


@contextmanager
def served(registry: Registry, certificate: Path | None = None) -> Iterator[int]:
    """The port of this machine on which it answers; by TLS with a certificate, whose file holds its key, too."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"registry": registry}))
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that has heard enough
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server.server_port
    finally:
        registry.ended.set()
        server.shutdown()
        server.server_close()


@contextmanager
def serving(registry: Registry, timeout_s: float = 20) -> Iterator[httpx.Client]:
    """A client for which `registry` is the whole network."""
    with served(registry) as port, httpx.Client(transport=_Here(port), timeout=timeout_s) as client:
        yield client
