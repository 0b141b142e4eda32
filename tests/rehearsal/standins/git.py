"""github.com: git's own smart HTTP server over bare repositories."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from .http import BLOCK_BYTES, Request, Response, text

SERVICE = re.compile(r"/([\w.-]+)/([\w.-]+?)(?:\.git)?/(info/refs|git-upload-pack|HEAD|objects/.*)")


class GitServer:
    """`<root>/<owner>/<repo>.git`, with or without `.git` in the URL; read only."""

    name = "git"

    def __init__(self, root: Path) -> None:
        self._root = root

    def serve(self, request: Request) -> Response:
        found = SERVICE.fullmatch(request.path)
        if not found or not (self._root / found.group(1) / f"{found.group(2)}.git").is_dir():
            # GitHub answers an unknown repository so: it might be private.
            return text(401, "Repository not found.\n", WWW_Authenticate='Basic realm="GitHub"')
        env = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self._root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_COUNT": "2",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
            "GIT_CONFIG_KEY_1": "uploadpack.allowAnySHA1InWant",
            "GIT_CONFIG_VALUE_1": "true",
            "REQUEST_METHOD": request.method,
            "PATH_INFO": f"/{found.group(1)}/{found.group(2)}.git/{found.group(3)}",
            "QUERY_STRING": request.query,
            "CONTENT_TYPE": request.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(request.body)),
            "HTTP_CONTENT_ENCODING": request.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": request.headers.get("Git-Protocol", ""),
            "REMOTE_ADDR": "127.0.0.1",
        }
        return self._backend(env, request.body)

    def _backend(self, env: dict[str, str], body: bytes) -> Response:
        process = subprocess.Popen(
            ["git", "http-backend"], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert process.stdin and process.stdout
        process.stdin.write(body)
        process.stdin.close()
        status, headers = 200, {}
        while (line := process.stdout.readline().decode().strip()) != "":
            key, _, value = line.partition(": ")
            if key.lower() == "status":
                status = int(value.split()[0])
            else:
                headers[key] = value
        payload = env["PATH_INFO"].endswith("git-upload-pack")
        return Response(status, headers, self._stream(process), None, payload)

    @staticmethod
    def _stream(process: subprocess.Popen[bytes]) -> Iterator[bytes]:
        assert process.stdout
        try:
            while block := process.stdout.read1(BLOCK_BYTES):  # type: ignore[attr-defined]
                yield block
        finally:
            process.stdout.close()
            process.terminate()
            process.wait()
