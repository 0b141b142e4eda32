"""Debian's public archives: a caching proxy to this machine's own Debian mirror."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

from .http import Request, Response, file_response, text
from .upstream import Upstream

INDEX_TTL_S = 3600.0


class DebianProxy:
    """Pool files and by-hash indexes are kept for ever, other indexes for an hour."""

    name = "debian"

    def __init__(self, archives: dict[str, str], cache: Path) -> None:
        """`archives`: the first folder of a path -> the mirror's base URL."""
        self._bases = archives
        self._upstream = Upstream(cache)

    def serve(self, request: Request) -> Response:
        archive, _, rest = request.path.lstrip("/").partition("/")
        base = self._bases.get(archive)
        if base is None or ".." in unquote(rest):
            return text(404, "not found\n")
        for_ever = rest.startswith("pool/") or "/by-hash/" in rest
        path = self._upstream.get(base + rest, None if for_ever else INDEX_TTL_S)
        return text(404, "not found\n") if path is None else file_response(request, path)
