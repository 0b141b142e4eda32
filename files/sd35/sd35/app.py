"""The HTTP API. A GET changes nothing; what changes something is a POST.

Annotations are evaluated here (no `from __future__`): FastAPI reads them, local names included.
"""

import asyncio
import base64
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from sd35 import health, metrics
from sd35.bodies import SEED_MAX, Generate, Images, model_id
from sd35.gate import Gate
from sd35.gpu import Gpu, GpuMemory
from sd35.jobs import Job, Jobs, Status
from sd35.model import Model, State
from sd35.refusals import Refusal
from sd35.settings import Settings

# What clients may do about a job that failed; anything else is our fault (500).
STATUS_OF_FAILURE = {"cancelled": 409, "stopping": 503, "model_failed": 503, "not_written": 507}


class Health(BaseModel):
    status: health.Status
    model: str
    model_state: State
    cause: str | None
    gpu_available: bool
    gpu_memory: GpuMemory | None
    jobs_waiting: int


class Accepted(BaseModel):
    job_id: str
    status: Status


class Failure(BaseModel):
    code: str
    message: str


class JobState(Accepted):
    """`position`: how many are made before it; `step` of `steps`: of all its pictures; `images`: their paths."""

    position: int | None
    step: int
    steps: int
    seed: int
    images: list[str]
    error: Failure | None


class Unloaded(BaseModel):
    """The GPU's memory before and after, as measured: what other containers do meanwhile is in it, too."""

    model_state: State
    gpu_memory_before: GpuMemory | None
    gpu_memory: GpuMemory | None


class Server:
    """The application, and how it is told to stop."""

    def __init__(self, settings: Settings, worker: Sequence[str], read_gpu: Callable[[], GpuMemory | None]) -> None:
        self._settings = settings
        self._gpu = Gpu(read_gpu)
        self._metrics = metrics.Metrics()
        self._model = Model(settings, worker)
        self._jobs: Jobs | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.app: ASGIApp = Gate(self._application(), settings.token)

    @property
    def jobs(self) -> Jobs:
        """Of the running server."""
        assert self._jobs is not None
        return self._jobs

    def stop(self) -> None:
        """From a signal's handler: what waits is given up, so that connections which wait for it end."""
        if self._loop is not None and self._jobs is not None:
            self._loop.call_soon_threadsafe(self._jobs.stop)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        self._loop = asyncio.get_running_loop()
        self._jobs = Jobs(self._settings, self._model, self._metrics)
        work = asyncio.create_task(self._jobs.run())
        try:
            yield
        finally:
            await self._jobs.close()
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work

    def _application(self) -> FastAPI:
        # No /docs and no /openapi.json: nobody needs them here.
        app = FastAPI(title="gpuhost sd35", openapi_url=None, lifespan=self._lifespan, redirect_slashes=False)
        for kind, answer in (
            (Refusal, _refused),
            (HTTPException, _http_error),
            (RequestValidationError, _invalid),
            (Exception, _broken),
        ):
            app.add_exception_handler(kind, answer)
        app.get("/health")(self.health)
        app.post("/generate")(self.generate)
        app.get("/status/{job_id}")(self.status)
        app.post("/cancel/{job_id}")(self.cancel)
        app.post("/unload")(self.unload)
        app.get("/metrics")(self.read_metrics)
        app.get("/v1/models")(self.models)
        app.post("/v1/images/generations", response_model=None)(self.images)
        return app

    async def health(self, response: Response) -> Health:
        gpu = await self._gpu.memory()
        state = self._model.state
        settings = self._settings
        said = health.status(
            state, self._model.was_ready, settings.load, settings.device, gpu is not None, self.jobs.stopping
        )
        response.status_code = 200 if said == "ok" else 503
        return Health(
            status=said,
            model=settings.model,
            model_state=state,
            cause=self._model.cause,
            gpu_available=gpu is not None,
            gpu_memory=gpu,
            jobs_waiting=self.jobs.waiting,
        )

    async def generate(self, body: Generate) -> Accepted:
        job = self.jobs.add(body.wanted(self._settings.limits, _random_seed), keeps=True)
        return Accepted(job_id=job.id, status=job.status)

    async def status(self, job_id: str) -> JobState:
        return self._state(self.jobs.find(job_id))

    async def cancel(self, job_id: str) -> JobState:
        job = self.jobs.find(job_id)
        if job.status in ("completed", "failed"):
            raise Refusal(409, "job_ended", f"the job is {job.status} already")
        await self.jobs.cancel(job)
        return self._state(job)

    def _state(self, job: Job) -> JobState:
        return JobState(
            job_id=job.id,
            status=job.status,
            position=self.jobs.position(job),
            step=job.step,
            steps=job.steps,
            seed=job.wanted.seed,
            images=job.paths,
            error=Failure(code=job.failure[0], message=job.failure[1]) if job.failure else None,
        )

    async def unload(self) -> Unloaded:
        before = await self._gpu.memory(fresh_s=0)
        await self.jobs.unload()
        after = await self._gpu.memory(fresh_s=0)
        return Unloaded(model_state=self._model.state, gpu_memory_before=before, gpu_memory=after)

    async def read_metrics(self) -> Response:
        text = self._metrics.render(self.jobs.waiting, self._model.state == "ready", await self._gpu.memory())
        return Response(text, media_type=metrics.CONTENT_TYPE)

    async def models(self) -> dict[str, Any]:
        owner = self._settings.model.partition("/")[0]
        model = {"id": model_id(self._settings.model), "object": "model", "created": 0, "owned_by": owner}
        return {"object": "list", "data": [model]}

    async def images(self, body: Images, request: Request) -> dict[str, Any]:
        wanted = body.wanted(self._settings.limits, _random_seed, self._settings.model)
        job = self.jobs.add(wanted, keeps=False)
        if not await _ended_before_client(job, request):
            await self.jobs.cancel(job)
        if job.failure:
            code, message = job.failure
            raise Refusal(STATUS_OF_FAILURE.get(code, 500), code, message)
        pictures, job.pictures = job.pictures, []
        return {
            "created": int(time.time()),
            "size": f"{wanted.width}x{wanted.height}",
            "output_format": "png",
            "seed": wanted.seed,
            "data": [{"b64_json": base64.b64encode(picture).decode()} for picture in pictures],
        }


async def _ended_before_client(job: Job, request: Request) -> bool:
    """False when the client went first: then nobody waits for the pictures."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    ended, left = asyncio.create_task(job.ended.wait()), asyncio.create_task(gone())
    await asyncio.wait({ended, left}, return_when=asyncio.FIRST_COMPLETED)
    left.cancel()
    ended.cancel()
    return job.ended.is_set()


def _random_seed() -> int:
    return secrets.randbelow(SEED_MAX + 1)


async def _refused(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refusal)
    return error.response()


async def _http_error(_: Request, error: Exception) -> JSONResponse:
    """No such path, not this method, no JSON."""
    assert isinstance(error, HTTPException)
    codes = {404: "not_found", 405: "method_not_allowed"}
    code = codes.get(error.status_code, "invalid_request")
    return Refusal(error.status_code, code, str(error.detail), headers=error.headers).response()


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    """The first thing that is wrong; what was sent is not repeated."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    param = ".".join(str(part) for part in first["loc"][1:])
    if first["type"] == "json_invalid" or not param:
        return Refusal(
            400, "invalid_request", "the body is no JSON object, or is not said to be `application/json`"
        ).response()
    # The names of fields that a body may hold are short; one that it may not hold can be anything.
    param = "".join(filter(str.isprintable, param))[:100]
    code = {"missing": "missing_required_parameter", "extra_forbidden": "unknown_parameter"}
    return Refusal(400, code.get(first["type"], "invalid_type"), f"`{param}`: {first['msg']}", param).response()


async def _broken(_: Request, __: Exception) -> JSONResponse:
    """A fault of ours: uvicorn writes the traceback to the log."""
    return Refusal(500, "internal_error", "the server has a fault; its log says more").response()
