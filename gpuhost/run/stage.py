"""A stage: one file in `tasks/`, one call in deploy.py."""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial

from gpuhost.run import ahead
from gpuhost.run.host_run import HostRun
from gpuhost.run.session import at, only

STAGES: set[str] = set()  # the names of all, once tasks/ is imported
Work = Callable[[HostRun], None]
_asking: list[tuple[Stage, Work]] = []


class Stage:
    """A stage, or a part of one that has a call of its own: it does nothing on a host that preflight refused, nor when
    `--data gpuhost_only=...` does not name it."""

    def __init__(self, name: str, on_request: bool, work: Work) -> None:
        self._name, self._on_request, self._work = name, on_request, work
        functools.update_wrapper(self, work)

    def __call__(self, run: HostRun | None) -> None:
        if run is not None and self.is_asked_for:
            at(self._name)
            self._work(run)

    @property
    def is_asked_for(self) -> bool:
        """Whether this run has it."""
        asked = only()
        return not self._on_request if asked is None else self._name in asked

    def asks(self, asks: Work) -> Work:
        """Mark a function that asks the host what this stage asks it to plan, and does nothing else."""
        _asking.append((self, asks))
        return asks


def stage(name: str, on_request: bool = False) -> Callable[[Work], Stage]:
    """Mark a function as a stage. `on_request`: it does something only when `--data gpuhost_only=...` names it."""
    STAGES.add(name)
    return partial(Stage, name, on_request)


def read_ahead(run: HostRun | None) -> None:
    """In a plan: what the stages of this run ask the host, in one round trip."""
    if run is not None:
        ahead.together(*(partial(asks, run) for stage, asks in _asking if stage.is_asked_for))
