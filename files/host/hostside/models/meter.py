"""How far the files are, told now and then."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from hostside.protocol.models import ModelFile, Progress

EVERY_S = 5.0
RECENT = 6  # tellings over which the speed is an average


@dataclass
class _Count:
    """Bytes that are there, of how many; and what was there at the last tellings, when."""

    total: int
    bytes: int = 0
    before: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=RECENT))

    def speed(self, now_s: float) -> float:
        """Bytes a second of late, and remembers."""
        since_s, was = self.before[0]
        self.before.append((now_s, self.bytes))
        return max(0.0, (self.bytes - was) / (now_s - since_s)) if now_s > since_s else 0.0


class Meter:
    """While it is entered: reports how far each open file and the whole is. Files count from many threads."""

    def __init__(self, report: Callable[[Progress], None], every_s: float = EVERY_S) -> None:
        self._report = report
        self._every_s = every_s
        self._open: dict[tuple[str, str], _Count] = {}
        self._all = _Count(0)
        self._lock = threading.Lock()
        self._over = threading.Event()

    def __enter__(self) -> Meter:
        self._all.before.append((time.monotonic(), 0))
        self._thread = threading.Thread(target=self._tell, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def expect(self, total: int) -> None:
        """So many bytes more are in all."""
        with self._lock:
            self._all.total += total

    def count(self, number: int) -> None:
        """So many bytes of a file that is not open came."""
        with self._lock:
            self._all.bytes += number

    def open(self, file: ModelFile) -> Callable[[int], None]:
        """A file begins; what is returned counts its bytes."""
        count = _Count(file.size)
        count.before.append((time.monotonic(), 0))
        with self._lock:
            self._open[file.model, file.file] = count

        def moved(number: int) -> None:
            with self._lock:
                count.bytes += number
                self._all.bytes += number

        return moved

    def close(self, file: ModelFile) -> None:
        """It has come to an end."""
        with self._lock:
            self._open.pop((file.model, file.file), None)

    def _tell(self) -> None:
        while not self._over.wait(self._every_s):
            now_s = time.monotonic()
            with self._lock:
                lines = [_progress(model, file, count, now_s) for (model, file), count in self._open.items()]
                lines.append(_progress(None, None, self._all, now_s))
            for line in lines:
                self._report(line)


def _progress(model: str | None, file: str | None, count: _Count, now_s: float) -> Progress:
    speed = count.speed(now_s)
    left = (count.total - count.bytes) / speed if speed else None
    return Progress(model, file, count.bytes, count.total, speed, left)
