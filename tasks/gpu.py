"""The NVIDIA Container Toolkit, on a host that has an NVIDIA GPU."""

from __future__ import annotations

from pyinfra.operations import apt as builtin_apt

from gpuhost.apt import operations as apt
from gpuhost.apt import repository as apt_repository
from gpuhost.gpu import operations as gpu
from gpuhost.gpu.rules import TOOLKIT, whole
from gpuhost.plan.change import Change, Resource
from gpuhost.run.host_run import HostRun
from gpuhost.run.session import builtin
from gpuhost.run.stage import stage

KEY = "/etc/apt/keyrings/gpuhost-nvidia.asc"
SOURCE = "gpuhost-nvidia"


@stage("gpu")
def toolkit(run: HostRun) -> None:
    """Four packages in one version, held; then the CDI specification for the GPUs that are there."""
    if not run.reading.gpus:
        return
    version = run.catalog.nvidia_toolkit_version
    packages = [f"{name}={version}" for name in TOOLKIT]
    apt_repository.declared(run, "nvidia", KEY, SOURCE, "gpu")
    builtin(
        Change(
            "gpu",
            Resource("packages", "NVIDIA Container Toolkit"),
            "install",
            f"not all four packages are at {version}",
        ),
        builtin_apt.packages(
            name="gpu | NVIDIA Container Toolkit",
            packages=packages,
            no_recommends=True,
            allow_downgrades=True,
            extra_install_args=f"{apt.LOCK_WAIT} --allow-change-held-packages",
        ),
        apt.explain,
        lambda: apt.why_missing(packages, run.layout.apt_stamp),
    )
    apt.held(
        name="gpu | toolkit packages held",
        stage="gpu",
        packages=dict.fromkeys(TOOLKIT, version),
        stamp=run.layout.apt_stamp,
    )
    if run.gpu_access == "runtime":  # the runtime makes its own
        return
    gpu.cdi(
        name="gpu | CDI specification",
        uuids=run.gpu_devices([each.uuid for each in whole(run.reading.gpus)]),
        driver=run.reading.gpus[0].driver,
        toolkit=version,
        stamp=f"{run.layout.state}/cdi.json",
    )
