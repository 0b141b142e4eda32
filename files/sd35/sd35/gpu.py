"""The GPU's memory as NVML measures it: by it one sees whether memory was given back. The model's process need not
live for it, and no CUDA context is made."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from pydantic import BaseModel

FRESH_S = 1.0
TIMEOUT_S = 3.0  # a driver that hangs is reported as no GPU


class GpuMemory(BaseModel):
    """Of the one GPU that the container was given; what other containers take counts as used."""

    total_mib: int
    used_mib: int
    free_mib: int


def read_nvml() -> GpuMemory | None:
    """None where no GPU is seen, also after the container has lost it."""
    import pynvml

    try:
        pynvml.nvmlInit()
        try:
            memory = pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0))
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return None
    total, used, free = (int(each) >> 20 for each in (memory.total, memory.used, memory.free))
    return GpuMemory(total_mib=total, used_mib=used, free_mib=free)


class Gpu:
    """Asked by many, read at most once in FRESH_S, and off the event loop. Used from one event loop."""

    def __init__(self, read: Callable[[], GpuMemory | None]) -> None:
        self._read = read
        self._asked_at = 0.0
        self._answer: asyncio.Task[GpuMemory | None] | None = None

    async def memory(self, fresh_s: float = FRESH_S) -> GpuMemory | None:
        """None: no GPU is seen, or the driver does not answer."""
        # One that hangs is not asked again: each question would hold a thread.
        if self._answer is None or (self._answer.done() and time.monotonic() - self._asked_at >= fresh_s):
            self._asked_at = time.monotonic()
            self._answer = asyncio.create_task(asyncio.to_thread(self._read))
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await asyncio.shield(self._answer)
        except TimeoutError:
            return None
