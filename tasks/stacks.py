"""Compose stacks: rendered, then started in order."""

from __future__ import annotations

from gpuhost.files.rules import FileSpec, plain
from gpuhost.run.host_run import HostRun
from gpuhost.run.stage import stage
from gpuhost.services import operations
from gpuhost.services.render import text
from gpuhost.services.stacks import broker_group
from gpuhost.systemd import operations as systemd
from gpuhost.systemd.rules import Unit

BOOT = "gpuhost-services.service"
BROKER, BROKER_SOCKET = "gpuhost-broker.service", "gpuhost-broker.socket"


@stage("stacks")
def stacks(run: HostRun) -> None:
    """What each service is given once, each stack's files, the containers of all, the units around them."""
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
    # Its folder is mounted into containers, so it is there before them.
    systemd.units(name="stacks | broker", stage="stacks", wanted=_broker(run), backups=layout.backups)
    operations.running(name="stacks | services run", run=run)
    boot = [Unit(_file(BOOT, programs=layout.programs))]
    systemd.units(name="stacks | boot unit", stage="stacks", wanted=boot, backups=layout.backups)


def _broker(run: HostRun) -> list[Unit]:
    """What answers services about containers, and the socket that starts it."""
    layout = run.layout
    service = _file(BROKER, command=layout.broker_command, data=layout.data, state=layout.state)
    socket = _file(BROKER_SOCKET, folder=layout.broker, group=broker_group(run))
    return [Unit(service, runs=False), Unit(socket)]


def _file(unit: str, **values: object) -> FileSpec:
    return plain(f"/etc/systemd/system/{unit}", text(f"{unit}.j2", **values))
