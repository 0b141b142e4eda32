"""What every stand-in speaks: a request, a response, a file with ranges."""

from __future__ import annotations

import json
import mimetypes
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import Protocol

BLOCK_BYTES = 1 << 18


@dataclass(frozen=True)
class Request:
    """One HTTP request; `path` is as sent (percent-encoded, without the query)."""

    method: str
    host: str
    path: str
    query: str
    headers: Message
    body: bytes


@dataclass
class Response:
    """One HTTP response. `length` in bytes, None when unknown (sent in chunks).

    `payload` marks bulk content (a package, a blob, a model file): what "cut", "wrong-bytes" and "slow" act on.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: Iterable[bytes] = ()
    length: int | None = 0
    payload: bool = False


class Site(Protocol):
    """A stand-in: `name` as in World.misbehave, and what it answers."""

    name: str

    def serve(self, request: Request) -> Response:
        """Answer one request; called from many threads."""
        ...


def text(status: int, message: str, **headers: str) -> Response:
    """A short answer in plain text; underscores in header names become dashes."""
    data = message.encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(status, {"Content-Type": "text/plain; charset=utf-8", **named}, [data], len(data))


def as_json(status: int, value: object, headers: dict[str, str] | None = None) -> Response:
    """`value` as JSON."""
    data = json.dumps(value).encode()
    return Response(status, {"Content-Type": "application/json", **(headers or {})}, [data], len(data))


def html(page: str) -> Response:
    """A page."""
    data = page.encode()
    return Response(200, {"Content-Type": "text/html; charset=utf-8"}, [data], len(data))


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """First and last byte that a Range header asks for, None when it asks for no (valid) single range."""
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", (header or "").strip())
    if not found or found.group(1) == found.group(2) == "":
        return None
    if found.group(1) == "":
        return max(0, size - int(found.group(2))), size - 1
    return int(found.group(1)), min(int(found.group(2) or size - 1), size - 1)


def read_part(path: Path, first: int, last: int) -> Iterator[bytes]:
    """The bytes `first`..`last` of a file, in blocks."""
    left = last - first + 1
    with path.open("rb") as handle:
        handle.seek(first)
        while left > 0 and (block := handle.read(min(BLOCK_BYTES, left))):
            left -= len(block)
            yield block


def file_response(
    request: Request, path: Path, headers: dict[str, str] | None = None, payload: bool = True
) -> Response:
    """A file, whole or the range asked for; 404 when it is missing, 416 for a range behind its end."""
    if not path.is_file():
        return text(404, f"not found: {request.path}\n")
    size = path.stat().st_size
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    named = {"Content-Type": kind, "Accept-Ranges": "bytes", **(headers or {})}
    part = byte_range(request.headers.get("Range"), size)
    if part is None:
        return Response(200, named, read_part(path, 0, size - 1), size, payload)
    first, last = part
    if first >= size:
        return Response(416, {**named, "Content-Range": f"bytes */{size}"})
    named["Content-Range"] = f"bytes {first}-{last}/{size}"
    return Response(206, named, read_part(path, first, last), last - first + 1, payload)
