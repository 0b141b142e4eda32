"""Images: contexts shipped, ours built on the host, the others pulled."""

from __future__ import annotations

from gpuhost.files import operations as files
from gpuhost.files.rules import plain
from gpuhost.images import operations as docker
from gpuhost.project import context
from gpuhost.run.host_run import HostRun
from gpuhost.run.stage import stage


@stage("images")
def images(run: HostRun) -> None:
    """Every image that a service or an installer of this host runs in."""
    builds = {image.build for image in run.built_images.values()}
    contexts = [
        plain(f"{run.paths.image_context(build)}/{path}", file.text, file.mode)
        for build in sorted(builds)
        for path, file in context(build).items()
    ]
    if contexts:
        backups = run.paths.backups
        files.files(name="images | build contexts", stage="images", wanted=contexts, backups=backups, shipped=True)
    docker.images(name="images | built and pulled", wanted=run.images, paths=run.paths)
