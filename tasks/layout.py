"""Our programs on the host; the accounts, the folders, the networks."""

from __future__ import annotations

from gpuhost.catalog.types import Network
from gpuhost.engine import facts as docker
from gpuhost.files import operations as files
from gpuhost.files.folders import Folder, folders, parent
from gpuhost.files.folders import look as look_at_folders
from gpuhost.host import programs as shipped
from gpuhost.host import python as venv
from gpuhost.host.accounts import accounts
from gpuhost.host.accounts import look as look_at_accounts
from gpuhost.network import operations as network
from gpuhost.network.rules import files as network_files
from gpuhost.project import project_file
from gpuhost.run.host_run import HostRun
from gpuhost.run.stage import stage
from gpuhost.services.stacks import Stacks


@stage("layout")
def programs(run: HostRun) -> None:
    """Before Docker: when that is restarted, the units around it run them."""
    paths = run.paths
    folders(name="layout | folders of programs", stage="layout", wanted=_holding(run))
    wanted = shipped.programs(run)
    files.files(name="layout | host programs", stage="layout", wanted=wanted, backups=paths.backups, shipped=True)
    lock = project_file("files/host/requirements.lock")
    venv.environment(name="layout | host programs' Python", path=paths.venv, lock=lock, programs=paths.programs)


@programs.asks
def _programs(run: HostRun) -> None:
    look_at_folders(_holding(run))
    files.look(shipped.programs(run))
    venv.look(run.paths.venv)


def _holding(run: HostRun) -> list[Folder]:
    return [Folder(path, "755", "root") for path in shipped.folders(run)]


@stage("layout")
def layout(run: HostRun) -> None:
    """Everything that later stages put their things into."""
    accounts(name="layout | accounts", wanted=run.accounts)
    folders(name="layout | folders", stage="layout", wanted=_folders(run), owners=run.owners)
    paths, wanted = run.paths, _networks(run)
    network.networks(name="layout | networks", wanted=wanted, rules_file=paths.firewall_rules, backups=paths.backups)


@layout.asks
def _layout(run: HostRun) -> None:
    look_at_accounts(run.accounts)
    look_at_folders(_folders(run))
    network.look(network_files(_networks(run), run.paths.firewall_rules))
    docker.look("networks")


def _networks(run: HostRun) -> dict[str, Network]:
    return {entry.network: run.catalog.networks[entry.network] for entry in run.services.values()}


def _folders(run: HostRun) -> list[Folder]:
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
    return [*wanted, *(Folder(path, mode, account) for path, mode in shared.items())]


def _stack_folders(run: HostRun) -> list[str]:
    """The folders within those of the stacks in which we write files, but for those of secret files."""
    paths, stacks, found = run.paths, Stacks.of(run), set()
    for name, entry in run.services.items():
        written = {parent(file.path) for file in stacks.read_at_start(name)}
        config, secrets = paths.config_files(name, entry.stack), paths.secret_files(name, entry.stack)
        found |= {parent(config), config} if config in written else set()
        found |= {parent(secrets)} if secrets in written else set()
    return sorted(found)
