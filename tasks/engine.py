"""Docker Engine: packages, then (after the GPU toolkit) its configuration."""

from __future__ import annotations

from pyinfra.operations import apt as builtin_apt

from gpuhost.apt import operations as apt
from gpuhost.engine import operations as engine
from gpuhost.files.folders import Folder, folders
from gpuhost.plan.change import Change, Resource
from gpuhost.run.host_run import HostRun
from gpuhost.run.session import builtin
from gpuhost.run.stage import stage

KEY = "/etc/apt/keyrings/gpuhost-docker.asc"
SOURCE = "gpuhost-docker"


@stage("engine")
def packages(run: HostRun) -> None:
    """The packages that everything else needs, Docker's repository unless the distribution's own is wanted, Docker."""
    catalog = run.catalog
    folders(name="engine | folders", stage="engine", wanted=[Folder(run.layout.state, "755", "root")])
    apt.index(name="engine | apt index", stage="engine", subject="apt index", stamp=run.layout.apt_stamp)
    _install(run, "base packages", catalog.base_packages)
    if catalog.engine_source == "docker":
        repository(run, "docker", KEY, SOURCE, "engine")
        _install(run, "Docker Engine", catalog.engine_packages["docker"])
    else:
        _install(run, "Docker Engine", catalog.engine_packages["ubuntu" if run.reading.os_id == "ubuntu" else "debian"])


def repository(run: HostRun, which: str, key: str, source: str, stage: str) -> None:
    """An apt repository: its checked key, its source, and apt's index with it."""
    repository = run.catalog.apt_repositories[which]  # type: ignore[index]
    marks = run.reading.url_marks
    url = repository.url.format(**marks)
    apt.signing_key(
        name=f"{stage} | signing key of {which}",
        stage=stage,
        url=repository.key_url.format(**marks),
        fingerprint=run.catalog.apt_key_fingerprints[which],  # type: ignore[index]
        path=key,
    )
    written = builtin(
        Change(stage, Resource("apt source", which), "write", f"{url} is not declared with our key"),
        builtin_apt.sources_file(
            name=f"{stage} | apt source {which}",
            filename=source,
            uris=[url],
            suites=[repository.suites.format(**marks)],
            components=repository.components.split(),
            architectures=[run.reading.deb_arch],
            signed_by=key,
        ),
    )
    apt.index(
        name=f"{stage} | apt index with {which}",
        stage=stage,
        subject=f"apt index with {which}",
        stamp=run.layout.apt_stamp,
        source=f"/etc/apt/sources.list.d/{source}.sources",
        written=written,
    )


def _install(run: HostRun, subject: str, packages: list[str]) -> None:
    builtin(
        Change("engine", Resource("packages", subject), "install", f"not all installed: {', '.join(packages)}"),
        builtin_apt.packages(
            name=f"engine | {subject}",
            packages=packages,
            no_recommends=True,
            extra_install_args=apt.LOCK_WAIT,
        ),
        apt.explain,
        lambda: apt.why_missing(packages, run.layout.apt_stamp),
    )


@stage("engine")
def configuration(run: HostRun) -> None:
    """Our keys in daemon.json, and a dockerd that loaded them and answers."""
    engine.configured(name="engine | dockerd", wanted=run.catalog.engine_config, backups=run.layout.backups)
    engine.new_enough(name="engine | Docker is new enough")
