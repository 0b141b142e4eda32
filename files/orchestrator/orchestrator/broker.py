"""The three questions we ask the broker on the host. Docker itself is out of our reach: its socket is root there.

The broker (hostside/broker.py of gpuhost) takes one question a connection, a line, and answers with a line of JSON.
Asynchronous from end to end, so that a Docker which is slow to answer never holds up a second client.
"""

from __future__ import annotations

import asyncio
import time
from typing import Literal

from pydantic import BaseModel, ValidationError

from orchestrator.services import Service

# Below the container's 5 s health timeout, so that a hung Docker is reported and not only timed out.
READ_S = 4.0
ACT_S = 130.0  # longer than the broker waits for a container that takes its time to stop
ANSWER_BYTES = 2**20
FRESH_S = 1.0  # for so long an answer is given again: whoever asks often does not make us ask often


class Unavailable(Exception):
    """The broker, or Docker behind it, does not answer. `str()` is one sentence that says what happened."""


class Refused(Exception):
    """The broker or Docker does not do it. `str()` is their sentence."""


class _Answer(BaseModel):
    services: list[Service]
    refused: str | None
    unavailable: str | None


class Broker:
    """A client for the broker's socket. Used from one event loop."""

    def __init__(self, socket_path: str, read_s: float = READ_S) -> None:
        self._socket_path = socket_path
        self._read_s = read_s
        self._asked_at = 0.0
        self._list: asyncio.Task[list[Service]] | None = None

    async def services(self) -> list[Service]:
        """Every container of ours, running or not, at most FRESH_S old. Raises `Unavailable`.

        However many ask at a time, the broker is asked once; a failure is told again like an answer.
        """
        if self._list is None or (self._list.done() and time.monotonic() - self._asked_at > FRESH_S):
            self._asked_at = time.monotonic()
            self._list = asyncio.create_task(self._ask("list", self._read_s))
        return await asyncio.shield(self._list)  # the first who asked may go without taking it from the others

    async def act(self, action: Literal["start", "stop"], name: str) -> Service:
        """The service after the action. Raises `Refused` or `Unavailable`."""
        try:
            [service] = await self._ask(f"{action} {name}", ACT_S)
        finally:
            self._list = None  # what was read before is no longer true
        return service

    async def _ask(self, question: str, timeout_s: float) -> list[Service]:
        try:
            async with asyncio.timeout(timeout_s):
                line = await self._line(question)
        except TimeoutError as error:
            raise Unavailable(f"{self._socket_path} did not answer within {timeout_s:g} s") from error
        except (OSError, ValueError) as error:
            raise Unavailable(f"{self._socket_path} does not answer: {error}") from error
        try:
            answer = _Answer.model_validate_json(line)
        except ValidationError as error:
            raise Unavailable(f"{self._socket_path} answers with what is not an answer") from error
        if answer.unavailable is not None:
            raise Unavailable(answer.unavailable)
        if answer.refused is not None:
            raise Refused(answer.refused)
        return answer.services

    async def _line(self, question: str) -> bytes:
        reader, writer = await asyncio.open_unix_connection(self._socket_path, limit=ANSWER_BYTES)
        try:
            writer.write(f"{question}\n".encode())
            await writer.drain()
            return await reader.readline()
        finally:
            writer.close()
