"""NVIDIA's driver where it is asked for, the Container Toolkit, and the proof that containers reach the GPUs."""

from __future__ import annotations

from functools import partial

from pyinfra.operations import apt as builtin_apt

from gpuhost.apt import operations as apt
from gpuhost.apt import repository as apt_repository
from gpuhost.gpu import driver as driver_rules
from gpuhost.gpu import operations as gpu
from gpuhost.gpu.rules import TOOLKIT, whole
from gpuhost.plan.change import Change, Resource
from gpuhost.run.host_run import HostRun
from gpuhost.run.reboot import waits
from gpuhost.run.session import builtin, note, only
from gpuhost.run.stage import stage

KEY = "/etc/apt/keyrings/gpuhost-nvidia.asc"
SOURCE = "gpuhost-nvidia"


def driver(run: HostRun | None) -> HostRun | None:
    """NVIDIA's driver, where the data asks for one and the host has none. It comes alone: which GPUs there are, and so
    who runs where, only the next run knows. None then: there is nothing else to do now."""
    missing = driver_rules.missing(run.reading, run.catalog) if run and only() is None else None
    if run is None or missing is None:
        return run
    apt.index(name="gpu | apt index", stage="gpu", subject="apt index", stamp=run.paths.apt_stamp)
    builtin(
        Change("gpu", Resource("packages", f"NVIDIA driver {missing.branch}"), "install", ", ".join(missing.packages)),
        builtin_apt.packages(
            name="gpu | NVIDIA driver",
            packages=list(missing.packages),
            no_recommends=True,
            extra_install_args=apt.LOCK_WAIT,
        ),
        apt.explain,
        partial(apt.installing, packages=missing.packages, stamp=run.paths.apt_stamp),
    )
    gpu.driver_loaded(name="gpu | driver loaded", missing=missing, allow_reboot=run.catalog.allow_reboot)
    goes_on = waits() or not missing.reboot
    what = "the driver comes first: what else there is to do is planned when it is loaded"
    note("driver" if goes_on else "gpu", f"{what}; `gpuhost apply` goes on then" if goes_on else f"{what}: run again")
    return None


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
        partial(apt.installing, packages=packages, stamp=run.paths.apt_stamp),
    )
    apt.held(
        name="gpu | toolkit packages held",
        stage="gpu",
        packages=dict.fromkeys(TOOLKIT, version),
        stamp=run.paths.apt_stamp,
    )
    if run.gpu_access == "runtime":  # the runtime makes its own
        return
    gpu.cdi(
        name="gpu | CDI specification",
        uuids=run.gpu_devices([each.uuid for each in whole(run.reading.gpus)]),
        driver=run.reading.gpus[0].driver,
        toolkit=version,
        stamp=run.paths.cdi_stamp,
    )


@toolkit.asks
def _toolkit(run: HostRun) -> None:
    if run.reading.gpus:
        apt_repository.look(run, "nvidia", KEY, SOURCE)
        apt.look_at_all_packages()
        apt.look_at_packages(TOOLKIT, run.paths.apt_stamp)
        gpu.look_at_cdi(run.paths.cdi_stamp)


@stage("gpu")
def proof(run: HostRun) -> None:
    """Containers reach the GPUs: proved when what that rests on has changed."""
    if run.gpu_check:
        gpu.proved(name="gpu | containers reach the GPUs", run=run, check=run.gpu_check)


@proof.asks
def _proof(run: HostRun) -> None:
    if run.gpu_check:
        gpu.look_at_proof(run.paths.gpu_proof)


@stage("gpu-proof", on_request=True)
def prove(run: HostRun) -> None:
    """The same proof, whatever has changed: `gpuhost verify --gpu`."""
    if run.gpu_check:
        gpu.reached(name="gpu | containers reach the GPUs now", run=run, check=run.gpu_check)
