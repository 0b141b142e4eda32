"""Images: contexts shipped, ours built on the host, the others pulled."""

from __future__ import annotations

from gpuhost.engine import facts as engine
from gpuhost.files import operations as files
from gpuhost.host.programs import contexts
from gpuhost.images import operations as docker
from gpuhost.run.host_run import HostRun
from gpuhost.run.stage import stage


@stage("images")
def images(run: HostRun) -> None:
    """Every image that a service or an installer of this host runs in."""
    if wanted := contexts(run):
        backups = run.paths.backups
        files.files(name="images | build contexts", stage="images", wanted=wanted, backups=backups, shipped=True)
    docker.images(name="images | built and pulled", wanted=run.images, paths=run.paths, download_bytes=run.image_bytes)


@images.asks
def _images(run: HostRun) -> None:
    files.look(contexts(run))
    engine.look("images")
