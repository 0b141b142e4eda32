"""Secrets that nobody gave are generated on the control side, once."""

from __future__ import annotations

from gpuhost.operations import secrets as operations
from gpuhost.run import HostRun
from gpuhost.stage import stage


@stage("secrets")
def secrets(run: HostRun) -> None:
    """Every secret that this host's services need exists."""
    operations.generated(name="secrets | generated", store=run.secrets, names=run.secret_names)
