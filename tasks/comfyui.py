"""ComfyUI: each pinned version installed once, shared read-only."""

from __future__ import annotations

from gpuhost.installs import operations, rules
from gpuhost.run.host_run import HostRun
from gpuhost.run.stage import stage


@stage("comfyui")
def comfyui(run: HostRun) -> None:
    """The installs that this host's services use, and a session key for each service with a login."""
    account = run.catalog.account
    for name, install in run.installs.items():
        spec = run.install_spec(name)
        operations.installed(
            name=f"comfyui | {name} {install.version}",
            path=run.install_path(name),
            spec=spec,
            image=run.image(install.image),
            variables=rules.environment(install, spec),
            installer=f"{run.layout.tools}/install_comfyui.sh",
            account=account,
        )
    nodes = [f"{run.layout.service_data(name)}/custom_nodes" for name, entry in run.services.items() if entry.comfyui]
    if nodes:
        operations.own_nodes(name="comfyui | folders for nodes", folders=nodes, account=account)
    keys = [run.session_key(name) for name, entry in run.services.items() if entry.login]
    if keys:
        operations.session_keys(name="comfyui | session keys", paths=keys, account=account)
