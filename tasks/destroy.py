"""Takes off a host what gpuhost made there: what `gpuhost destroy` asks for."""

from __future__ import annotations

from gpuhost.removal import operations
from gpuhost.run.host_run import HostRun
from gpuhost.run.stage import stage
from gpuhost.services.operations import BOOT_UNIT
from tasks.stacks import BROKER, BROKER_SOCKET


@stage("destroy", on_request=True)
def destroy(run: HostRun) -> None:
    """Services, networks, rules, images, units and programs; data stays."""
    operations.removed(name="destroy | what gpuhost made", run=run, units=[BOOT_UNIT, BROKER_SOCKET, BROKER])
