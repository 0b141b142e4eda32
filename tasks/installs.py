"""Installs: what a script makes once, each spec in a folder of its own, shared read-only."""

from __future__ import annotations

from gpuhost.installs import operations, rules
from gpuhost.run.host_run import HostRun
from gpuhost.run.stage import stage


@stage("installs")
def installs(run: HostRun) -> None:
    """The installs that this host's services use."""
    for name, install in run.installs.items():
        spec = run.install_spec(name)
        script = f"{run.paths.scripts}/{install.script}"
        operations.installed(
            name=f"installs | {name} {install.version}",
            path=run.install_path(name),
            manifest=run.install_manifest(name),
            spec=spec,
            image=run.image(install.image),
            environment=rules.environment(install, spec),
            script=script,
            account=run.catalog.account,
            limits=rules.limits(install, run.reading.cpus),
            trees_command=run.paths.trees_command,
            measures=run.paths.measures,
            lock=run.paths.install_lock(name) if run.install_packages(name) else None,
        )


@installs.asks
def _installs(run: HostRun) -> None:
    for name in run.installs:
        operations.look(run.install_path(name), run.install_manifest(name))
