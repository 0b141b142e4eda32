"""Looks at services: what `gpuhost status` and `gpuhost logs` ask for."""

from __future__ import annotations

from gpuhost.run.host_run import HostRun
from gpuhost.run.session import asked_logs
from gpuhost.run.stage import stage
from gpuhost.services import looks
from gpuhost.services.logs import Asked


@stage("status", on_request=True)
def status(run: HostRun) -> None:
    """What every service does now."""
    looks.reported(name="services | status", run=run)


@stage("logs", on_request=True)
def logs(run: HostRun) -> None:
    """The log of one service."""
    looks.logged(name="services | log", run=run, asked=Asked.of(asked_logs()))
