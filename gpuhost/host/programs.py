"""What gpuhost ships to a host to be run there, as files and the folders that hold them. Only root writes there."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from gpuhost.files.rules import FileSpec, plain
from gpuhost.installs.rules import lock_text, script
from gpuhost.project import PROJECT, context, folder

if TYPE_CHECKING:
    from gpuhost.run.host_run import HostRun


def programs(run: HostRun) -> list[FileSpec]:
    """The host programs, the scripts of installs and their locks."""
    paths = run.paths
    shipped = {path: file for path, file in folder(PROJECT / "files" / "host").items() if not path.endswith(".in")}
    wanted = [plain(f"{paths.programs}/{path}", file.text, file.mode) for path, file in shipped.items()]
    wanted += [plain(f"{paths.scripts}/{each.script}", script(each)) for each in run.installs.values()]
    locked = {name: packages for name in run.installs if (packages := run.install_packages(name))}
    return wanted + [plain(paths.install_lock(name), lock_text(packages)) for name, packages in locked.items()]


def contexts(run: HostRun) -> list[FileSpec]:
    """What the images of gpuhost's own are built from."""
    return [
        plain(f"{run.paths.image_context(build)}/{path}", file.text, file.mode)
        for build in sorted(_builds(run))
        for path, file in context(build).items()
    ]


def folders(run: HostRun) -> list[str]:
    """Every folder of both, outer ones first: who may write to one of them may change what root runs."""
    paths, tools = run.paths, PurePosixPath(run.paths.tools)
    shipped = [PurePosixPath(paths.programs, name) for name in folder(PROJECT / "files" / "host")]
    shipped += [PurePosixPath(paths.image_context(build), name) for build in _builds(run) for name in context(build)]
    below = {each for path in shipped for each in path.parents if tools in each.parents}
    return [paths.tools, *sorted(map(str, below)), paths.scripts]


def _builds(run: HostRun) -> set[str]:
    return {image.build for image in run.built_images.values()}
