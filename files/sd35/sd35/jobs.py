"""Jobs: a queue with an end, one job at a time, and what became of the last ones. Used from one event loop."""

from __future__ import annotations

import asyncio
import math
import secrets
import time
import traceback
from collections import deque
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Literal

from sd35 import outputs
from sd35.metrics import Metrics
from sd35.model import Model, ModelError, Picture, Step
from sd35.refusals import Refusal
from sd35.settings import Settings
from sd35.wanted import Wanted

CANCEL_S = 5.0  # then a job that was cancelled ends with its process
FINISH_S = 15.0  # so long the running job may go on after SIGTERM; with the others within the container's stop timeout
FIRST_GUESS_S = 30.0  # of a job, before one was made
RETRY_AFTER_MAX_S = 3600

Status = Literal["pending", "processing", "completed", "failed"]


@dataclass(eq=False)
class Job:
    """One request for pictures. `keeps`: they become files; else they stay with the job until somebody takes them.
    `failure`: (code, sentence)."""

    number: int
    id: str
    wanted: Wanted
    keeps: bool
    status: Status = "pending"
    step: int = 0
    cancelled: bool = False
    failure: tuple[str, str] | None = None
    paths: list[str] = field(default_factory=list)
    pictures: list[bytes] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def steps(self) -> int:
        """Of all its pictures."""
        return self.wanted.steps * self.wanted.count


class Jobs:
    """All jobs of one server."""

    def __init__(self, settings: Settings, model: Model, metrics: Metrics) -> None:
        self._settings = settings
        self._model = model
        self._metrics = metrics
        self._jobs: dict[str, Job] = {}
        self._waiting: deque[Job] = deque()
        self._done: deque[Job] = deque()
        self._running: Job | None = None
        self._something = asyncio.Event()
        self._model_in_use = asyncio.Lock()
        self._numbers = 0
        self._job_s = FIRST_GUESS_S
        self._stopping: asyncio.Task[None] | None = None

    # -- what clients ask --------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @property
    def stopping(self) -> bool:
        """No job is taken any more."""
        return self._stopping is not None

    def add(self, wanted: Wanted, keeps: bool) -> Job:
        """A new job at the end of the queue. Raises `Refusal`."""
        if self.stopping:
            raise Refusal(503, "stopping", "the server is stopping")
        if self._model.state == "missing":
            model = f"{self._settings.model} at {self._settings.revision}"
            raise Refusal(503, "model_missing", f"the model {model} is not in the cache")
        if self.waiting >= self._settings.limits.queue:
            after_s = min(RETRY_AFTER_MAX_S, max(1, math.ceil(self._job_s)))
            message = f"{self.waiting} jobs wait already; try again in {after_s} s"
            raise Refusal(429, "queue_full", message, headers={"Retry-After": str(after_s)})
        self._numbers += 1
        job = Job(self._numbers, secrets.token_hex(16), wanted, keeps)
        self._jobs[job.id] = job
        self._waiting.append(job)
        self._something.set()
        return job

    def find(self, job_id: str) -> Job:
        """Raises `Refusal`."""
        if job_id not in self._jobs:
            raise Refusal(404, "job_not_found", "there is no such job, or it ended too long ago")
        return self._jobs[job_id]

    def position(self, job: Job) -> int | None:
        """How many are made before it; None when it does not wait."""
        if job.status != "pending":
            return None
        return self._waiting.index(job) + (self._running is not None)

    async def cancel(self, job: Job) -> None:
        """Returns when it has ended, which is soon."""
        if job.status == "pending":
            self._waiting.remove(job)
            self._end(job, "cancelled", "it was cancelled")
        if job.status != "processing":
            return
        job.cancelled = True
        self._model.cancel(job.number)
        try:
            async with asyncio.timeout(CANCEL_S):
                await job.ended.wait()
        except TimeoutError:
            self._model.kill()
            await job.ended.wait()

    async def unload(self) -> None:
        """Ends the model's process. Raises `Refusal` while it is needed."""
        if self._running or self._waiting or self._model_in_use.locked():
            raise Refusal(409, "busy", "jobs wait or run; cancel them first")
        async with self._model_in_use:
            await self._model.end()

    # -- the work ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """For ever, or until it is cancelled."""
        if self._settings.load == "start":
            async with self._model_in_use:
                await self._load()
        while True:
            await self._something.wait()
            self._something.clear()
            while self._waiting:
                async with self._model_in_use:
                    if await self._load() and self._waiting:
                        await self._perform(self._waiting.popleft())

    async def _load(self) -> bool:
        """Whether the model is ready. When it is not, every job that waits fails: the next one tries again."""
        began = time.monotonic()
        was_ready = self._model.state == "ready"
        try:
            await self._model.ready()
        except ModelError as error:
            self._metrics.load_failures.inc()
            while self._waiting:
                self._end(self._waiting.popleft(), "model_failed", str(error))
            return False
        if not was_ready:
            self._metrics.load_seconds.set(time.monotonic() - began)
        return True

    async def _perform(self, job: Job) -> None:
        self._running, job.status = job, "processing"
        began = time.monotonic()
        try:
            async with aclosing(self._model.make(job.number, job.wanted)) as events:
                await self._follow(job, events)
            if len(job.pictures) < job.wanted.count:
                self._end(job, "cancelled", "it was cancelled")
                return
            if job.keeps:
                await self._write(job)
            self._job_s = time.monotonic() - began
            self._metrics.job_seconds.observe(self._job_s)
            self._end(job)
        except ModelError as error:
            if job.cancelled:
                self._end(job, "cancelled", "it was cancelled")
            else:
                self._end(job, "generation_failed", str(error))
        except OSError as error:  # of the files; those of the model are ModelErrors
            self._end(job, "not_written", f"the pictures could not be written: {error.strerror}")
        except Exception:
            # A fault of ours: the others' jobs go on, with a new process.
            traceback.print_exc()
            self._model.kill()
            await self._model.end()  # until it is gone it would be taken for one that is ready
            self._end(job, "internal_error", "the server has a fault; its log says more")
        finally:
            self._running = None

    async def _follow(self, job: Job, events: AsyncIterator[Step | Picture]) -> None:
        async for event in events:
            match event:
                case Step(done):
                    job.step = done
                case Picture(png):
                    job.pictures.append(png)

    async def _write(self, job: Job) -> None:
        stem = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{job.id}"
        job.paths = await asyncio.to_thread(outputs.write, self._settings.outputs, stem, job.pictures)
        job.pictures = []

    def _end(self, job: Job, code: str | None = None, sentence: str = "") -> None:
        job.status = "completed" if code is None else "failed"
        if code is not None:
            job.failure = (code, sentence)
            job.pictures = []
        self._metrics.jobs.labels(code or "completed").inc()
        job.ended.set()
        self._done.append(job)
        while len(self._done) > self._settings.limits.history:
            del self._jobs[self._done.popleft().id]

    # -- the end -----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Takes no more jobs, gives up those that wait, and lets the running one finish if it does so soon."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop())

    async def _stop(self) -> None:
        while self._waiting:
            self._end(self._waiting.popleft(), "stopping", "the server is stopping")
        if self._running:
            job = self._running
            try:
                async with asyncio.timeout(FINISH_S):
                    await job.ended.wait()
            except TimeoutError:
                await self.cancel(job)

    async def close(self) -> None:
        """After it, no process is left."""
        self.stop()
        assert self._stopping is not None
        await self._stopping
        self._model.kill()
        await self._model.end()
