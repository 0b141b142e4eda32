"""What a person sees of a fetch."""

from __future__ import annotations

import pytest

from gpuhost.models.progress import COLUMNS, Lines, progress
from hostside.protocol.models import (
    DownloadPlan,
    ModelEvent,
    ModelFailure,
    ModelReady,
    ModelsDone,
    MovedAside,
    Progress,
    Retrying,
    Stalled,
)
from hostside.wire import to_json

LARGE = 3 * 10**9


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def whole(bytes_: int = 5 * 10**9, **over: float) -> Progress:
    return Progress(None, None, bytes_, 10**10, over.get("speed", 1e8), over.get("eta", 50.0))


def of(file: str, bytes_: int, total: int) -> Progress:
    return Progress("flux", file, bytes_, total, 1e7, 1.0)


@pytest.mark.parametrize(
    ("event", "shown"),
    [
        (DownloadPlan(3, 10**10, 10**12), "3 files to download, 10.0 GB; 1.0 TB are free"),
        (DownloadPlan(1, 5, 10**6), "1 file to download, 5 B; 1.0 MB are free"),
        (ModelReady("flux", "a/b.bin", "downloaded", "c", "d", LARGE, "lock"), "flux: b.bin downloaded, 3.0 GB"),
        (ModelReady("flux", "a/b.bin", "verified", "c", "d", LARGE, "lock"), "flux: b.bin verified, 3.0 GB"),
        (ModelReady("flux", "a/b.bin", "linked", "c", "d", LARGE, "lock"), None),
        (ModelReady("flux", "a/b.json", "downloaded", "c", "d", 10, "lock"), None),
        (MovedAside("flux", "/m/a", "/m/a.replaced"), "flux: /m/a was not ours and is now /m/a.replaced"),
        (Stalled("flux", "a/b.bin", 60.0, 1), "flux: b.bin stood still for 60 s"),
        (
            Retrying("flux", "b.bin", 2, 4.0, "the hub answered 503", False),
            "flux: b.bin: attempt 2 failed (the hub answered 503)",
        ),
        (ModelFailure("flux", "b.bin", "disk", "the disk is full", "free space", 1), None),  # told at the end
        (ModelsDone(3, 10**10, 10**10, 0), "3 files there, 10.0 GB downloaded"),
        (ModelsDone(3, 10**10, 10**10, 10**9), "3 files there, 10.0 GB downloaded, 1.0 GB of it from neighbours"),
    ],
)
def test_each_event_is_a_sentence(event: ModelEvent, shown: str | None) -> None:
    assert Lines(Clock())(to_json(event)) == shown


def test_what_is_no_event_is_shown_as_it_is() -> None:
    assert Lines(Clock())("a word of Python's") == "a word of Python's"


def test_how_far_the_whole_is_and_the_largest_files() -> None:
    clock = Clock()
    lines = Lines(clock)
    assert lines(to_json(of("unet/small.bin", 1, 100))) is None
    assert lines(to_json(of("unet/large.bin", 50, 200))) is None
    shown = "[#####.....]  50% of 10.0 GB, 100 MB/s, 50 s left  large.bin 25%"
    assert lines(to_json(whole())) == shown
    clock.now_s = 1.0  # the lines of an attached fetch come all at once
    assert lines(to_json(of("unet/large.bin", 60, 200))) is None and lines(to_json(whole())) is None
    clock.now_s = 5.0
    assert lines(to_json(whole())) == "[#####.....]  50% of 10.0 GB, 100 MB/s, 50 s left"


def test_a_line_fits_whatever_the_names_are() -> None:
    files = [of(f"{number}{'very-long' * 20}.safetensors", 1, 2) for number in range(20)]
    assert len(progress(whole(), files)) <= COLUMNS
    assert progress(Progress(None, None, 0, 0, 0.0, None), []) == "[##########] 100% of 0 B, 0 B/s"
    assert "left" not in progress(Progress(None, None, 0, 10, 0.0, None), [])
