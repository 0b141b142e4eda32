"""Compose stacks: rendered, then started in order."""

from __future__ import annotations

from pyinfra.operations import systemd

from gpuhost.files.rules import plain
from gpuhost.plan.change import Change, Resource
from gpuhost.run.host_run import HostRun
from gpuhost.run.session import builtin
from gpuhost.run.stage import stage
from gpuhost.services import operations
from gpuhost.services.render import text
from gpuhost.systemd import operations as units

UNIT = "gpuhost-services.service"


@stage("stacks")
def stacks(run: HostRun) -> None:
    """Each stack's folder, then the containers of all, then the unit that starts them at boot when dockerd cannot."""
    for stack in run.stacks:
        operations.rendered(name=f"stacks | files of {stack}", run=run, stack=stack)
    operations.running(name="stacks | services run", run=run)
    unit = plain(f"/etc/systemd/system/{UNIT}", text(f"{UNIT}.j2", programs=run.layout.programs))
    units.unit(name="stacks | boot unit", stage="stacks", wanted=unit, backups=run.layout.backups)
    builtin(
        Change("stacks", Resource("unit", UNIT), "enable", "it does not run at boot"),
        systemd.service(name="stacks | boot unit runs", service=UNIT, running=True, enabled=True),
    )
