"""Secrets that nobody gave are generated on the control side, once; an audit reads every location of each."""

from __future__ import annotations

from gpuhost.run.host_run import HostRun
from gpuhost.run.stage import stage
from gpuhost.secrets import operations


@stage("secrets")
def secrets(run: HostRun) -> None:
    """Every secret that can be generated exists, also those that no service of this host uses yet."""
    operations.generated(name="secrets | generated", store=run.secrets, names=sorted(run.catalog.secrets))


@stage("audit", on_request=True)
def audit(run: HostRun) -> None:
    """Where every secret lives, and whether it is the right one there."""
    operations.audited(name="audit | every location of every secret", run=run)
