"""Fetch a file from this machine's own mirrors, through a cache on disk."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

TIMEOUT_S = 120
MISSING = (403, 404, 410)


class Upstream:
    """Files by URL; two threads that want the same file fetch it once."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._locks: dict[Path, threading.Lock] = {}
        self._guard = threading.Lock()

    def get(self, url: str, ttl_s: float | None, accept: str = "*/*") -> Path | None:
        """The file behind `url` as a local path, None when the mirror has none; `ttl_s` None: kept for ever."""
        if url.startswith("file://"):
            local = Path(url.removeprefix("file://"))
            return local if local.is_file() else None
        name = hashlib.sha256(f"{url}\n{accept}".encode()).hexdigest()
        path = self._cache / name[:2] / name
        with self._guard:
            lock = self._locks.setdefault(path, threading.Lock())
        with lock:
            if path.exists() and (ttl_s is None or time.time() - path.stat().st_mtime < ttl_s):
                return path
            return self._fetch(url, path, accept)

    def _fetch(self, url: str, path: Path, accept: str) -> Path | None:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        request = urllib.request.Request(url, headers={"Accept": accept, "User-Agent": "gpuhost-rehearsal"})
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer, fresh.open("wb") as out:
                shutil.copyfileobj(answer, out, 1 << 18)
        except urllib.error.HTTPError as error:
            if error.code in MISSING:
                return None
            raise
        fresh.replace(path)
        return path
