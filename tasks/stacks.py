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
    """What each service is given once, each stack's files, the containers of all, the unit that starts them at boot."""
    account, layout = run.catalog.account, run.layout
    services = run.services.items()
    folders = [f"{layout.service_data(name)}/{folder}" for name, entry in services for folder in entry.folders]
    seeds = {
        f"{layout.service_seeds(name)}/{file}": seed.text for name, e in services for file, seed in e.seeds.items()
    }
    if folders:
        operations.own_folders(name="stacks | folders of services", folders=folders, account=account)
    if seeds:
        operations.seeded(name="stacks | seeds", seeds=seeds, account=account)
    operations.rendered(name="stacks | files", run=run)
    operations.running(name="stacks | services run", run=run)
    unit = plain(f"/etc/systemd/system/{UNIT}", text(f"{UNIT}.j2", programs=run.layout.programs))
    units.unit(name="stacks | boot unit", stage="stacks", wanted=unit, backups=run.layout.backups)
    builtin(
        Change("stacks", Resource("unit", UNIT), "enable", "it does not run at boot"),
        systemd.service(name="stacks | boot unit runs", service=UNIT, running=True, enabled=True),
    )
