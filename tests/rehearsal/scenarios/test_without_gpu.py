"""A host without a GPU goes the whole path too, alone and beside one that has one."""

from __future__ import annotations

import runpy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ..instruments.control import Control
from ..instruments.converged import QUICK, converged_host
from ..instruments.proof import Proof
from ..world.freshhost import FreshHost
from ..world.world import World

pytestmark = pytest.mark.rehearsal
Boot = Callable[..., FreshHost]
# Its runc is not ours to wrap (standins/scripts/runc): no limit is raised above that of the machine below.
DISTRO = {"engine_source": "distro", "services": {"orchestrator": {"open_files": 16384}}}


@pytest.fixture(scope="module")
def without_gpu(furnished: World) -> Iterator[Proof]:
    """A host without a GPU, with the distribution's own Docker packages, that went the whole path."""
    host = furnished.boot("nogpu", gpus=[])
    host.write_inventory({**furnished.host_data(), **QUICK, **DISTRO})
    proof = Proof(host, gpu=False)
    proof.run()
    yield proof
    furnished.destroy(host)


def test_without_a_gpu_its_services_are_skipped_and_the_rest_works(without_gpu: Proof) -> None:
    skipped = without_gpu.control.plan().document
    assert skipped and skipped["skipped"] == [
        {"host": "nogpu", "service": "comfyui-qwen", "reason": "it needs 1 NVIDIA GPU, this host has none"}
    ]
    assert "no NVIDIA GPU on this host" in without_gpu.control.text("plan").stderr
    installed = without_gpu.host.root("dpkg-query -W -f '${Package}\\n'").stdout.split()
    assert "docker.io" in installed and not [name for name in installed if "nvidia" in name]


@pytest.fixture
def with_gpu(furnished: World) -> Iterator[Proof]:
    """A converged host with a GPU."""
    proof = Proof(converged_host(furnished, "gpu1"))
    yield proof
    furnished.destroy(proof.host)


def test_two_hosts_in_one_inventory_and_one_is_refused(
    with_gpu: Proof, without_gpu: Proof, furnished: World, tmp_path: Path
) -> None:
    """One with a GPU, one without: planned and applied together; the refusal of one does not stop the other."""
    one, other = (runpy.run_path(str(proof.host.inventory))["hosts"][0] for proof in (with_gpu, without_gpu))
    other[1].update(DISTRO)
    (tmp_path / "inventory.py").write_text(f"hosts = {[one, other]!r}\n")
    (tmp_path / "group_data").mkdir()
    data = "".join(f"{name} = {value!r}\n" for name, value in {**furnished.host_data(), **QUICK}.items())
    (tmp_path / "group_data" / "all.py").write_text(data)
    both = Control(with_gpu.host, inventory=tmp_path / "inventory.py")
    assert both.plan().code == 0
    for proof in (with_gpu, without_gpu):
        proof.host.root("docker rm -f orchestrator", check=True)
    told = both.apply()
    assert told.code == 0, told.errors
    assert told.document and [(each["host"], each["resource"]["name"]) for each in told.document["changes"]] == [
        ("gpu1", "orchestrator"),
        ("nogpu", "orchestrator"),
    ]
    with_gpu.host.root("docker rm -f orchestrator && cp /etc/docker/daemon.json /root/kept", check=True)
    without_gpu.host.root("echo '{' > /etc/docker/daemon.json", check=True)
    told = both.plan()
    assert told.code == 1 and [error["host"] for error in told.errors] == ["nogpu"]
    assert ("stacks", "orchestrator", "create") in told.changes
    plain = both.pyinfra("-y")
    assert plain.returncode == 1 and "[nogpu] /etc/docker/daemon.json is not JSON" in plain.stderr
    assert with_gpu.host.root("docker ps -q --filter name=orchestrator").stdout  # the other one went its way
    without_gpu.host.root("rm /etc/docker/daemon.json", check=True)
    assert both.apply().code == 0
    assert both.plan().code == 0
