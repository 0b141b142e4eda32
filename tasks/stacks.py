"""Compose stacks: rendered, then started in order."""

from __future__ import annotations

from gpuhost.files.folders import Folder, folders
from gpuhost.files.rules import FileSpec, plain
from gpuhost.host.paths import unit_file
from gpuhost.run.host_run import HostRun
from gpuhost.run.stage import stage
from gpuhost.services import operations
from gpuhost.services.render import text
from gpuhost.services.stacks import Stacks, broker_group
from gpuhost.systemd import operations as systemd
from gpuhost.systemd.rules import Unit

BROKER, BROKER_SOCKET = "gpuhost-broker.service", "gpuhost-broker.socket"


@stage("stacks")
def stacks(run: HostRun) -> None:
    """What each service is given once, each stack's files, the containers of all, the units around them."""
    paths, services, stacks = run.paths, run.services.items(), Stacks(run)
    folders(name="stacks | accounts' folders", stage="stacks", wanted=_folders(run, stacks), owners=run.owners)
    own = {f"{paths.service_data(name)}/{folder}": e.account for name, e in services for folder in e.folders}
    seeds = [seed for name in run.services for seed in stacks.seeds(name).values()]
    if own:
        operations.own_folders(name="stacks | folders of services", folders=own)
    if seeds:
        operations.seeded(name="stacks | seeds", seeds=seeds, owners=run.owners)
    operations.rendered(name="stacks | files", run=run)
    # Its folder is mounted into containers, so it is there before them.
    systemd.units(name="stacks | broker", stage="stacks", wanted=_broker(run), backups=paths.backups)
    operations.running(name="stacks | services run", run=run)
    operations.archived(name="stacks | foreign compose files", run=run)
    unit = _file(operations.BOOT_UNIT, programs=paths.programs, services=list(run.services), check=paths.binds_command)
    boot = [Unit(unit)]
    systemd.units(name="stacks | boot unit", stage="stacks", wanted=boot, backups=paths.backups)


def _broker(run: HostRun) -> list[Unit]:
    """What answers services about containers, and the socket that starts it."""
    paths = run.paths
    service = _file(BROKER, command=paths.broker_command, data=paths.data, state=paths.state)
    socket = _file(BROKER_SOCKET, folder=paths.broker, group=broker_group(run))
    return [Unit(service, runs=False), Unit(socket)]


def _file(unit: str, **values: object) -> FileSpec:
    return plain(unit_file(unit), text(f"{unit}.j2", **values))


def _folders(run: HostRun, stacks: Stacks) -> list[Folder]:
    """What belongs to one service alone. Here and not in an earlier stage: a service that runs as another account until
    now has its folders for as long as it can."""
    paths, shared = run.paths, run.catalog.account.name
    wanted, given = [Folder(paths.outputs, "755", "root")], {bind.source for bind in stacks.binds()}
    for name, entry in run.services.items():
        own, data, outputs = entry.account.name, paths.service_data(name), paths.service_outputs(name)
        if data in given:
            wanted.append(Folder(data, "750", own, whole=True))
        if outputs in given:  # the group sees what is made, and may tidy up
            wanted.append(Folder(outputs, "2770", own, shared, whole=True))
        if entry.seeds:
            wanted.append(Folder(paths.service_seeds(name), "755", "root"))
        if entry.secret_files:
            # The account opens the files in it by name; root, which writes them, shares the folder with nobody.
            wanted.append(Folder(paths.secret_files(name, entry.stack), "710", "root", own))
    return wanted
