"""A stage: one file in `tasks/`, one call in deploy.py."""

from __future__ import annotations

import functools
from collections.abc import Callable

from pyinfra.context import host

from .run import HostRun
from .session import ONLY_DATA


def stage(name: str) -> Callable[[Callable[[HostRun], None]], Callable[[HostRun | None], None]]:
    """Mark a function as a stage: it does nothing on a host that preflight refused, nor when `--data gpuhost_only=...`
    names another stage."""

    def decorate(function: Callable[[HostRun], None]) -> Callable[[HostRun | None], None]:
        @functools.wraps(function)
        def staged(run: HostRun | None) -> None:
            if run is not None and host.data.get(ONLY_DATA, name) == name:
                function(run)

        return staged

    return decorate
