"""How many connections we hold, and for how long. uvicorn limits neither those that say nothing nor their lives."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

CONNECTIONS = 64
LIFE_S = 15.0  # one that is in the middle of a request then ends with its answer


class LimitedProtocol(H11Protocol):
    """A connection that is closed at once when there are too many, and after LIFE_S when nothing is being answered."""

    _end_of_life: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count it, or close it."""
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            transport.abort()
            return
        self._end_of_life = self.loop.call_later(LIFE_S, self.shutdown)

    def connection_lost(self, exc: Exception | None) -> None:
        """It went."""
        if self._end_of_life:
            self._end_of_life.cancel()
        super().connection_lost(exc)
