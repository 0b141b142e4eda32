"""registry-1.docker.io: Debian's docker-registry behind our front, and images put straight into its store; and
auth.docker.io, which gives everybody a token for what is public, without which the first one answers nothing."""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from .http import BLOCK_BYTES, Request, Response, as_json

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
AUTH_NAME = "auth.docker.io"
PASSED_ON = ("Accept", "Range", "If-None-Match")
DROPPED = {"transfer-encoding", "connection", "content-length", "date"}
EPOCH = "2025-01-01T00:00:00Z"


class RegistryProxy:
    """Passes requests with a token to the docker-registry on 127.0.0.1:`port`; answers with its bytes."""

    name = "registry"

    def __init__(self, port: int) -> None:
        self._port = port

    def serve(self, request: Request) -> Response:
        if request.host == AUTH_NAME:
            scope = parse_qs(request.query).get("scope", [""])[-1]
            return as_json(200, {"token": _token(scope), "expires_in": 300})
        found = re.fullmatch(r"/v2/(.+)/(?:manifests|blobs|tags)/[^/]+", request.path)
        scope = f"repository:{found.group(1)}:pull" if found else ""
        if request.headers.get("Authorization") != f"Bearer {_token(scope)}":
            asks = f'Bearer realm="https://{AUTH_NAME}/token",service="registry.docker.io"'
            headers = {"WWW-Authenticate": asks + (f',scope="{scope}"' if scope else "")}
            return as_json(401, {"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]}, headers)
        return self._passed_on(request)

    def _passed_on(self, request: Request) -> Response:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        sent = {key: value for key in PASSED_ON for value in request.headers.get_all(key, [])[:1]}
        accepts = request.headers.get_all("Accept", [])
        if accepts:
            sent["Accept"] = ", ".join(accepts)
        sent |= {"Host": request.host, "X-Forwarded-Proto": "https"}
        target = request.path + (f"?{request.query}" if request.query else "")
        connection.request(request.method, target, headers=sent)
        answer = connection.getresponse()
        headers = {key: value for key, value in answer.getheaders() if key.lower() not in DROPPED}
        size = answer.getheader("Content-Length")
        length = int(size) if size is not None else None
        return Response(answer.status, headers, self._stream(connection, answer), length, "/blobs/" in request.path)

    @staticmethod
    def _stream(connection: http.client.HTTPConnection, answer: http.client.HTTPResponse) -> Iterator[bytes]:
        try:
            while block := answer.read(BLOCK_BYTES):
                yield block
        finally:
            connection.close()


def _token(scope: str) -> str:
    return hashlib.sha256(f"token for {scope}".encode()).hexdigest()


@dataclass(frozen=True)
class RegistryStore:
    """The registry's storage folder, in the layout of distribution's filesystem driver."""

    root: Path

    @property
    def _tree(self) -> Path:
        return self.root / "docker/registry/v2"

    def put_image(self, name: str, layers: list[Path], config: dict[str, Any]) -> str:
        """Add image `repository:tag` of layer tars (uncompressed) with the run `config` (Env, Cmd, ...).

        Returns the manifest's digest ("sha256:...").
        """
        repository, _, tag = name.rpartition(":")
        if "/" not in repository:
            repository = f"library/{repository}"
        digests = [self._put_file(layer) for layer in layers]
        image = {
            "architecture": "amd64",
            "os": "linux",
            "created": EPOCH,
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": digests},
            "history": [{"created": EPOCH, "created_by": "gpuhost rehearsal"} for _ in digests],
        }
        config_bytes = json.dumps(image).encode()
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": self._descriptor(CONFIG_TYPE, self._put_bytes(config_bytes), len(config_bytes)),
            "layers": [
                self._descriptor(LAYER_TYPE, digest, layer.stat().st_size)
                for digest, layer in zip(digests, layers, strict=True)
            ],
        }
        digest = self._put_bytes(json.dumps(manifest).encode())
        self._link_all(repository, tag, digest, [manifest["config"]["digest"], *digests])  # type: ignore[index]
        return digest

    @staticmethod
    def _descriptor(media_type: str, digest: str, size: int) -> dict[str, Any]:
        return {"mediaType": media_type, "digest": digest, "size": size}

    def _blob(self, digest: str) -> Path:
        value = digest.removeprefix("sha256:")
        path = self._tree / "blobs/sha256" / value[:2] / value / "data"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _put_bytes(self, data: bytes) -> str:
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        self._blob(digest).write_bytes(data)
        return digest

    def _put_file(self, path: Path) -> str:
        digest = file_digest(path)
        blob = self._blob(digest)
        if not blob.exists():
            try:
                os.link(path, blob)
            except OSError:
                shutil.copyfile(path, blob)
        return digest

    def _link_all(self, repository: str, tag: str, manifest: str, blobs: list[str]) -> None:
        folder = self._tree / "repositories" / repository
        value = manifest.removeprefix("sha256:")
        links = {
            f"_manifests/revisions/sha256/{value}/link": manifest,
            f"_manifests/tags/{tag}/current/link": manifest,
            f"_manifests/tags/{tag}/index/sha256/{value}/link": manifest,
        }
        links |= {f"_layers/sha256/{blob.removeprefix('sha256:')}/link": blob for blob in blobs}
        for name, content in links.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content)


def file_digest(path: Path) -> str:
    """`sha256:...` of a file, remembered beside it (size and mtime prove that it is the same)."""
    note = path.with_name(path.name + ".sha256")
    stamp = f"{path.stat().st_size} {path.stat().st_mtime_ns}"
    if note.exists() and note.read_text().startswith(stamp + " "):
        return note.read_text().split()[-1]
    with path.open("rb") as handle:
        digest = "sha256:" + hashlib.file_digest(handle, "sha256").hexdigest()
    note.write_text(f"{stamp} {digest}")
    return digest


def layer_of(files: dict[str, bytes | tuple[bytes, int]], tar: Path) -> Path:
    """Write a layer with `files` (path -> content, or (content, mode)) owned by root; the same bytes each time."""
    with tarfile.open(tar, "w") as out:
        for name, value in sorted(files.items()):
            content, mode = value if isinstance(value, tuple) else (value, 0o644)
            info = tarfile.TarInfo(name.lstrip("/"))
            info.size, info.mode = len(content), mode
            out.addfile(info, io.BytesIO(content))
    return tar
