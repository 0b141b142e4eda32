"""The proof: every service answers, or the host fails with the cause."""

from __future__ import annotations

from gpuhost.run.host_run import HostRun
from gpuhost.run.stage import stage
from gpuhost.verify import operations


@stage("verify")
def verify(run: HostRun) -> None:
    """Ask every service through its published port; then say where they are."""
    operations.answering(name="verify | every service answers", run=run)
    operations.addresses(name="verify | addresses", run=run)
