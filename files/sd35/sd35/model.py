"""The model as the server sees it: a process that holds it, or none. Used from one event loop, one job at a time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncGenerator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import try_to_load_from_cache

from sd35.settings import TOKEN_VARIABLE, Settings
from sd35.wanted import Source, Wanted

LOAD_S = 1800.0
STILL_S = 300.0  # a process that says nothing for so long while it works is ended
END_S = 3.0
LINE_BYTES = 2**16
PICTURE_BYTES = 2**26

State = Literal["missing", "unloaded", "loading", "ready", "failed"]


class ModelError(Exception):
    """The model could not be loaded, or not make the picture. `str()` is one sentence."""


@dataclass(frozen=True)
class Step:
    """So many steps of all pictures of the job are done."""

    done: int


@dataclass(frozen=True)
class Picture:
    """One picture is done."""

    png: bytes


class Model:
    """Loaded when it is needed. `cause`: why it was not loaded the last time."""

    def __init__(self, settings: Settings, worker: Sequence[str]) -> None:
        self._settings = settings
        self._worker = worker
        self._process: asyncio.subprocess.Process | None = None
        self._loading = False
        self._failed = False
        self.cause: str | None = None
        self.was_ready = False

    @property
    def state(self) -> State:
        """What is true now."""
        if self._loading:
            return "loading"
        if self._process is not None and self._process.returncode is None:
            return "ready"
        if self.folder() is None:
            return "missing"
        return "failed" if self._failed else "unloaded"

    def folder(self) -> str | None:
        """Where the model lies in the cache, None: it does not."""
        settings = self._settings
        try:
            found = try_to_load_from_cache(settings.model, "model_index.json", settings.cache, settings.revision)
        except OSError:  # a cache that may not be read
            return None
        return str(Path(found).parent) if isinstance(found, str) else None

    async def ready(self) -> None:
        """Loads it unless it is. Raises ModelError."""
        if self.state == "ready":
            return
        await self.end()
        self._loading = True
        try:
            async with asyncio.timeout(LOAD_S):
                await self._load()
        except (ModelError, OSError) as error:  # a TimeoutError is an OSError
            late = f"the model was not loaded within {LOAD_S:g} s"
            self._failed, self.cause = True, late if isinstance(error, TimeoutError) else str(error)
            await self.end()
            raise ModelError(self.cause) from error
        except asyncio.CancelledError:
            await self.end()
            raise
        finally:
            self._loading = False
        self._failed, self.cause, self.was_ready = False, None, True

    async def _load(self) -> None:
        folder = self.folder()
        if folder is None:
            raise ModelError(f"{self._settings.model} at {self._settings.revision} is not in the cache")
        self._process = await asyncio.create_subprocess_exec(
            *self._worker,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LINE_BYTES,
            env={name: value for name, value in os.environ.items() if name != TOKEN_VARIABLE},
        )
        self._tell(asdict(Source(folder, self._settings.device, self._settings.offload == "model")))
        said, _ = await self._said()
        if said["said"] != "loaded":
            raise ModelError(f"the model was not loaded: {said['cause']}")

    async def make(self, job: int, wanted: Wanted) -> AsyncGenerator[Step | Picture, None]:
        """What is done, as it is done, until all is or the job was cancelled. Raises ModelError; then the process is
        gone: after a failure on a GPU only a new one is sure to work."""
        try:
            self._tell({"job": job, "wanted": asdict(wanted)})
            while True:
                async with asyncio.timeout(STILL_S):
                    said, data = await self._said()
                match said["said"]:
                    case "step":
                        yield Step(said["step"])
                    case "picture":
                        yield Picture(data)
                    case "failed":
                        raise ModelError(f"the picture was not made: {said['cause']}")
                    case _:  # done, cancelled
                        return
        except (ModelError, TimeoutError) as error:
            await self.end()
            if isinstance(error, ModelError):
                raise
            raise ModelError(f"the model's process said nothing for {STILL_S:g} s, and was ended") from error

    def cancel(self, job: int) -> None:
        """Asks the process to leave the job at its next step."""
        self._tell({"cancel": job})

    def kill(self) -> None:
        """At once: what waits for its words sees it end."""
        if self._process is not None and self._process.returncode is None:
            # Not asyncio's kill(): that looks first whether it has ended, and then nobody learns how (3.11, 3.12).
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)

    async def end(self) -> None:
        """Ends the process, and so gives back the GPU's memory. Whoever asks for a second time waits as well."""
        process = self._process
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(END_S):
                await process.wait()
        except TimeoutError:
            self.kill()
            await process.wait()
        if self._process is process:
            self._process = None

    def _tell(self, order: dict[str, Any]) -> None:
        """One that is gone is noticed by what it does not say."""
        if self._process is not None and self._process.stdin is not None and not self._process.stdin.is_closing():
            self._process.stdin.write(json.dumps(order).encode() + b"\n")

    async def _said(self) -> tuple[dict[str, Any], bytes]:
        """Raises ModelError when the process ended or speaks otherwise."""
        process = self._process
        assert process is not None and process.stdout is not None
        try:
            line = await process.stdout.readline()
            said = json.loads(line)
            if said["bytes"] > PICTURE_BYTES:
                raise ValueError
            return said, await process.stdout.readexactly(said["bytes"])
        except (ValueError, TypeError, KeyError, asyncio.IncompleteReadError) as error:
            self.kill()
            code = await process.wait()
            how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
            raise ModelError(f"the model's process ended {how}") from error
