"""The account, the folders, our programs on the host, the networks."""

from __future__ import annotations

from pathlib import PurePosixPath

from pyinfra.operations import server

from gpuhost.files import operations as files
from gpuhost.files.folders import Folder, folders
from gpuhost.files.rules import plain
from gpuhost.host import python as venv
from gpuhost.host.paths import Layout
from gpuhost.installs.rules import script as install_script
from gpuhost.network import operations as network
from gpuhost.plan.change import Change, Resource
from gpuhost.project import PROJECT, folder, project_file
from gpuhost.run.host_run import HostRun
from gpuhost.run.session import builtin
from gpuhost.run.stage import stage


@stage("layout")
def layout(run: HostRun) -> None:
    """Everything that later stages put their things into."""
    _account(run)
    _folders(run)
    _programs(run)
    networks = {entry.network: run.catalog.networks[entry.network] for entry in run.services.values()}
    layout = run.layout
    network.networks(
        name="layout | networks", wanted=networks, rules_file=layout.firewall_rules, backups=layout.backups
    )


def _account(run: HostRun) -> None:
    account = run.catalog.account
    builtin(
        Change("layout", Resource("group", account.name), "create", _why(account.name in run.reading.groups, "group")),
        server.group(name="layout | group", group=account.name, gid=account.gid),
    )
    builtin(
        Change("layout", Resource("user", account.name), "create", _why(account.name in run.reading.users, "user")),
        server.user(
            name="layout | user",
            user=account.name,
            uid=account.uid,
            group=account.name,
            home=run.layout.data,
            shell="/usr/sbin/nologin",
            append=True,
            ensure_home=False,
        ),
    )


def _why(exists: bool, kind: str) -> str:
    return f"the {kind} exists, and not all of it is as it should be" if exists else f"no such {kind}"


def _folders(run: HostRun) -> None:
    layout, account = run.layout, run.catalog.account.name
    ours = {layout.data: "755", layout.tools: "755", layout.backups: "700"}
    ours |= {f"{layout.data}/{name}": "755" for name in ("stacks", "installs", "services")}
    ours |= {layout.stack(stack): "755" for stack in run.stacks}
    ours |= {layout.install(name): "755" for name in run.installs}
    manifests = [layout.install_manifests(name) for name in run.installs]
    ours |= dict.fromkeys([path for each in manifests for path in (each.rpartition("/")[0], each)], "755")
    ours |= {layout.service_data(name).rpartition("/")[0]: "755" for name in run.services}
    ours |= dict.fromkeys([*_program_folders(layout), layout.scripts], "755")
    # setgid: what anybody of the group puts there stays the group's.
    shared = dict.fromkeys((layout.models, f"{layout.data}/cache", layout.hub_cache), "2775")
    shared |= {layout.outputs: "2770"}  # what people made is not everybody's to see
    shared |= {f"{layout.models}/{model.folder}": "2775" for model in run.models.values()}
    shared |= {f"{layout.state}/models": "2775"}
    shared |= {run.install_path(name): "755" for name in run.installs}
    shared |= {layout.service_data(name): "750" for name in run.services}
    shared |= {layout.service_seeds(name): "700" for name, entry in run.services.items() if entry.seeds}
    secret = [layout.secret_files(name, entry.stack) for name, entry in run.services.items() if entry.secret_files]
    wanted = [Folder(path, mode, "root") for path, mode in ours.items()]
    wanted += [Folder(path, mode, account) for path, mode in shared.items()]
    # The account opens the files in them by name; root, which writes them, shares the folder with nobody.
    wanted += [Folder(path, "710", "root", account) for path in secret]
    folders(name="layout | folders", stage="layout", wanted=wanted)


def _program_folders(layout: Layout) -> list[str]:
    """Every folder of our programs, outer ones first: who may write to one of them may change what root runs."""
    shipped = [PurePosixPath(layout.programs, name) for name in folder(PROJECT / "files" / "host")]
    below = {parent for path in shipped for parent in path.parents if parent.is_relative_to(layout.programs)}
    return sorted(map(str, below))


def _programs(run: HostRun) -> None:
    layout = run.layout
    shipped = {path: file for path, file in folder(PROJECT / "files" / "host").items() if not path.endswith(".in")}
    wanted = [plain(f"{layout.programs}/{path}", file.text, file.mode) for path, file in shipped.items()]
    wanted += [plain(f"{layout.scripts}/{each.script}", install_script(each)) for each in run.installs.values()]
    files.files(name="layout | host programs", stage="layout", wanted=wanted, backups=layout.backups)
    lock = project_file("files/host/requirements.lock")
    venv.environment(name="layout | host programs' Python", path=layout.venv, lock=lock, programs=layout.programs)
