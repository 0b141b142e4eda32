"""Docker Engine: what all needs first, its packages, then (after the GPU toolkit) its configuration."""

from __future__ import annotations

from functools import partial

from pyinfra.operations import apt as builtin_apt

from gpuhost.apt import operations as apt
from gpuhost.apt import repository as apt_repository
from gpuhost.engine import facts as docker
from gpuhost.engine import operations as engine
from gpuhost.engine.rules import CONFIG, pinned
from gpuhost.files.folders import Folder, folders
from gpuhost.files.folders import look as look_at_folders
from gpuhost.plan.change import Change, Resource
from gpuhost.run.host_run import HostRun
from gpuhost.run.session import builtin
from gpuhost.run.stage import stage

KEY = "/etc/apt/keyrings/gpuhost-docker.asc"
SOURCE = "gpuhost-docker"


@stage("engine")
def base(run: HostRun) -> None:
    """The packages that everything else needs."""
    folders(name="engine | folders", stage="engine", wanted=_folders(run))
    apt.repaired(name="engine | packages are whole", stage="engine")
    apt.index(name="engine | apt index", stage="engine", subject="apt index", stamp=run.paths.apt_stamp)
    _install(run, "base packages", run.catalog.base_packages)


@base.asks
def _base(run: HostRun) -> None:
    look_at_folders(_folders(run))
    apt.look_for_cut_off()
    apt.look_for_unread(run.paths.apt_stamp)
    apt.look_at_all_packages()


def _folders(run: HostRun) -> list[Folder]:
    ours = (run.paths.state, KEY.rpartition("/")[0], CONFIG.rpartition("/")[0])
    backups = Folder(run.paths.backups, "700", "root")  # before the first file is replaced
    return [*(Folder(path, "755", "root") for path in ours), backups]


@stage("engine")
def packages(run: HostRun) -> None:
    """Docker's repository unless the distribution's own is wanted, and Docker."""
    catalog = run.catalog
    if catalog.engine_source == "docker":
        apt_repository.declared(run, "docker", KEY, SOURCE, "engine")
        _docker(run)
    else:
        _install(run, "Docker Engine", catalog.engine_packages["ubuntu" if run.reading.os_id == "ubuntu" else "debian"])


@packages.asks
def _packages(run: HostRun) -> None:
    if run.catalog.engine_source == "docker":
        apt_repository.look(run, "docker", KEY, SOURCE)
        if run.catalog.engine_version is not None:
            apt.look_at_packages(_held(run), run.paths.apt_stamp)


def _docker(run: HostRun) -> None:
    """Docker's own packages, held where the data names their version."""
    packages = _docker_packages(run)
    if run.catalog.engine_version is None:
        _install(run, "Docker Engine", packages)
        return
    _install(run, "Docker Engine", packages, "--allow-change-held-packages", downgrades=True)
    apt.held(name="engine | packages held", stage="engine", packages=_held(run), stamp=run.paths.apt_stamp)


def _docker_packages(run: HostRun) -> list[str]:
    catalog, seen = run.catalog, run.reading
    names = catalog.engine_packages["docker"]
    return pinned(names, catalog.engine_version, seen.os_id, seen.os_version, seen.suite)


def _held(run: HostRun) -> dict[str, str]:
    """name -> version, of those whose version the data names."""
    return dict(each.split("=") for each in _docker_packages(run) if "=" in each)


def _install(run: HostRun, subject: str, packages: list[str], options: str = "", downgrades: bool = False) -> None:
    builtin(
        Change("engine", Resource("packages", subject), "install", f"not all installed: {', '.join(packages)}"),
        builtin_apt.packages(
            name=f"engine | {subject}",
            packages=packages,
            no_recommends=True,
            allow_downgrades=downgrades,
            extra_install_args=f"{apt.LOCK_WAIT} {options}".strip(),
        ),
        apt.explain,
        partial(apt.installing, packages=packages, stamp=run.paths.apt_stamp),
    )


@stage("engine")
def configuration(run: HostRun) -> None:
    """Our keys in daemon.json, and a dockerd that loaded them and answers."""
    engine.configured(
        name="engine | dockerd",
        wanted=run.engine_config,
        written=run.reading.engine_written,
        stamp=run.paths.engine_stamp,
        backups=run.paths.backups,
        measures=run.paths.measures,
        lives_on=run.lives_on,
    )
    engine.new_enough(name="engine | Docker is new enough", cdi=bool(run.reading.gpus) and run.gpu_access == "cdi")


@configuration.asks
def _configuration(run: HostRun) -> None:
    docker.look()
