"""Compose stacks: rendered, then started in order."""

from __future__ import annotations

from gpuhost.operations import stacks as operations
from gpuhost.run import HostRun
from gpuhost.stage import stage


@stage("stacks")
def stacks(run: HostRun) -> None:
    """Each stack's folder, then the containers of all."""
    for stack in run.stacks:
        operations.rendered(name=f"stacks | files of {stack}", run=run, stack=stack)
    operations.running(name="stacks | services run", run=run)
