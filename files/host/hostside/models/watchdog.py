"""Notices a download that has stopped moving. hf_xet is known to hang for ever inside native code, where no
exception and no timeout of Python's reaches it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from huggingface_hub import constants
from huggingface_hub.utils.tqdm import tqdm

PROGRESS_EVERY_S = 10.0

# huggingface_hub counts plain HTTP in chunks of 10 MiB: a line of 80 kB/s would seem to stand still.
constants.DOWNLOAD_CHUNK_SIZE = 2**20


class Meter(tqdm):
    """huggingface_hub's progress bar, which shows nothing and counts.

    `written` counts bytes of files, `moved` whatever moved: xet receives long before it writes.
    """

    written = 0
    moved = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]

    def update(self, n: float | None = 1) -> None:
        Meter.written += int(n or 0)
        Meter.moved += abs(int(n or 0))

    # With these two, huggingface_hub reports what xet receives to this bar, not to a second one.
    def update_transfer(self, n: float) -> None:
        Meter.moved += abs(int(n))

    def set_transfer_postfix_str(self, *args: Any, **kwargs: Any) -> None:
        pass


class Watchdog:
    """While it is entered: calls `on_progress(bytes)` now and then, and `on_stall()` after `stall_s` without a byte."""

    def __init__(self, stall_s: float, on_progress: Callable[[int], None], on_stall: Callable[[], None]) -> None:
        self._stall_s = stall_s
        self._on_progress = on_progress
        self._on_stall = on_stall
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self._written_before = Meter.written
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        moved, moved_at_s = Meter.moved, time.monotonic()
        reported_at_s = moved_at_s
        while not self._done.wait(min(1.0, self._stall_s / 4)):
            now_s = time.monotonic()
            if Meter.moved != moved:
                moved, moved_at_s = Meter.moved, now_s
            if now_s - moved_at_s >= self._stall_s:
                self._on_stall()
                return
            if now_s - reported_at_s >= PROGRESS_EVERY_S:
                reported_at_s = now_s
                self._on_progress(Meter.written - self._written_before)
