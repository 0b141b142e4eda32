"""The checkout that is rehearsed, for a host that deploys itself."""

from __future__ import annotations

import subprocess
from pathlib import Path

from ..world.machine import PROJECT
from ..world.run import run
from ..world.world import World


def packed() -> bytes:
    """A tar of the files that git knows, as they are now."""
    files = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, check=True).stdout
    pack = ["tar", "-cz", "--null", "-T", "-"]
    return subprocess.run(pack, cwd=PROJECT, input=files, capture_output=True, check=True).stdout


def published(world: World, folder: Path) -> str:
    """The same as a repository of the world's git server, made in an empty folder; the URL that `git clone` takes."""
    run(["tar", "-xz", "-C", folder], input=packed())
    git = ["git", "-C", str(folder), "-c", "user.name=nobody", "-c", "user.email=nobody@rehearsal.invalid"]
    for words in (["init", "-q"], ["add", "--all"], ["commit", "-q", "-m", "as it is"]):
        run([*git, *words])
    run(["git", "clone", "-q", "--bare", folder, world.git_root / "acme/gpuhost.git"])
    return "https://github.com/acme/gpuhost.git"
