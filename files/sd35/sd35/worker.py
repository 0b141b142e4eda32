"""`python -m sd35.worker`: the process that holds the model. It ends when its stdin does, so it never outlives the
server, and its end gives back all that it took of the GPU. Standard library; the model is imported in `main`.

Orders come as lines of JSON on stdin: first the source, then jobs and cancellations. What it says goes to stdout as
lines of JSON; after a line of a picture follow the picture's bytes.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any, BinaryIO, Protocol

from sd35.wanted import Source, Wanted

CAUSE_CHARS = 300


class Model(Protocol):
    """What `load` gives."""

    def picture(self, wanted: Wanted, seed: int, on_step: Callable[[int], None]) -> bytes:
        """A PNG."""

    def rest(self) -> None:
        """After each job."""


class Cancelled(Exception):
    """The job is no longer wanted."""


class Worker:
    """One run of the process."""

    def __init__(self, orders: BinaryIO, said: BinaryIO) -> None:
        self._lines = orders
        self._said = said
        self._jobs: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._cancelled = -1

    def serve(self, load: Callable[[Source], Model]) -> None:
        """Until stdin ends, or a job fails: what is wrong with the GPU then may stay wrong in this process."""
        source = Source(**json.loads(self._lines.readline()))
        threading.Thread(target=self._read, daemon=True).start()
        try:
            model = load(source)
            self._say("loaded")
            while True:
                self._job(model, **self._jobs.get())
        except Exception as error:
            traceback.print_exc()
            self._say("failed", cause=cause(error))

    def _read(self) -> None:
        for line in self._lines:
            order = json.loads(line)
            if "cancel" in order:
                self._cancelled = order["cancel"]
            else:
                self._jobs.put(order)
        os._exit(0)

    def _job(self, model: Model, job: int, wanted: dict[str, Any]) -> None:
        what = Wanted(**wanted)
        try:
            for number in range(what.count):
                on_step = partial(self._step, job, number * what.steps)
                on_step(0)
                self._say("picture", model.picture(what, what.seed + number, on_step))
            self._say("done")
        except Cancelled:
            self._say("cancelled")
        model.rest()

    def _step(self, job: int, before: int, step: int) -> None:
        """Says how many steps of all pictures are done."""
        if self._cancelled == job:
            raise Cancelled
        self._say("step", step=before + step)

    def _say(self, what: str, data: bytes = b"", **fields: Any) -> None:
        line = json.dumps({"said": what, "bytes": len(data), **fields}).encode()
        self._said.write(line + b"\n" + data)
        self._said.flush()


def cause(error: BaseException) -> str:
    """One line that may be shown to a client."""
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}"[:CAUSE_CHARS]


def serve(load: Callable[[Source], Model]) -> None:
    """On stdin and stdout. What libraries print goes to stderr."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both; the server says when to end
    with os.fdopen(os.dup(1), "wb") as said:
        os.dup2(2, 1)
        Worker(sys.stdin.buffer, said).serve(load)
    # No clean end of CUDA, which may hang, and of the thread that reads.
    os._exit(1)


def main() -> None:
    """With the real model."""

    def load(source: Source) -> Model:
        from sd35 import pipeline

        return pipeline.load(source)

    serve(load)


if __name__ == "__main__":
    main()
