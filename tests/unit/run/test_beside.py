"""What runs beside the hosts of a run."""

from __future__ import annotations

import os
from functools import partial

import gevent  # type: ignore[import-untyped]
import pytest

from gpuhost.run.beside import beside


def test_it_runs_while_others_go_on_and_its_answer_is_waited_for() -> None:
    here, there = os.pipe()  # whose reader blocks its thread
    try:
        wait = beside(partial(os.read, here, 1))
        others = gevent.spawn(os.write, there, b"x")
        assert wait() == b"x" and others.get() == 1
    finally:
        os.close(here)
        os.close(there)


def test_what_it_raises_reaches_who_waits() -> None:
    def fails() -> None:
        raise LookupError("not there")

    wait = beside(fails)
    with pytest.raises(LookupError, match="not there"):
        wait()
