"""The HTTP API. A GET changes nothing; what changes something is a POST.

Annotations are evaluated here (no `from __future__`): FastAPI reads them, local names included.
"""

import secrets
from typing import Annotated, Literal

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel

from orchestrator import metrics
from orchestrator.broker import Broker, Refused, Unavailable
from orchestrator.services import Service, by_name


class Services(BaseModel):
    services: list[Service]


def create_app(token: str, broker_socket: str) -> FastAPI:
    """The application for one token and one broker's socket."""
    broker = Broker(broker_socket)
    expected = token.encode()

    # No /docs and no /openapi.json: they would answer without the token.
    app = FastAPI(openapi_url=None)

    def authorised(
        given: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))],
    ) -> None:
        if given is None or not secrets.compare_digest(given.credentials.encode(), expected):
            raise HTTPException(401, "a valid bearer token is needed", {"WWW-Authenticate": "Bearer"})

    async def read_services() -> dict[str, Service]:
        return by_name(await broker.services())

    # A dependency in the decorator is solved before those in the signature: nobody without the token
    # makes us ask the broker.
    locked = [Depends(authorised)]
    Observed = Annotated[dict[str, Service], Depends(read_services)]

    @app.exception_handler(Unavailable)
    async def unavailable(_: Request, error: Unavailable) -> JSONResponse:
        return JSONResponse({"status": "unavailable", "cause": str(error)}, 503)

    @app.get("/health")
    async def health() -> dict[str, str]:
        await broker.services()  # Docker's own answer, and the way to it
        return {"status": "ok"}

    @app.get("/services", dependencies=locked)
    async def list_services(observed: Observed) -> Services:
        return Services(services=list(observed.values()))

    @app.get("/services/{name}", dependencies=locked)
    async def one_service(name: str, observed: Observed) -> Service:
        if name not in observed:
            raise HTTPException(404, f"there is no service {name}")
        return observed[name]

    @app.post("/services/{name}/{action}", dependencies=locked)
    async def act(name: str, action: Literal["start", "stop"], observed: Observed) -> Service:
        await one_service(name, observed)
        try:
            return await broker.act(action, name)
        except Refused as error:
            raise HTTPException(409, str(error)) from error

    @app.get("/metrics", dependencies=locked)
    async def read_metrics() -> Response:
        # A scrape during an outage of Docker is a measurement, not an error.
        try:
            services = list((await read_services()).values())
        except Unavailable:
            services = None
        return Response(metrics.render(services), media_type=metrics.CONTENT_TYPE)

    return app
