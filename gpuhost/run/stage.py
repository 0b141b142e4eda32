"""A stage: one file in `tasks/`, one call in deploy.py."""

from __future__ import annotations

import functools
from collections.abc import Callable

from gpuhost.run.host_run import HostRun
from gpuhost.run.session import at, only

STAGES: set[str] = set()  # the names of all, once tasks/ is imported


def stage(
    name: str, on_request: bool = False
) -> Callable[[Callable[[HostRun], None]], Callable[[HostRun | None], None]]:
    """Mark a function as a stage: it does nothing on a host that preflight refused, nor when `--data gpuhost_only=...`
    does not name it. `on_request`: it does something only when that names it."""

    STAGES.add(name)

    def decorate(function: Callable[[HostRun], None]) -> Callable[[HostRun | None], None]:
        @functools.wraps(function)
        def staged(run: HostRun | None) -> None:
            asked = only()
            if run is not None and (not on_request if asked is None else name in asked):
                at(name)
                function(run)

        return staged

    return decorate
