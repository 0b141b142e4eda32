"""The GPUs as nvidia-smi tells them: the reading's own script run by sh, with an `nvidia-smi` that answers from
recordings and from public samples of other cards and of drivers that do not work."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from gpuhost.gpu import facts
from gpuhost.gpu.facts import Gpu, GpuProcess, library_version, module_version
from gpuhost.gpu.rules import devices
from gpuhost.host.facts import HostReading, parse

RECORDED = Path(__file__).parent / "recorded"
# query.csv has more columns than we ask for: its own order, ours picked out.
QUERIED = [
    *("index", "uuid", "name", "memory.total", "memory.free", "memory.used", "driver_version", "compute_cap"),
    *("mig.mode.current", "pci.bus_id", "persistence_mode", "ecc.mode.current", "power.limit", "utilization.gpu"),
]

SMI = """#!/bin/sh
case "$1" in
  --query-gpu=*compute_cap*)
    [ ! -e "$SMI/old" ] || { echo 'Field "compute_cap" is not a valid field to query.'; exit 2; }
    cat "$SMI/gpus"; exit "$(cat "$SMI/code")";;
  --query-gpu=*) cut -d, -f1-6 "$SMI/gpus";;
  --query-compute-apps=*) cat "$SMI/apps";;
esac
"""


def read(folder: Path, gpus: str, apps: str = "", code: int = 0, old: bool = False) -> HostReading:
    """What the script says where nvidia-smi answers like this."""
    for name, text in (("gpus", gpus), ("apps", apps), ("code", str(code)), ("nvidia-smi", SMI)):
        (folder / name).write_text(text)
    (folder / "nvidia-smi").chmod(0o755)
    if old:
        (folder / "old").touch()
    script = (facts.DRIVER + facts.CARDS).replace("/sys/", f"{folder}/sys/").replace("/proc/", f"{folder}/proc/")
    done = subprocess.run(
        ["sh"],
        input=f"t=\"$(printf '\\t')\"\n{script}",
        env={"PATH": f"{folder}:{os.environ['PATH']}", "SMI": str(folder)},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return parse(done.stdout.splitlines())


def recorded_query() -> str:
    """The recording, in the columns that we ask for."""
    rows = [line.split(", ") for line in (RECORDED / "query.csv").read_text().splitlines()]
    return "".join(", ".join(row[QUERIED.index(field)] for field in facts.FIELDS) + "\n" for row in rows)


def test_the_recorded_h200(tmp_path: Path) -> None:
    found = read(tmp_path, recorded_query(), (RECORDED / "apps.csv").read_text())
    uuid = "GPU-00000000-1111-2222-3333-444444444444"
    assert found.gpus == [Gpu(uuid, "NVIDIA H200", 143771, 143156, "580.159.04", 0, "9.0", False, ())]
    assert found.nvidia_error == ""


def test_the_script_on_a_real_h200_while_a_program_holds_memory() -> None:
    """What it printed there, but for the UUID."""
    found = parse((RECORDED / "reading.txt").read_text().splitlines())
    uuid, process = "GPU-00000000-1111-2222-3333-444444444444", GpuProcess(455, "python3", 1542)
    assert found.gpus == [Gpu(uuid, "NVIDIA H200", 143771, 141606, "580.159.04", 0, "9.0", False, (process,))]
    assert found.nvidia_module == found.nvidia_library == "580.159.04"


def test_the_recorded_cdi_specification_names_the_card() -> None:
    assert devices((RECORDED / "cdi.yaml").read_text()) == ["0", "GPU-00000000-1111-2222-3333-444444444444", "all"]


# Public samples: what the line says, what is made of it.
SAMPLES = {
    "a GeForce, which has no MIG": (
        "0, GPU-a, NVIDIA GeForce RTX 3090, 24576, 24258, 535.183.01, 8.6, [N/A]",
        Gpu("GPU-a", "NVIDIA GeForce RTX 3090", 24576, 24258, "535.183.01", 0, "8.6"),
    ),
    "an A100 that is cut into instances": (
        "3, GPU-b, NVIDIA A100-SXM4-80GB, 81920, 81046, 550.90.07, 8.0, Enabled",
        Gpu("GPU-b", "NVIDIA A100-SXM4-80GB", 81920, 81046, "550.90.07", 3, "8.0", True),
    ),
    "memory that is the host's": (
        "0, GPU-c, NVIDIA GB10, [N/A], [N/A], 580.95.05, 12.1, [N/A]",
        Gpu("GPU-c", "NVIDIA GB10", 0, 0, "580.95.05", 0, "12.1"),
    ),
    "a card of long ago": (
        "1, GPU-d, Tesla K80, 11441, 11438, 470.256.02, [Not Supported], [Not Supported]",
        Gpu("GPU-d", "Tesla K80", 11441, 11438, "470.256.02", 1),
    ),
}


@pytest.mark.parametrize(("line", "gpu"), SAMPLES.values(), ids=SAMPLES)
def test_other_cards(tmp_path: Path, line: str, gpu: Gpu) -> None:
    assert read(tmp_path, f"{line}\n").gpus == [gpu]


def test_a_driver_that_does_not_know_every_field_is_asked_again(tmp_path: Path) -> None:
    found = read(tmp_path, "0, GPU-d, Tesla K80, 11441, 11438, 470.256.02, x, x\n", old=True)
    assert found.gpus == [Gpu("GPU-d", "Tesla K80", 11441, 11438, "470.256.02")]


def test_who_holds_memory(tmp_path: Path) -> None:
    two = "0, GPU-a, NVIDIA L4, 23034, 1000, 580.1, 8.9, [N/A]\n1, GPU-b, NVIDIA L4, 23034, 22000, 580.1, 8.9, [N/A]\n"
    apps = "4711, python3, 640, GPU-a\n12, /opt/a, b/c, 1, GPU-a\n13, [Not Found], [N/A], GPU-b\n14, x, 1, GPU-gone\n"
    found = read(tmp_path, two, f"No running processes found\n{apps}")
    assert [each.processes for each in found.gpus] == [
        (GpuProcess(4711, "python3", 640), GpuProcess(12, "/opt/a, b/c", 1)),
        (GpuProcess(13, "[Not Found]", 0),),
    ]


def test_the_name_of_a_process_is_bounded(tmp_path: Path) -> None:
    found = read(tmp_path, "0, GPU-a, NVIDIA L4, 23034, 1000, 580.1, 8.9, [N/A]\n", f"1, {'x' * 5000}, 1, GPU-a\n")
    assert len(found.gpus[0].processes[0].name) == 200


@pytest.mark.parametrize(
    ("said", "code", "error"),
    [
        (
            "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.65\n",
            18,
            "Failed to initialize NVML: Driver/library version mismatch NVML library version: 580.65",
        ),
        ("Failed to initialize NVML: Unknown Error\n", 255, "Failed to initialize NVML: Unknown Error"),
        (
            "Unable to determine the device handle for GPU 0000:01:00.0: Unknown Error\n",
            15,
            "Unable to determine the device handle for GPU 0000:01:00.0: Unknown Error",
        ),
        ("No devices were found\n", 6, "No devices were found"),
        ("No devices were found\n", 0, "No devices were found"),
        ("", 0, "it names no GPU"),
        ("0, GPU-a, NVIDIA L4, [Unknown Error], [Unknown Error], 580.1, 8.9, [N/A]\n", 0, "GPU 0: Unknown Error"),
        ("1, GPU-a, [GPU is lost], [GPU is lost], [GPU is lost], 580.1, 8.9, [N/A]\n", 0, "GPU 1: GPU is lost"),
    ],
)
def test_a_driver_that_does_not_work_is_no_gpu(tmp_path: Path, said: str, code: int, error: str) -> None:
    found = read(tmp_path, said, code=code)
    assert (found.gpus, found.nvidia_error) == ([], error)


def test_what_the_kernel_has(tmp_path: Path) -> None:
    for vendor, device in (("0x10de", "0x030200"), ("0x10de", "0x040300"), ("0x8086", "0x030000")):
        folder = tmp_path / "sys/bus/pci/devices" / f"{vendor}{device}"
        folder.mkdir(parents=True)
        (folder / "vendor").write_text(f"{vendor}\n")
        (folder / "class").write_text(f"{device}\n")
    (tmp_path / "sys/module/nouveau").mkdir(parents=True)
    variables = tmp_path / "sys/firmware/efi/efivars"
    variables.mkdir(parents=True)
    (variables / "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c").write_bytes(b"\x06\0\0\0\x01")
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\nGCC version:  12.2\n"
    )
    found = read(tmp_path, "x", code=9)
    assert (found.nvidia_pci, found.nouveau, found.secure_boot) == (1, True, True)
    assert found.nvidia_module == "535.183.01"


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (" NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build  (x@)", "580.159.04"),
        (" NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024", "535.183.01"),
        (" NVIDIA UNIX Open Kernel Module for aarch64  580.65  Release Build", "580.65"),
        ("", ""),
    ],
)
def test_the_version_of_the_module(text: str, version: str) -> None:
    assert module_version(text) == version


@pytest.mark.parametrize(
    ("path", "version"),
    [
        ("/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.580.159.04", "580.159.04"),
        ("/usr/lib/wsl/drivers/nv_dispi.inf_amd64_1/libnvidia-ml.so.1", ""),
        ("/usr/lib/wsl/lib/libnvidia-ml.so.1", ""),
    ],
)
def test_the_version_of_the_libraries(path: str, version: str) -> None:
    assert library_version(path) == version


@pytest.mark.parametrize(
    ("cgroup", "container"),
    [
        (f"0::/system.slice/docker-{'a' * 64}.scope\n", "a" * 64),
        (f"12:devices:/docker/{'b' * 64}\n0::/docker/{'b' * 64}\n", "b" * 64),
        ("0::/user.slice/user-1000.slice/session-1.scope\n", ""),
        (None, ""),
    ],
)
def test_the_container_of_a_process_is_read_from_its_cgroup(tmp_path: Path, cgroup: str | None, container: str) -> None:
    if cgroup is not None:
        (tmp_path / "proc" / "455").mkdir(parents=True)
        (tmp_path / "proc" / "455" / "cgroup").write_text(cgroup)
    apps = "455, python3, 1542, GPU-00000000-1111-2222-3333-444444444444\n[N/A], [N/A], [N/A], [N/A]\n"
    [found] = read(tmp_path, recorded_query(), apps).gpus
    assert found.processes == (GpuProcess(455, "python3", 1542, container),)
