"""The events of a fetch as lines for a person: how far it is every few seconds, what went wrong at once. Pure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePosixPath

from gpuhost.plan.sizes import about, size
from hostside.protocol.models import (
    DownloadPlan,
    ModelReady,
    ModelsDone,
    MovedAside,
    Progress,
    Retrying,
    Stalled,
    model_event,
)
from hostside.wire import WireError

EVERY_S = 4.0  # the lines of a fetch that went on alone come all at once
COLUMNS = 72  # pyinfra puts the host's name before it
BAR = 10
LARGE_BYTES = 64 * 2**20  # the end of a smaller file is no news


class Lines:
    """What is shown of each line of hostside.models; None: nothing. `clock`: seconds. `done`: what its end said;
    `not_given`: why a neighbour gave nothing, the first one that did not."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._told_s: float | None = None
        self._files: list[Progress] = []
        self.done: ModelsDone | None = None
        self.not_given = ""

    def __call__(self, line: str) -> str | None:
        """A line that is no event is shown as it is."""
        try:
            event = model_event(line)
        except WireError:
            return line
        if isinstance(event, ModelsDone):
            self.done = event
        if isinstance(event, Retrying) and event.peer:
            self.not_given = self.not_given or event.cause
        if not isinstance(event, Progress):
            return sentence(event)
        if event.file is not None:
            self._files.append(event)
            return None
        files, self._files = self._files, []
        if self._told_s is not None and self._clock() - self._told_s < EVERY_S:
            return None
        self._told_s = self._clock()
        return progress(event, files)


def sentence(event: object) -> str | None:
    """An event that is no progress."""
    match event:
        case DownloadPlan():
            free = f"{size(event.free_bytes)} are free"
            return f"{count(event.files)} to download, {size(event.download_bytes)}; {free}"
        case ModelReady(state="downloaded" | "verified") if event.bytes >= LARGE_BYTES:
            return f"{event.model}: {_short(event.file)} {event.state}, {size(event.bytes)}"
        case MovedAside():
            return f"{event.model}: {event.moved_from} was not ours and is now {event.moved_to}"
        case Stalled():
            return f"{event.model}: {_short(event.file)} stood still for {event.stall_s:g} s"
        case Retrying():
            return f"{event.model}: {_short(event.file)}: attempt {event.attempt} failed ({event.cause})"
        case ModelsDone():
            given = f", {size(event.peer_bytes)} of it from neighbours" if event.peer_bytes else ""
            return f"{count(event.files)} there, {size(event.downloaded_bytes)} downloaded{given}"
    return None  # a failure is told at the end, with its hint


def progress(whole: Progress, files: list[Progress]) -> str:
    """One line: the whole, then as many of the open files as it has room for."""
    part = whole.bytes / whole.total_bytes if whole.total_bytes else 1.0
    bar = "#" * int(part * BAR)
    line = f"[{bar:.<{BAR}}] {part:4.0%} of {size(whole.total_bytes)}, {size(round(whole.bytes_per_s))}/s"
    if whole.eta_s is not None:
        line += f", {about(whole.eta_s)} left"
    for file in sorted(files, key=lambda file: -file.total_bytes):
        more = f"  {_short(str(file.file))} {file.bytes / max(1, file.total_bytes):.0%}"
        if len(line) + len(more) <= COLUMNS:
            line += more
    return line


def count(files: int) -> str:
    """So many files."""
    return "1 file" if files == 1 else f"{files} files"


def _short(file: str) -> str:
    name = PurePosixPath(file).name
    return name if len(name) <= 28 else f"{name[:13]}...{name[-12:]}"
