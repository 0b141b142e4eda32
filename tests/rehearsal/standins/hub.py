"""huggingface.co: the hub's protocol for models, over folders `<root>/<owner>/<name>/`."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

from .http import Request, Response, as_json, file_response, text

LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".gguf", ".ckpt", ".pth", ".onnx")
LFS_FROM_BYTES = 10 << 20
TREE_PAGE = 1000  # entries, as on the real one
REPO = r"([\w.-]+/[\w.-]+)"
RESOLVE = re.compile(rf"/{REPO}/resolve/([^/]+)/(.+)")
API = re.compile(rf"/api/models/{REPO}(?:/(revision|tree|paths-info|refs|auth-check)(?:/([^/]+)(?:/(.*))?)?)?")


@dataclass(frozen=True)
class HubStore:
    """The hub's data on disk: per repository `repo.json` and one folder of files per commit."""

    root: Path

    def add(self, repo: str, files: dict[str, bytes | Path], gated: bool, commit: str | None) -> str:
        """Add a commit to `repo` that holds `files` and let `main` point to it; returns its 40 hex digits."""
        listing = {name: _describe(name, content) for name, content in sorted(files.items())}
        sha = commit or hashlib.sha1(json.dumps([repo, listing]).encode()).hexdigest()
        folder = self.root / repo
        for name, content in files.items():
            path = folder / sha / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                _link_or_copy(content, path)
        meta = self.read(repo) or {"commits": {}}
        meta |= {"gated": gated, "main": sha, "commits": meta["commits"] | {sha: listing}}
        _write_json(folder / "repo.json", meta)
        return sha

    def read(self, repo: str) -> dict[str, Any] | None:
        """`repo.json`, None for an unknown repository."""
        path = self.root / repo / "repo.json"
        try:
            found = path.stat()
            return dict(_parsed(path, found.st_ino, found.st_mtime_ns))
        except FileNotFoundError:
            return None

    def grant(self, token: str, repos: list[str]) -> None:
        """Make `token` valid, with access to exactly these gated repositories."""
        _write_json(self.root / "tokens.json", self.tokens() | {token: repos})

    def grant_fine_grained(self, token: str) -> None:
        """Make `token` valid, as one that may read what its account may, but for gated repositories."""
        self.grant(token, [])
        _write_json(self.root / "fine-grained.json", [*self.fine_grained(), token])

    def fine_grained(self) -> list[str]:
        """The tokens without the scope to read gated repositories."""
        path = self.root / "fine-grained.json"
        return list(json.loads(path.read_text())) if path.exists() else []

    def tokens(self) -> dict[str, list[str]]:
        """Valid tokens and the gated repositories that each may read."""
        path = self.root / "tokens.json"
        return dict(json.loads(path.read_text())) if path.exists() else {}


class Hub:
    """Model info, tree, resolve with ranges, gated access, whoami."""

    name = "hub"

    def __init__(self, root: Path) -> None:
        self._store = HubStore(root)

    def serve(self, request: Request) -> Response:
        path = unquote(request.path)
        header = request.headers.get("Authorization", "")
        token = header.removeprefix("Bearer ").strip()
        if token and token not in self._store.tokens():
            return _error(401, None, "Invalid credentials in Authorization header")
        if path == "/api/whoami-v2":
            return self._whoami(token)
        if found := API.fullmatch(path):
            return self._api(request, token, *found.groups())
        if found := RESOLVE.fullmatch(path):
            return self._resolve(request, token, *found.groups())
        return text(404, "not found\n")

    def _whoami(self, token: str) -> Response:
        if not token:
            return _error(401, None, "Invalid username or password.")
        access: dict[str, Any] = {"displayName": "rehearsal", "role": "read"}
        if token in self._store.fine_grained():
            access |= {"role": "fineGrained", "fineGrained": {"canReadGatedRepos": False, "global": [], "scoped": []}}
        role = {"accessToken": access}
        return as_json(200, {"type": "user", "id": "1", "name": "rehearsal", "orgs": [], "auth": role})

    def _refused(self, repo: str, meta: dict[str, Any] | None, token: str) -> Response | None:
        """The hub's refusal for reading files of a repository, None when the token may."""
        if meta is None:
            if token:
                return _error(404, "RepoNotFound", "Repository not found")
            return _error(401, "RepoNotFound", "Invalid username or password.")
        if not meta["gated"] or repo in self._store.tokens().get(token, []):
            return None
        if not token:
            return _error(401, "GatedRepo", f"Access to model {repo} is restricted. Please log in.")
        why = f"Access to model {repo} is restricted and you are not in the authorized list."
        if token in self._store.fine_grained():
            why = "Please enable access to public gated repositories in your fine-grained token settings to view this"
        return _error(403, "GatedRepo", why)

    def _api(
        self, request: Request, token: str, repo: str, what: str | None, revision: str | None, path: str | None
    ) -> Response:
        meta = self._store.read(repo)
        if meta is None or what == "auth-check":
            return self._refused(repo, meta, token) or text(200, "OK")
        if what == "refs":
            branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": meta["main"]}
            return as_json(200, {"branches": [branch], "converts": [], "tags": []})
        sha = _commit_of(meta, revision or "main")
        if sha is None:
            return _error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        listing: dict[str, Any] = meta["commits"][sha]
        if what == "tree":
            return _tree(request, [x for name, x in listing.items() if name.startswith(f"{path}/" if path else "")])
        if what == "paths-info":
            return as_json(200, [listing[name] for name in _asked_paths(request) if name in listing])
        with_sizes = "true" in parse_qs(request.query).get("blobs", [])
        return as_json(200, _model_info(repo, sha, meta["gated"], listing, with_sizes))

    def _resolve(self, request: Request, token: str, repo: str, revision: str, name: str) -> Response:
        meta = self._store.read(repo)
        refused = self._refused(repo, meta, token)
        if refused or meta is None:
            return refused or text(404, "not found\n")
        sha = _commit_of(meta, revision)
        if sha is None:
            return _error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        entry = meta["commits"][sha].get(name)
        if entry is None:
            return _error(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": sha})
        headers = {"X-Repo-Commit": sha, "ETag": f'"{entry["oid"]}"'}
        if "lfs" in entry:
            etag = f'"{entry["lfs"]["oid"]}"'
            headers |= {"ETag": etag, "X-Linked-ETag": etag, "X-Linked-Size": str(entry["size"])}
        return file_response(request, self._store.root / repo / sha / name, headers)


@functools.lru_cache(maxsize=64)
def _parsed(path: Path, inode: int, mtime_ns: int) -> dict[str, Any]:
    """Read once for as long as it is the same file, not once a request."""
    return dict(json.loads(path.read_text()))


def _error(status: int, code: str | None, message: str, headers: dict[str, str] | None = None) -> Response:
    named = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {}), **(headers or {})}
    return as_json(status, {"error": message}, named)


def _tree(request: Request, entries: list[Any]) -> Response:
    """One page of a tree; the Link header names the next one."""
    asked = parse_qs(request.query)
    begin, size = int(asked.get("cursor", ["0"])[0]), TREE_PAGE
    more = begin + size < len(entries)
    host = request.headers.get("Host", request.host)
    scheme = "http" if host.startswith("127.") else "https"
    url = f"{scheme}://{host}{request.path}?recursive=true&expand=false&cursor={begin + size}"
    return as_json(200, entries[begin : begin + size], {"Link": f'<{url}>; rel="next"'} if more else None)


def _commit_of(meta: dict[str, Any], revision: str) -> str | None:
    if revision == "main":
        return str(meta["main"])
    return revision if revision in meta["commits"] else None


def _asked_paths(request: Request) -> list[str]:
    body = request.body.decode()
    asked = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body).get("paths", [])
    return [asked] if isinstance(asked, str) else list(asked)


def _model_info(repo: str, sha: str, gated: bool, listing: dict[str, Any], with_sizes: bool) -> dict[str, Any]:
    siblings = []
    for name, entry in listing.items():
        sibling: dict[str, Any] = {"rfilename": name}
        if with_sizes:
            sibling |= {"size": entry["size"], "blobId": entry["oid"]}
            if "lfs" in entry:
                lfs = entry["lfs"]
                sibling["lfs"] = {"sha256": lfs["oid"], "size": lfs["size"], "pointerSize": lfs["pointerSize"]}
        siblings.append(sibling)
    when = "2025-01-01T00:00:00.000Z"
    info: dict[str, Any] = {"_id": sha[:24], "id": repo, "modelId": repo, "author": repo.split("/")[0], "sha": sha}
    info |= {"lastModified": when, "createdAt": when, "private": False, "disabled": False, "downloads": 0}
    return info | {"gated": "manual" if gated else False, "likes": 0, "tags": [], "siblings": siblings}


def _describe(name: str, content: bytes | Path) -> dict[str, Any]:
    """The tree's entry of a file: size, git oid (of the pointer for LFS), LFS sha256."""
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    entry: dict[str, Any] = {"type": "file", "size": size, "path": name}
    if not name.endswith(LFS_SUFFIXES) and size < LFS_FROM_BYTES:
        data = content if isinstance(content, bytes) else content.read_bytes()
        return entry | {"oid": hashlib.sha1(b"blob %d\0" % size + data).hexdigest()}
    if isinstance(content, bytes):
        sha256 = hashlib.sha256(content).hexdigest()
    else:
        with content.open("rb") as handle:
            sha256 = hashlib.file_digest(handle, "sha256").hexdigest()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
    oid = hashlib.sha1(b"blob %d\0" % len(pointer) + pointer).hexdigest()
    return entry | {"oid": oid, "lfs": {"oid": sha256, "size": size, "pointerSize": len(pointer)}}


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(json.dumps(value))
    fresh.replace(path)
