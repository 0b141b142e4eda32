"""The log of one container, line by line, the secrets that this host has masked before a line leaves it.

    python -m hostside.logs < request

The request is a `LogRequest`; each line of the answer is `{"line": "..."}`, and `{}` now and then while it
follows, so that this program notices that nobody listens any more. Exit: 0 the end of the log; 2 the request is wrong;
3 Docker does not answer, or there is no such container.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import TextIO

import docker.errors  # type: ignore[import-untyped]

from hostside import labels
from hostside.docker_engine import FAILURES, DockerUnavailable, connect
from hostside.protocol.logs import LogRequest
from hostside.redaction import Redactor
from hostside.wire import MAX_BYTES, WireError, from_json

LINE_CHARS_SENT = 8000  # more than is shown: who shows it masks secrets that this host does not have, then cuts
LINE_BYTES_READ = 2**20  # what follows in the same line is left out; far beyond what is sent, so that no secret is cut
ALIVE_EVERY_S = 15.0

_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def lines(pieces: Iterable[bytes]) -> Iterator[str]:
    """Whole lines, whatever the pieces in which they come."""
    line = bytearray()
    for piece in pieces:
        *whole, rest = piece.split(b"\n")
        for part in whole:
            line += part[: max(0, LINE_BYTES_READ - len(line))]
            yield line.decode("utf-8", "replace").rstrip("\r")
            line.clear()
        line += rest[: max(0, LINE_BYTES_READ - len(line))]
    if line:
        yield line.decode("utf-8", "replace")


class Out:
    """Where lines go; one at a time, for two threads write."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._lock = stream, threading.Lock()

    def put(self, message: dict[str, str]) -> None:
        """Raises OSError when nobody reads any more."""
        with self._lock:
            print(json.dumps(message), file=self._stream, flush=True)

    def stay_alive(self) -> None:
        """Ends the program when nobody reads any more."""
        while True:
            threading.Event().wait(ALIVE_EVERY_S)
            try:
                self.put({})
            except OSError:
                os._exit(0)


def show(request: LogRequest, out: Out) -> None:
    """Every line of the log. Raises DockerUnavailable, LookupError."""
    redactor, api = Redactor(request.secrets), connect()
    try:
        found = api.inspect_container(request.service)
        if labels.SERVICE not in (found["Config"]["Labels"] or {}):
            raise LookupError(f"the container `{request.service}` is not gpuhost's")
        options = {"stdout": True, "stderr": True, "tail": request.tail}
        if request.follow:
            threading.Thread(target=out.stay_alive, daemon=True).start()
            pieces = api.logs(found["Id"], stream=True, follow=True, **options)
        else:
            pieces = [api.logs(found["Id"], **options)]
        for line in lines(pieces):
            out.put({"line": redactor.text(_ANSI.sub("", line))[:LINE_CHARS_SENT]})
    except docker.errors.NotFound:
        raise LookupError(f"there is no container `{request.service}`") from None
    except FAILURES as error:
        raise DockerUnavailable(redactor.text(str(error))) from None


def main() -> int:
    try:
        request = from_json(LogRequest, sys.stdin.buffer.read(MAX_BYTES + 1))
        show(request, Out(sys.stdout))
        return 0
    except WireError as error:
        print(f"error: {error}\nhint: `gpuhost apply` ships this program anew", file=sys.stderr)
        return 2
    except LookupError as error:
        print(f"error: {error}\nhint: `gpuhost status` shows what is there; `gpuhost apply` makes it", file=sys.stderr)
        return 3
    except DockerUnavailable as error:
        print(f"error: Docker does not answer: {error}\nhint: `systemctl status docker` says why", file=sys.stderr)
        return 3
    except BrokenPipeError:  # nobody reads any more
        os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
