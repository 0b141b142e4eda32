"""The process that holds the model, with a model that is none: it draws one colour. Run as a program; the real
sd35/worker.py is around it.

The prompt says how it behaves: `hold FIFO` reads a byte before each step, `deaf FIFO` reads it without asking whether
the job is still wanted, `fail` raises, `die` ends the process, `print` writes to stdout, `environment` fails with the
names of its environment. `model_index.json` says how it loads: `{"load": "fail"}`, or `{"load": "hold", "fifo": ...}`.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "files" / "sd35"))

from sd35 import worker
from sd35.wanted import Source, Wanted


def png(width: int, height: int, colour: bytes) -> bytes:
    """A picture of one colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress((b"\0" + colour * width) * height)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


class Standin:
    """A model."""

    def picture(self, wanted: Wanted, seed: int, on_step: Callable[[int], None]) -> bytes:
        """As the prompt says."""
        match wanted.prompt.split():
            case ["hold", fifo]:
                for step in range(wanted.steps):
                    read_byte(fifo)
                    on_step(step + 1)
            case ["deaf", fifo]:
                while True:
                    read_byte(fifo)
            case ["die"]:
                os.kill(os.getpid(), signal.SIGKILL)
            case ["fail"]:
                raise RuntimeError("CUDA out of memory\nwith a second line")
            case ["print"]:
                print("from a library")
                os.write(1, b"from below Python\n")
            case ["environment"]:
                raise RuntimeError(",".join(sorted(name for name in os.environ if name.startswith("SD35"))))
        for step in range(wanted.steps):
            on_step(step + 1)
        told = repr((wanted.prompt, wanted.negative_prompt, wanted.guidance_scale, wanted.steps, seed))
        return png(wanted.width, wanted.height, struct.pack(">I", zlib.crc32(told.encode()))[:3])

    def rest(self) -> None:
        """Nothing to give back."""


def read_byte(fifo: str) -> None:
    """The test has it open for writing as well, so that this waits for a byte and not for an end."""
    with Path(fifo).open("rb", buffering=0) as file:
        file.read(1)


def load(source: Source) -> Standin:
    """As the folder says."""
    told = json.loads((Path(source.folder) / "model_index.json").read_text())
    if "pids" in told:
        with Path(told["pids"]).open("a") as file:
            file.write(f"{os.getpid()}\n")
    match told.get("load"):
        case "fail":
            raise ValueError("a weight is missing")
        case "hold":
            read_byte(told["fifo"])
    return Standin()


if __name__ == "__main__":
    worker.serve(load)
