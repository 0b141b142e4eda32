"""The playground: a world that somebody keeps to try things in."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from ..world.cache import cache_dir
from ..world.machine import PROJECT
from ..world.run import run
from ..world.world import World, clean

pytestmark = pytest.mark.rehearsal


def test_a_kept_world_holds_what_a_deploy_asks_for_and_goes_by_the_printed_command(
    world: World, tmp_path: Path
) -> None:
    """`world`: the machine is prepared, and a second world lives beside the first."""
    shell = [sys.executable, "-m", "tests.rehearsal.shell"]
    shown = run([*shell, "--keep", "--name", "kept", "--run-dir", tmp_path / "kept"], cwd=PROJECT).stdout
    operate, inventory = (find(rf"^{word}\s+(\S+)", shown) for word in ("operate", "inventory"))
    kept_id, removal = find(r"^world\s+(\S+)", shown), find(r"remove it with: (.*)$", shown)
    try:
        data = runpy.run_path(str(Path(inventory).parent / "group_data" / "all.py"))
        shipped = runpy.run_path(str(PROJECT / "group_data" / "all.py"))
        [install] = data["installs"].values()
        asked = install["environment"]
        for url, ref in ((asked["COMFYUI_URL"], asked["COMFYUI_REF"]), (asked["LOGIN_URL"], asked["LOGIN_REF"])):
            assert ref in run([operate, "git", "ls-remote", url]).stdout
        fetch = [operate, "curl", "-fsS", "-o", "/dev/null"]
        for name in ("torch", "torchvision", "torchaudio"):
            run([*fetch, f"{asked['TORCH_INDEX_URL']}/{name}/"])
        for model in shipped["models"].values():
            for file in model.get("links", ()):
                run([*fetch, f"{shipped['hub_endpoint']}/{model['repo']}/resolve/main/{file}"])
    finally:
        assert removal.split() == ["python", "-m", "tests.rehearsal.shell", "--clean", kept_id]
        assert run([*shell, *removal.split()[3:]], cwd=PROJECT).stdout == f"removed: {kept_id}\n"
    assert not (cache_dir() / "worlds" / f"{kept_id}.json").exists()
    assert run(["docker", "ps", "-aq", "--filter", f"name=gpuhost-{kept_id}-"]).stdout == ""
    assert (cache_dir() / "worlds" / f"{world.id}.json").exists()


OWNER = """
import sys, time
from pathlib import Path
from tests.rehearsal.world.world import World
with World(Path(sys.argv[1])) as world:
    print(world.id, flush=True)
    time.sleep(600)
"""


def test_what_a_killed_session_left_is_removed_by_the_next(world: World, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path / "left")], cwd=PROJECT, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout
        left = owner.stdout.readline().strip()
        owner.kill()
    network = ["docker", "network", "ls", "-q", "--filter", f"name=gpuhost-{left}"]
    assert run(network).stdout
    clean(kept=False)
    assert not run(network).stdout
    notes = [path.stem for path in (cache_dir() / "worlds").glob("*.json")]
    assert left not in notes and world.id in notes


def find(pattern: str, text: str) -> str:
    """The group of a pattern that a line of the text matches."""
    found = re.search(pattern, text, re.M)
    assert found, f"no {pattern} in:\n{text}"
    return found.group(1)
