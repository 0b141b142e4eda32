"""Compose stacks: rendered, then started in order."""

from __future__ import annotations

from gpuhost.catalog.types import Account
from gpuhost.files.folders import Folder, folders
from gpuhost.files.folders import look as look_at_folders
from gpuhost.files.rules import FileSpec, plain
from gpuhost.host.paths import unit_file
from gpuhost.run.host_run import HostRun
from gpuhost.run.stage import stage
from gpuhost.services import operations
from gpuhost.services.render import text
from gpuhost.services.stacks import SeedFile, Stacks, broker_group
from gpuhost.systemd import operations as systemd
from gpuhost.systemd.rules import Unit

BROKER, BROKER_SOCKET = "gpuhost-broker.service", "gpuhost-broker.socket"


@stage("stacks")
def stacks(run: HostRun) -> None:
    """What each service is given once, each stack's files, the containers of all, the units around them."""
    paths = run.paths
    folders(name="stacks | accounts' folders", stage="stacks", wanted=_folders(run), owners=run.owners)
    if own := _own_folders(run):
        operations.own_folders(name="stacks | folders of services", folders=own)
    if seeds := _seeds(run):
        operations.seeded(name="stacks | seeds", seeds=seeds, owners=run.owners)
    operations.rendered(name="stacks | files", run=run)
    # Its folder is mounted into containers, so it is there before them.
    systemd.units(name="stacks | broker", stage="stacks", wanted=_broker(run), backups=paths.backups)
    operations.running(name="stacks | services run", run=run)
    operations.archived(name="stacks | foreign compose files", run=run)
    systemd.units(name="stacks | boot unit", stage="stacks", wanted=_boot(run), backups=paths.backups)


@stacks.asks
def _stacks(run: HostRun) -> None:
    look_at_folders(_folders(run))
    operations.look_at_own_folders(_own_folders(run))
    operations.look_at_seeds(_seeds(run))
    operations.look(run)
    systemd.look(_broker(run))
    systemd.look(_boot(run))


def _own_folders(run: HostRun) -> dict[str, Account]:
    services = run.services.items()
    return {f"{run.paths.service_data(name)}/{folder}": e.account for name, e in services for folder in e.folders}


def _seeds(run: HostRun) -> list[SeedFile]:
    stacks = Stacks.of(run)
    return [seed for name in run.services for seed in stacks.seeds(name).values()]


def _boot(run: HostRun) -> list[Unit]:
    programs, check = run.paths.programs, run.paths.binds_command
    return [Unit(_file(operations.BOOT_UNIT, programs=programs, services=list(run.services), check=check))]


def _broker(run: HostRun) -> list[Unit]:
    """What answers services about containers, and the socket that starts it."""
    paths = run.paths
    service = _file(BROKER, command=paths.broker_command, data=paths.data, state=paths.state)
    socket = _file(BROKER_SOCKET, folder=paths.broker, group=broker_group(run))
    return [Unit(service, runs=False), Unit(socket)]


def _file(unit: str, **values: object) -> FileSpec:
    return plain(unit_file(unit), text(f"{unit}.j2", **values))


def _folders(run: HostRun) -> list[Folder]:
    """What belongs to one service alone. Here and not in an earlier stage: a service that runs as another account until
    now has its folders for as long as it can."""
    paths, shared = run.paths, run.catalog.account.name
    wanted, given = [Folder(paths.outputs, "755", "root")], {bind.source for bind in Stacks.of(run).binds()}
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
