"""The three questions we ask the Docker Engine API, over its unix socket.

Asynchronous from end to end, so that a Docker which is slow to answer never holds up `/health` or a
second client. Paths carry no API version: every engine then answers in its own, and the fields read
here have been the same since 1.24. (A pinned version is refused by the next engine that drops it.)
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx

# Below the container's 5 s health timeout, so that a hung Docker is reported and not only timed out.
TIMEOUT_S = 4.0


class DockerUnavailable(Exception):
    """Docker did not answer, or not with success. `str()` is one sentence that says what happened."""


class DockerApi:
    """A client for one Docker socket. Close it with `aclose()`."""

    def __init__(self, socket_path: str, timeout_s: float = TIMEOUT_S) -> None:
        self._socket_path = socket_path
        self._timeout_s = timeout_s
        # No connection is kept: one that Docker's restart has closed would fail the next request.
        transport = httpx.AsyncHTTPTransport(uds=socket_path, limits=httpx.Limits(max_keepalive_connections=0))
        self._client = httpx.AsyncClient(transport=transport, base_url="http://docker", timeout=timeout_s)

    async def aclose(self) -> None:
        await self._client.aclose()

    async def ping(self) -> None:
        """Returns when Docker answers. Raises `DockerUnavailable`."""
        await self._get("/_ping")

    async def labelled(self, label: str) -> list[dict[str, Any]]:
        """`docker inspect` of every container, running or not, that carries `label`."""
        found = (await self._get("/containers/json", all="1", filters=json.dumps({"label": [label]}))).json()
        inspected = await asyncio.gather(*(self._inspect(container["Id"]) for container in found))
        return [container for container in inspected if container is not None]

    async def _inspect(self, container_id: str) -> dict[str, Any] | None:
        """None when the container was removed after it was listed."""
        response = await self._request(f"/containers/{container_id}/json")
        if response.status_code == 404:
            return None
        return dict(self._checked(response).json())

    async def _get(self, path: str, **params: str) -> httpx.Response:
        return self._checked(await self._request(path, **params))

    async def _request(self, path: str, **params: str) -> httpx.Response:
        try:
            # httpx times each read; a Docker that drips bytes would pass every one of them.
            async with asyncio.timeout(self._timeout_s):
                return await self._client.get(path, params=params)
        except (TimeoutError, httpx.TimeoutException) as error:
            message = f"Docker did not answer on {self._socket_path} within {self._timeout_s:g} s"
            raise DockerUnavailable(message) from error
        except httpx.HTTPError as error:
            cause = str(error) or type(error).__name__
            raise DockerUnavailable(f"Docker does not answer on {self._socket_path}: {cause}") from error

    def _checked(self, response: httpx.Response) -> httpx.Response:
        if response.is_success:
            return response
        raise DockerUnavailable(f"Docker answered {response.status_code} to {response.request.url.path}")
