"""The account, the folders, our programs on the host, the networks."""

from __future__ import annotations

from pathlib import PurePosixPath

from pyinfra.context import host
from pyinfra.facts.server import Users
from pyinfra.operations import server

from gpuhost.files import operations as files
from gpuhost.files.folders import Folder, folders
from gpuhost.files.rules import plain
from gpuhost.host import python as venv
from gpuhost.images import operations as docker
from gpuhost.installs.rules import script as install_script
from gpuhost.plan.change import Change, Resource
from gpuhost.project import PROJECT, context, folder, project_file
from gpuhost.run.host_run import HostRun
from gpuhost.run.session import builtin
from gpuhost.run.stage import stage

NO_LOGIN = "/usr/sbin/nologin"


@stage("layout")
def layout(run: HostRun) -> None:
    """Everything that later stages put their things into."""
    _account(run)
    _folders(run)
    _programs(run)
    networks = {entry.network: run.catalog.networks[entry.network] for entry in run.services.values()}
    docker.networks(name="layout | Docker networks", wanted=networks)


def _account(run: HostRun) -> None:
    account = run.catalog.account
    there = account.name in run.reading.users
    builtin(
        Change("layout", Resource("group", account.name), "create", "no such group"),
        server.group(name="layout | group", group=account.name, gid=account.gid),
    )
    builtin(
        Change("layout", Resource("user", account.name), "correct" if there else "create", "no such user"),
        server.user(
            name="layout | user",
            user=account.name,
            uid=account.uid,
            group=account.name,
            home=run.layout.data,
            shell=NO_LOGIN,
            append=True,
            ensure_home=False,
        ),
        reason=(lambda: _differing(account.name, run.layout.data)) if there else None,
    )


def _differing(user: str, home: str) -> str:
    """What is not as it should be of a user that is there."""
    wanted = {"home": home, "shell": NO_LOGIN, "group": user}
    seen = host.get_fact(Users).get(user, {})
    return ", ".join(
        f"its {key} is {seen.get(key)}, not {want}" for key, want in wanted.items() if seen.get(key) != want
    )


def _folders(run: HostRun) -> None:
    layout, account = run.layout, run.catalog.account.name
    ours = {layout.data: "755", layout.tools: "755", layout.backups: "700"}
    ours |= {f"{layout.data}/{name}": "755" for name in ("stacks", "installs", "services")}
    ours |= {layout.stack(stack): "755" for stack in run.stacks}
    ours |= {layout.install(name): "755" for name in run.installs}
    manifests = [layout.install_manifests(name) for name in run.installs]
    ours |= dict.fromkeys([path for each in manifests for path in (each.rpartition("/")[0], each)], "755")
    ours |= {layout.service_data(name).rpartition("/")[0]: "755" for name in run.services}
    ours |= dict.fromkeys([*_program_folders(run), layout.scripts, *_stack_folders(run)], "755")
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


def _program_folders(run: HostRun) -> list[str]:
    """Every folder of our programs and build contexts, outer ones first: who may write to one of them may change what
    root runs."""
    layout, builds = run.layout, {image.build for image in run.built_images.values()}
    shipped = [PurePosixPath(layout.programs, name) for name in folder(PROJECT / "files" / "host")]
    shipped += [PurePosixPath(layout.image_context(build), name) for build in builds for name in context(build)]
    tools = PurePosixPath(layout.tools)
    below = {parent for path in shipped for parent in path.parents if tools in parent.parents}
    return sorted(map(str, below))


def _stack_folders(run: HostRun) -> list[str]:
    """The folders within those of the stacks in which we write files, but for those of secret files."""
    layout, found = run.layout, set()
    for name, entry in run.services.items():
        if entry.config_files:
            config = layout.config_files(name, entry.stack)
            found |= {config.rpartition("/")[0], config}
        if entry.secret_files:
            found.add(layout.secret_files(name, entry.stack).rpartition("/")[0])
    return sorted(found)


def _programs(run: HostRun) -> None:
    layout = run.layout
    shipped = {path: file for path, file in folder(PROJECT / "files" / "host").items() if not path.endswith(".in")}
    wanted = [plain(f"{layout.programs}/{path}", file.text, file.mode) for path, file in shipped.items()]
    wanted += [plain(f"{layout.scripts}/{each.script}", install_script(each)) for each in run.installs.values()]
    files.files(name="layout | host programs", stage="layout", wanted=wanted, backups=layout.backups)
    lock = project_file("files/host/requirements.lock")
    venv.environment(name="layout | host programs' Python", path=layout.venv, lock=lock, programs=layout.programs)
