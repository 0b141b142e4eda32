"""Trees of files: signed apt repositories, and PyTorch's wheel index."""

from __future__ import annotations

import hashlib
import html
import re
from pathlib import Path
from urllib.parse import unquote

from . import http
from .http import Request, Response, file_response, text

INDEX_FILES = re.compile(r"/(InRelease|Release(\.gpg)?|Packages(\.\w+)?|gpg|gpgkey)$")


class StaticTree:
    """The files below `root` under their paths."""

    def __init__(self, name: str, root: Path) -> None:
        self.name = name
        self._root = root.resolve()

    def serve(self, request: Request) -> Response:
        path = (self._root / unquote(request.path).lstrip("/")).resolve()
        if not path.is_relative_to(self._root):
            return text(404, "not found\n")
        return file_response(request, path, payload=not INDEX_FILES.search(request.path))


class WheelIndex:
    """PEP 503 index of the wheels and source packages in one folder; every /whl/<variant>/ shows its sub-folder, or
    else the folder."""

    def __init__(self, name: str, root: Path) -> None:
        self.name = name
        self._root = root

    def serve(self, request: Request) -> Response:
        found = re.fullmatch(r"/whl/(?:([\w.]+)/)?([\w.-]+)/?", request.path)
        if request.path.endswith((".whl", ".tar.gz")):
            return file_response(request, self._find(unquote(request.path)))
        if not found:
            return text(404, "not found\n")
        wheels = self._wheels(found.group(1) or "")
        if found.group(1) is None and (self._root / found.group(2)).is_dir():
            wheels, project = self._wheels(found.group(2)), ""
        else:
            project = re.sub(r"[-_.]+", "-", found.group(2)).lower()
        projects = {re.sub(r"[-_.]+", "-", wheel.name.split("-")[0]).lower() for wheel in wheels}
        if not project:
            return http.html("".join(f'<a href="{name}/">{name}</a><br/>' for name in sorted(projects)))
        if project not in projects:
            return text(404, "not found\n")
        mine = [x for x in wheels if re.sub(r"[-_.]+", "-", x.name.split("-")[0]).lower() == project]
        return http.html("".join(self._link(found.group(1) or "", wheel) for wheel in sorted(mine)))

    def _wheels(self, variant: str) -> list[Path]:
        folder = self._root / variant
        folder = folder if folder.is_dir() else self._root
        return sorted([*folder.glob("*.whl"), *folder.glob("*.tar.gz")])

    def _find(self, path: str) -> Path:
        folder, _, name = path.rpartition("/")
        variant = folder.removeprefix("/whl").lstrip("/")
        return next((x for x in self._wheels(variant) if x.name == name), self._root / "none")

    @staticmethod
    def _link(variant: str, wheel: Path) -> str:
        sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
        name = html.escape(wheel.name)
        href = f"/whl/{variant}/{name.replace('+', '%2B')}" if variant else f"/whl/{name.replace('+', '%2B')}"
        return f'<a href="{href}#sha256={sha256}">{name}</a><br/>\n'
