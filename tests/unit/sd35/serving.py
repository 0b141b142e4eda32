"""A server over a real socket, with the stand-in as its model, and what tests ask of it."""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from sd35.app import Server
from sd35.connections import LimitedProtocol
from sd35.gpu import GpuMemory
from sd35.settings import Limits, Settings

ROOT = Path(__file__).parents[3] / "files" / "sd35"
TOKEN = "t" * 40
AUTH = {"Authorization": f"Bearer {TOKEN}"}
REPO = "owner/pictures-1"
COMMIT = "c" * 40
STANDIN = str(Path(__file__).with_name("standin.py"))
DEADLINE_S = 100.0  # torch alone takes half a minute to import on a busy machine


def gpu_memory(used_mib: int = 500) -> GpuMemory:
    """A card of 24 GB."""
    return GpuMemory(total_mib=24576, used_mib=used_mib, free_mib=24576 - used_mib)


class Fifo:
    """What a stand-in waits for."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_NONBLOCK)

    def let(self, steps: int = 1) -> None:
        """So many more steps."""
        os.write(self._file, b"." * steps)

    def __str__(self) -> str:
        return str(self.path)


class Cache:
    """A Hugging Face cache with the stand-in's folder in it."""

    def __init__(self, folder: Path, repo: str = REPO) -> None:
        self.hub = folder / "hub"
        self.pids = folder / "pids"
        self._repo = self.hub / f"models--{repo.replace('/', '--')}"

    def put(self, **told: Any) -> None:
        """The model is there, and loads as told."""
        snapshot = self._repo / "snapshots" / COMMIT
        snapshot.mkdir(parents=True, exist_ok=True)
        (snapshot / "model_index.json").write_text(json.dumps({"pids": str(self.pids), **told}))
        (self._repo / "refs").mkdir(exist_ok=True)
        (self._repo / "refs" / "main").write_text(COMMIT)

    def processes(self) -> list[int]:
        """The ids of all processes that loaded it, ended ones too."""
        return [int(line) for line in self.pids.read_text().split()] if self.pids.exists() else []


def settings(folder: Path, limits: Limits | None = None, **changed: Any) -> Settings:
    """For a server that keeps its things in a folder."""
    (folder / "outputs").mkdir(exist_ok=True)
    made = Settings(TOKEN, model=REPO, cache=folder / "hub", outputs=folder / "outputs", limits=limits or Limits())
    return replace(made, **changed)


@contextmanager
def serving(
    made: Settings,
    read_gpu: Callable[[], GpuMemory | None] = gpu_memory,
    worker: Sequence[str] = (sys.executable, STANDIN),
) -> Iterator[httpx.Client]:
    """A client of a running server."""
    # Without the protocol's number asyncio leaves Nagle's algorithm on: 40 ms a request.
    with socket.socket(proto=socket.IPPROTO_TCP) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        app = Server(made, worker, read_gpu).app
        config = uvicorn.Config(app, log_level="warning", http=LimitedProtocol, lifespan="on")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        base = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with httpx.Client(base_url=base, headers=AUTH, trust_env=False, timeout=DEADLINE_S) as client:
            until(lambda: server.started)
            yield client
        server.should_exit = True
        thread.join()


def until(true: Callable[[], bool]) -> None:
    """Waits for it; fails after DEADLINE_S."""
    deadline = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.005)


def start(client: httpx.Client, prompt: str, **fields: Any) -> str:
    """The id of a new job."""
    answer = client.post("/generate", json={"prompt": prompt, "width": 256, "height": 256, **fields})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["job_id"])


def status(client: httpx.Client, job: str) -> dict[str, Any]:
    """What is said of a job."""
    answer = client.get(f"/status/{job}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def ended(client: httpx.Client, job: str) -> dict[str, Any]:
    """What is said of a job when it has ended."""
    until(lambda: status(client, job)["status"] in ("completed", "failed"))
    return status(client, job)


def made(client: httpx.Client, prompt: str, **fields: Any) -> list[bytes]:
    """The pictures of a job that succeeds."""
    found = ended(client, start(client, prompt, **fields))
    assert found["status"] == "completed", found
    return [Path(path).read_bytes() for path in found["images"]]


def pixels(png: bytes) -> tuple[int, int]:
    """Width and height."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def alive(pid: int) -> bool:
    """Whether a process is there and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # gone before, or while it was read
        return False
