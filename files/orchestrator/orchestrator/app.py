"""The HTTP API. Reading only: every route is a GET and none changes anything.

Annotations are evaluated here (no `from __future__`): FastAPI reads them, local names included.
"""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel

from orchestrator import metrics
from orchestrator.docker_api import DockerApi, DockerUnavailable
from orchestrator.services import SERVICE_LABEL, Service, by_name


class Services(BaseModel):
    services: list[Service]


def create_app(token: str, docker_socket: str) -> FastAPI:
    """The application for one token and one Docker socket."""
    docker = DockerApi(docker_socket)
    expected = token.encode()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await docker.aclose()

    # No /docs and no /openapi.json: they would answer without the token.
    app = FastAPI(title="gpuhost orchestrator", openapi_url=None, lifespan=lifespan)

    def authorised(
        given: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))],
    ) -> None:
        if given is None or not secrets.compare_digest(given.credentials.encode(), expected):
            raise HTTPException(401, "a valid bearer token is needed", {"WWW-Authenticate": "Bearer"})

    async def read_services() -> dict[str, Service]:
        return by_name(await docker.labelled(SERVICE_LABEL))

    # A dependency in the decorator is solved before those in the signature: nobody without the token
    # makes us ask Docker.
    locked = [Depends(authorised)]
    Observed = Annotated[dict[str, Service], Depends(read_services)]

    @app.exception_handler(DockerUnavailable)
    async def docker_unavailable(_: Request, error: DockerUnavailable) -> JSONResponse:
        return JSONResponse({"status": "unavailable", "cause": str(error)}, 503)

    @app.get("/health")
    async def health() -> dict[str, str]:
        await docker.ping()
        return {"status": "ok"}

    @app.get("/services", dependencies=locked)
    async def list_services(observed: Observed) -> Services:
        return Services(services=list(observed.values()))

    @app.get("/services/{name}", dependencies=locked)
    async def one_service(name: str, observed: Observed) -> Service:
        if name not in observed:
            raise HTTPException(404, f"no container carries the label {SERVICE_LABEL}={name}")
        return observed[name]

    @app.get("/metrics", dependencies=locked)
    async def read_metrics() -> Response:
        # A scrape during an outage of Docker is a measurement, not an error.
        try:
            services = list((await read_services()).values())
        except DockerUnavailable:
            services = None
        return Response(metrics.render(services), media_type=metrics.CONTENT_TYPE)

    return app
