"""Files of models from one host to another, over the operator's connections to both: one end gives, the other takes.

    python -m hostside.model_peer give      on the host that has the files
    python -m hostside.model_peer take      on the host that lacks them

The first line of stdin is the request, a `GiveRequest` or `TakeRequest`: the same files in the same order.
From then on the control side hands what the one prints to the other: `take` asks for pieces, `give` answers each in its
turn. `take` says first, as a `TakeReady`, where on the loopback it answers as a hub does, to whoever knows the
secret: to the fetch on its host. Both end with their stdin, that is with the connection. Exit: 0; 2 the request is
wrong.

Neither believes the other. `give` opens the files of its request and no other, by no link out of the cache, and writes
nothing; `take` takes so many bytes as it asked for, and whether they are the right ones the fetch finds by their hash.
"""

from __future__ import annotations

import hmac
import os
import re
import stat
import struct
import sys
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any, BinaryIO, TypeVar, cast
from urllib.parse import unquote, urlsplit

from hostside.protocol.model_peer import GiveRequest, TakeReady, TakeRequest
from hostside.wire import MAX_BYTES, WireError, from_json, to_json

ASK = struct.Struct(">IQI")  # number of the file, from where, how many bytes
ANSWER = struct.Struct(">I")  # how many bytes follow; 0: it cannot be given
PIECE_BYTES = 2**20  # asked for at once
AHEAD = 2  # pieces of one file that are asked for before the first has come
IDLE_S = 600.0  # of a connection; the fetch keeps some for its next files
OPEN_MAX = 32  # files

T = TypeVar("T")


class PeerError(Exception):
    """The request, or what the other side sends, cannot be used; `str()` says why."""


# -- give --------------------------------------------------------------------------------------------------------------


class Shelf:
    """The files that may be given, by their numbers."""

    def __init__(self, request: GiveRequest) -> None:
        """Raises `PeerError` and OSError."""
        for file in request.files:
            parts = PurePosixPath(file.at)
            if parts.is_absolute() or ".." in parts.parts or not parts.name:
                raise PeerError(f"`at` names no path below the cache: `{file.at}`")
        self._files = request.files
        self._cache = os.path.realpath(request.cache_dir)
        self._folder = os.open(self._cache, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._opened = lru_cache(OPEN_MAX)(self._open)

    def piece(self, number: int, offset: int, length: int) -> bytes:
        """Bytes of a file; none when it is not there as it was when the plan was made. Raises `PeerError`."""
        if number >= len(self._files) or offset > self._files[number].size or length > PIECE_BYTES:
            raise PeerError("something else than a piece of a planned file is asked for")
        try:
            return os.pread(self._opened(number).fileno(), length, offset)
        except (OSError, ValueError):
            return b""

    def _open(self, number: int) -> BinaryIO:
        """A snapshot's file is a link to its bytes, which may be one themselves: where they end is found first, and
        then gone to by no link at all. Raises OSError, and ValueError for what is not in the cache."""
        file = self._files[number]
        real = PurePosixPath(os.path.realpath(f"{self._cache}/{file.at}")).relative_to(self._cache)
        folder = os.dup(self._folder)
        try:
            for part in real.parts[:-1]:
                inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
                os.close(folder)
                folder = inner
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            opened = os.fdopen(os.open(real.name, flags, dir_fd=folder), "rb", buffering=0)
        finally:
            os.close(folder)
        found = os.fstat(opened.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_size != file.size:
            opened.close()
            raise ValueError
        return cast(BinaryIO, opened)


def give(request: GiveRequest, asks: BinaryIO, answers: BinaryIO) -> None:
    """Answers until nobody asks any more. Raises `PeerError` and OSError."""
    shelf = Shelf(request)
    while ask := _exactly(asks, ASK.size):
        piece = shelf.piece(*ASK.unpack(ask))
        answers.write(ANSWER.pack(len(piece)))
        answers.write(piece)
        answers.flush()


# -- take --------------------------------------------------------------------------------------------------------------


class Asked:
    """The pieces that the other side is asked for; it answers them in their order."""

    def __init__(self, answers: BinaryIO, asks: BinaryIO) -> None:
        self._answers = answers
        self._asks = asks
        self._lock = threading.Lock()
        self._open: deque[tuple[int, Future[bytes]]] = deque()

    def piece(self, number: int, offset: int, length: int) -> Future[bytes]:
        """It is the whole piece, or b"" when the other side has not got it."""
        found: Future[bytes] = Future()
        with self._lock:
            self._open.append((length, found))
            self._asks.write(ASK.pack(number, offset, length))
            self._asks.flush()
        return found

    def read(self) -> None:
        """Takes the answers, until there are no more. Raises `PeerError`."""
        while head := _exactly(self._answers, ANSWER.size):
            with self._lock:
                length, found = self._open.popleft() if self._open else (0, Future[bytes]())
            size = ANSWER.unpack(head)[0]
            if size > length:
                raise PeerError("the other side sends more than it was asked for")
            piece = _exactly(self._answers, size)
            found.set_result(piece if len(piece) == length else b"")


class Server(ThreadingHTTPServer):
    """Answers on the loopback as a hub does, for the files of the request and to who knows its secret."""

    daemon_threads = True

    def __init__(self, request: TakeRequest, asked: Asked) -> None:
        self.asked = asked
        self.files = request.files
        self.numbers = {f"/{f.repo}/resolve/{f.commit}/{f.file}": number for number, f in enumerate(request.files)}
        self.secret = f"Bearer {request.secret}".encode()
        super().__init__(("127.0.0.1", 0), Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that broke is the fetch's to tell."""

    def pieces(self, number: int, first: int, last: int) -> Iterator[bytes]:
        """In order. It ends early where the other side fails."""
        ahead: deque[Future[bytes]] = deque()
        while first <= last or ahead:
            while first <= last and len(ahead) < AHEAD:
                length = min(PIECE_BYTES, last + 1 - first)
                ahead.append(self.asked.piece(number, first, length))
                first += length
            piece = ahead.popleft().result()
            if not piece:
                return
            yield piece


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = IDLE_S
    server: Server

    def do_GET(self) -> None:
        """A range of a file, or a refusal."""
        if not hmac.compare_digest(self.headers.get("Authorization", "").encode(), self.server.secret):
            self._refuse(401)
            return
        number = self.server.numbers.get(unquote(urlsplit(self.path).path))
        asked = re.fullmatch(r"bytes=([0-9]{1,18})-([0-9]{1,18})", self.headers.get("Range", ""))
        if number is None or asked is None:
            self._refuse(404)
            return
        file, first, last = self.server.files[number], int(asked[1]), int(asked[2])
        if not first <= last < file.size:
            self._refuse(416)
            return
        pieces = self.server.pieces(number, first, last)
        begun = next(pieces, b"")
        if not begun:
            self._refuse(404)
            return
        self.send_response(206)
        self.send_header("X-Repo-Commit", file.commit)
        self.send_header("ETag", f'"{file.etag}"')
        self.send_header("Content-Range", f"bytes {first}-{last}/{file.size}")
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        sent = self.wfile.write(begun)
        for piece in pieces:
            sent += self.wfile.write(piece)
        self.close_connection = sent <= last - first  # what was promised does not come

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing: stdout is for the other side."""

    def _refuse(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()


def take(request: TakeRequest, answers: BinaryIO, asks: BinaryIO) -> None:
    """Serves until the other side ends. Raises `PeerError` and OSError."""
    asked = Asked(answers, asks)
    server = Server(request, asked)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    asks.write(to_json(TakeReady(server.server_port)).encode() + b"\n")
    asks.flush()
    asked.read()


# -- both --------------------------------------------------------------------------------------------------------------


def _exactly(source: BinaryIO, count: int) -> bytes:
    """So many bytes; b"" when the other side has ended."""
    found = source.read(count)
    return found if len(found) == count else b""


def _request(kind: type[T], line: bytes) -> T:
    try:
        return from_json(kind, line)
    except WireError as error:
        raise PeerError(f"the request cannot be read: {error}") from error


def main(arguments: list[str]) -> int:
    """`arguments`: `give` or `take`."""
    source, target = sys.stdin.buffer, sys.stdout.buffer
    try:
        line = source.readline(MAX_BYTES + 1)
        if arguments == ["give"]:
            give(_request(GiveRequest, line), source, target)
        elif arguments == ["take"]:
            take(_request(TakeRequest, line), source, target)
        else:
            raise PeerError("neither `give` nor `take` is asked for")
    except (PeerError, OSError) as error:
        print(f"error: {error}\nhint: `gpuhost apply` ships the programs that fit this gpuhost", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    # At once, whatever still waits for an answer.
    os._exit(main(sys.argv[1:]))
