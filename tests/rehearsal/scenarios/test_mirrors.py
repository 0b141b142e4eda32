"""A world in which nothing but mirrors answers, and a host with the data that docs/howto/offline.md shows for it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..instruments.converged import GPU, QUICK
from ..instruments.guide import shown
from ..instruments.proof import Proof
from ..world.mirrors import public_pypi
from ..world.scenery import ENABLED, furnish
from ..world.world import World

pytestmark = [pytest.mark.rehearsal, pytest.mark.soak]
# The names in the guide -> the stand-in. Docker asks for a token where the registry's answer says; links of the package
# index lead to files under a name of their own.
MIRRORS = {
    "registry-mirror.example": "registry",
    "auth.docker.io": "registry",
    "apt-mirror.example": "nvidia-apt",
    "debian-mirror.example": "debian",
    "hub-mirror.example": "hub",
    "git-mirror.example": "git",
    "pytorch-mirror.example": "torch",
    "pypi-mirror.example": "pypi",
    public_pypi().files_name: "pypi",
}


@pytest.fixture
def mirrors(world: World, tmp_path: Path) -> Iterator[World]:
    """`world`: the machine is prepared, and a second world lives beside the first."""
    made = World(tmp_path / "mirrors")
    made.names = MIRRORS
    with made:
        furnish(made)
        yield made


def test_a_host_that_reaches_only_mirrors_is_deployed_with_the_data_of_the_guide(mirrors: World) -> None:
    host = mirrors.boot("mirrored", gpus=[GPU])
    host.root("sed -Ei 's#https?://[^/ ]+#https://debian-mirror.example#' /etc/apt/sources.list", check=True)
    [pip] = shown("offline", "ini")
    host.root("cat > /etc/pip.conf", input=pip, check=True)
    host.write_inventory({})
    (host.run_dir / "group_data/inventory.py").write_text(_not_mirrored(mirrors))
    [data] = shown("offline", "python")
    (host.run_dir / "group_data/all.py").write_text(data)
    proof = Proof(host)
    check, plan = (shlex.split(line)[1] for line in shown("offline", "sh")[-1].splitlines())
    assert (check, plan) == ("check", "plan")
    assert proof.control.text(check).returncode == 0
    planned = proof.control.plan()
    assert planned.code == 2, planned.errors
    proof.first_apply(planned)
    proof.answers("verify")
    proof.nothing_to_do()


def _not_mirrored(world: World) -> str:
    """What a mirror of this world cannot have: signatures of the real keys, commits of the real repositories."""
    data: dict[str, Any] = world.host_data()
    environment = data["installs"]["comfyui"]["environment"]
    commits = {name: environment[name] for name in ("COMFYUI_REF", "LOGIN_REF", "EXTRA_REQUIREMENTS")}
    keys = {"nvidia": {"key_url": "https://apt-mirror.example/libnvidia-container/gpgkey"}}
    own: dict[str, object] = {"installs": {"comfyui": {"environment": commits}}, "apt_repositories": keys}
    # The distribution's runc is not ours to wrap.
    own["services"] = {name: {"open_files": 16384} for name in ENABLED}
    return "".join(f"{name} = {value!r}\n" for name, value in {**data, **QUICK, **own}.items())
