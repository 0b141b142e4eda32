"""The chain from the driver to a computation in a container: which link is broken, and when it is gone through."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpuhost.gpu.proof import LINKS, Asked, broken, reconcile, uncomputed
from hostside.protocol.gpu_proof import ComputingGpu, EngineSeen, GpuChainSeen, GpuContainerSeen
from hostside.wire import from_host

A, B = "GPU-aaaaaaaa-1111-2222-3333-444444444444", "GPU-bbbbbbbb-1111-2222-3333-444444444444"
NODES = ["/dev/nvidia-uvm", "/dev/nvidia0", "/dev/nvidia1", "/dev/nvidiactl"]
ASKED = Asked([A, B], [A, B], "cdi", "1.20.0-1")
ENGINE = EngineSeen(["runc"], ["/etc/cdi", "/var/run/cdi"], None, "")


def has(device: str | None, *uuids: str, wrong: int | None = 0, error: str = "", **over: Any) -> GpuContainerSeen:
    device_files = [f"/dev/nvidia{number}" for number, _ in enumerate(uuids)]
    gpus = [ComputingGpu(uuid, wrong, error) for uuid in uuids]
    return replace(GpuContainerSeen(device, True, device_files, bool(uuids), gpus, ""), **over)


NONE = has(None, said="libcuda.so.1: cannot open shared object file")
RIGHT = GpuChainSeen([A, B], "", NODES, "1.20.0", ENGINE, [NONE, has(A, A), has(B, B)])


def test_a_chain_that_holds() -> None:
    assert broken(ASKED, RIGHT) is None and uncomputed(RIGHT) == []


def engine(**over: Any) -> dict[str, Any]:
    return {"engine": replace(ENGINE, **over)}


def containers(*seen: GpuContainerSeen) -> dict[str, Any]:
    return {"containers": list(seen)}


BROKEN: dict[str, tuple[dict[str, Any], str, str]] = {
    "a card less": ({"uuids": [A]}, "driver", f"nvidia-smi does not name {B}"),
    "no driver": ({"uuids": [], "said": "boom"}, "driver", f"nvidia-smi does not name {A}, {B} (boom)"),
    "no nodes": (
        {"device_files": []},
        "device files",
        "not there: /dev/nvidiactl, /dev/nvidia-uvm, 2 of /dev/nvidia0, /dev/nvidia1, ...",
    ),
    "a node less": (
        {"device_files": [node for node in NODES if node != "/dev/nvidia1"]},
        "device files",
        "not there: 1 of /dev/nvidia0, /dev/nvidia1, ...",
    ),
    "no toolkit": ({"toolkit": ""}, "toolkit", "nvidia-ctk is not there, not 1.20.0"),
    "another toolkit": ({"toolkit": "1.19.0"}, "toolkit", "nvidia-ctk is 1.19.0, not 1.20.0"),
    "no engine": (engine(said="permission denied"), "engine", "Docker does not answer: permission denied"),
    "CDI is off": (engine(cdi_folders=[]), "engine", "Docker does not look for CDI devices"),
    "the engine does not see a device": (
        engine(devices=[f"nvidia.com/gpu={A}"]),
        "engine",
        f"Docker does not see nvidia.com/gpu={B}",
    ),
    "a container does not run": (
        containers(replace(NONE, ran=False, said="no such image"), has(A, A), has(B, B)),
        "container",
        "a container that asks for no GPU does not run: no such image",
    ),
    "a container has what it did not ask for": (
        containers(has(None, A), has(A, A), has(B, B)),
        "container",
        f"a container that asks for no GPU has {A}",
    ),
    "a container has a node that it did not ask for": (
        containers(replace(NONE, device_files=["/dev/nvidia0"]), has(A, A), has(B, B)),
        "container",
        "a container that asks for no GPU has /dev/nvidia0",
    ),
    "a device that cannot be given": (
        containers(NONE, replace(has(A), ran=False, said="unresolvable CDI devices"), has(B, B)),
        "container",
        f"a container that asks for {A} does not run: unresolvable CDI devices",
    ),
    "no library": (
        containers(NONE, has(A, driver=False, said="libcuda.so.1: cannot open"), has(B, B)),
        "container",
        f"a container that asks for {A} cannot load CUDA's library (libcuda.so.1): libcuda.so.1: cannot open",
    ),
    "the other card": (containers(NONE, has(A, B), has(B, B)), "container", f"a container that asks for {A} has {B}"),
    "both cards": (containers(NONE, has(A, A, B)), "container", f"a container that asks for {A} has {A}, {B}"),
    "no card": (
        containers(NONE, has(A, A), has(B, driver=True, said="CUDA_ERROR_NO_DEVICE")),
        "container",
        f"a container that asks for {B} has none (CUDA_ERROR_NO_DEVICE)",
    ),
    "wrong results": (
        containers(NONE, has(A, A), has(B, B, wrong=3)),
        "computation",
        f"{B} computes wrongly: 3 results are not right",
    ),
    "no results": (
        containers(NONE, has(A, A, wrong=None, error="CUDA_ERROR_UNKNOWN"), has(B, B)),
        "computation",
        f"nothing can be computed on {A}: CUDA_ERROR_UNKNOWN",
    ),
}


@pytest.mark.parametrize(("over", "link", "what"), BROKEN.values(), ids=BROKEN)
def test_the_first_link_that_does_not_hold_is_told(over: dict[str, Any], link: str, what: str) -> None:
    found = broken(ASKED, replace(RIGHT, **over))
    assert found is not None and (found.link, found.what) == (link, what) and found.hint


H200 = "GPU-00000000-1111-2222-3333-444444444444"
SEEN_THERE = {
    "whole": None,
    "no-cdi": (
        "container",
        f"a container that asks for {H200} does not run: docker: Error response from daemon: CDI device injection"
        f" failed: unresolvable CDI devices nvidia.com/gpu={H200}.",
    ),
    "image-without-libdl": (
        "container",
        f"a container that asks for {H200} cannot load CUDA's library (libcuda.so.1): libdl.so.2: cannot open shared"
        " object file: No such file or directory",
    ),
}


@pytest.mark.parametrize("name", SEEN_THERE)
def test_what_a_real_card_engine_and_toolkit_showed(name: str) -> None:
    """Recorded by our program on an H200 (UUID replaced), driver 580.159.04, Docker 26.1.5, nvidia-ctk 1.20.0."""
    text = (Path(__file__).parent / f"recorded/chain-{name}.json").read_text()
    asked = Asked([H200], [H200], "cdi", "1.20.0-1")
    found = broken(asked, from_host(GpuChainSeen, text))
    assert (found and (found.link, found.what)) == SEEN_THERE[name]


def test_a_link_hides_those_after_it() -> None:
    overs = {over[1]: over[0] for over in BROKEN.values()}
    assert list(overs) == list(LINKS)  # every link can break
    seen = RIGHT
    for link in reversed(LINKS):
        seen = replace(seen, **overs[link])
        found = broken(ASKED, seen)
        assert found is not None and found.link == link


def test_a_card_whose_memory_is_full_is_reached_all_the_same() -> None:
    seen = replace(RIGHT, containers=[NONE, has(A, A, wrong=None, error="CUDA_ERROR_OUT_OF_MEMORY"), has(B, B)])
    assert broken(ASKED, seen) is None and uncomputed(seen) == [A]


def test_by_the_nvidia_runtime() -> None:
    asked = replace(ASKED, access="runtime")
    found = broken(asked, replace(RIGHT, engine=replace(ENGINE, cdi_folders=[])))
    assert found is not None and found.what == "Docker knows no runtime `nvidia`"
    assert broken(asked, replace(RIGHT, engine=replace(ENGINE, runtimes=["nvidia", "runc"], cdi_folders=[]))) is None


def test_on_wsl2_one_device_is_all_cards() -> None:
    asked = replace(ASKED, devices=["all"], wsl=True)
    seen = replace(RIGHT, device_files=["/dev/dxg"], containers=[NONE, has("all", B, A)])
    assert broken(asked, seen) is None
    found = broken(asked, replace(seen, device_files=[]))
    assert found is not None and (found.link, found.what) == ("device files", "not there: /dev/dxg")


WANTED = {"gpus": [A], "driver": "580.1", "toolkit": "1.20.0-1", "engine": "29.0.1"}


@pytest.mark.parametrize(
    ("proved", "reason"),
    [
        (None, "never proved on this host"),
        (WANTED, None),
        ({**WANTED, "driver": "570.2"}, "driver: 570.2 -> 580.1"),
        ({**WANTED, "driver": "570.2", "gpus": []}, "driver, gpus differ"),
    ],
)
def test_it_is_gone_through_when_what_it_rests_on_changes(proved: dict[str, Any] | None, reason: str | None) -> None:
    found = reconcile(WANTED, proved)
    assert [change.reason for change in found] == ([reason] if reason else [])
    assert all((change.stage, change.action) == ("gpu", "prove") for change in found)
