"""Our programs on the host; the accounts, the folders, the networks."""

from __future__ import annotations

from pathlib import PurePosixPath

from gpuhost.files import operations as files
from gpuhost.files.folders import Folder, folders, parent
from gpuhost.files.rules import plain
from gpuhost.host import python as venv
from gpuhost.host.accounts import accounts
from gpuhost.installs.rules import lock_text
from gpuhost.installs.rules import script as install_script
from gpuhost.network import operations as network
from gpuhost.project import PROJECT, context, folder, project_file
from gpuhost.run.host_run import HostRun
from gpuhost.run.stage import stage
from gpuhost.services.stacks import Stacks


@stage("layout")
def programs(run: HostRun) -> None:
    """Before Docker: when that is restarted, the units around it run them."""
    tools = [run.paths.tools, *_program_folders(run), run.paths.scripts]
    wanted = [Folder(path, "755", "root") for path in tools]
    folders(name="layout | folders of programs", stage="layout", wanted=wanted)
    _programs(run)


@stage("layout")
def layout(run: HostRun) -> None:
    """Everything that later stages put their things into."""
    accounts(name="layout | accounts", wanted=run.accounts)
    _folders(run)
    networks = {entry.network: run.catalog.networks[entry.network] for entry in run.services.values()}
    paths = run.paths
    network.networks(name="layout | networks", wanted=networks, rules_file=paths.firewall_rules, backups=paths.backups)


def _folders(run: HostRun) -> None:
    paths, account = run.paths, run.catalog.account.name
    ours = dict.fromkeys((paths.data, *paths.parents), "755")
    ours |= {paths.stack(stack): "755" for stack in run.stacks}
    ours |= {paths.install(name): "755" for name in run.installs}
    manifests = [paths.install_manifests(name) for name in run.installs]
    ours |= dict.fromkeys([path for each in manifests for path in (parent(each), each)], "755")
    ours |= {parent(paths.service_data(name)): "755" for name in run.services}
    ours |= dict.fromkeys(_stack_folders(run), "755")
    # setgid: what anybody of the group puts there stays the group's.
    shared = dict.fromkeys((paths.models, paths.hub_cache), "2775")
    links = {link.partition("/")[0] for model in run.models.values() for link in model.links.values()}
    shared |= {f"{paths.models}/{folder}": "2775" for folder in sorted(links)}
    shared |= {parent(paths.model_manifest): "2775"}
    shared |= {run.install_path(name): "755" for name in run.installs}
    wanted = [Folder(path, mode, "root") for path, mode in ours.items()]
    wanted += [Folder(path, mode, account) for path, mode in shared.items()]
    folders(name="layout | folders", stage="layout", wanted=wanted, owners=run.owners)


def _program_folders(run: HostRun) -> list[str]:
    """Every folder of our programs and build contexts, outer ones first: who may write to one of them may change what
    root runs."""
    paths, builds = run.paths, {image.build for image in run.built_images.values()}
    shipped = [PurePosixPath(paths.programs, name) for name in folder(PROJECT / "files" / "host")]
    shipped += [PurePosixPath(paths.image_context(build), name) for build in builds for name in context(build)]
    tools = PurePosixPath(paths.tools)
    below = {each for path in shipped for each in path.parents if tools in each.parents}
    return sorted(map(str, below))


def _stack_folders(run: HostRun) -> list[str]:
    """The folders within those of the stacks in which we write files, but for those of secret files."""
    paths, stacks, found = run.paths, Stacks(run), set()
    for name, entry in run.services.items():
        written = {parent(file.path) for file in stacks.read_at_start(name)}
        config, secrets = paths.config_files(name, entry.stack), paths.secret_files(name, entry.stack)
        found |= {parent(config), config} if config in written else set()
        found |= {parent(secrets)} if secrets in written else set()
    return sorted(found)


def _programs(run: HostRun) -> None:
    paths = run.paths
    shipped = {path: file for path, file in folder(PROJECT / "files" / "host").items() if not path.endswith(".in")}
    wanted = [plain(f"{paths.programs}/{path}", file.text, file.mode) for path, file in shipped.items()]
    wanted += [plain(f"{paths.scripts}/{each.script}", install_script(each)) for each in run.installs.values()]
    locked = {name: packages for name in run.installs if (packages := run.install_packages(name))}
    wanted += [plain(paths.install_lock(name), lock_text(packages)) for name, packages in locked.items()]
    files.files(name="layout | host programs", stage="layout", wanted=wanted, backups=paths.backups, shipped=True)
    lock = project_file("files/host/requirements.lock")
    venv.environment(name="layout | host programs' Python", path=paths.venv, lock=lock, programs=paths.programs)
