"""The GPUs of a fresh host, as files that the stand-in nvidia-smi reads."""

from __future__ import annotations

import uuid as uuids
from dataclasses import dataclass
from pathlib import Path

from .cache import cached, digest
from .machine import REHEARSAL
from .run import run

DATA_DIR = "/usr/lib/nvidia-standin"
PROGRAM = "/usr/bin/nvidia-smi"
PROGRAM_SOURCE = REHEARSAL / "standins/scripts/nvidia-smi"
CUDA_LIBRARY = "/usr/lib/x86_64-linux-gnu/libcuda.so.1"
CUDA_SOURCE = REHEARSAL / "standins/scripts/libcuda.c"
COMPUTE_CAPS = {"H200": "9.0", "H100": "9.0", "4090": "8.9", "3090": "8.6", "A100": "8.0", "5090": "12.0"}


@dataclass(frozen=True)
class Gpu:
    """One GPU as nvidia-smi shows it; `apps` are compute processes: (pid, name, MiB)."""

    name: str
    memory_mib: int
    used_mib: int = 0
    uuid: str = ""
    driver: str = "580.159.04"
    compute_cap: str = ""
    apps: tuple[tuple[int, str, int], ...] = ()
    utilization: int = 0
    mig: str = "Disabled"
    reserved_mib: int = 300

    def identity(self, host: str, index: int) -> str:
        """Its UUID: the given one, else one that stays the same for this host and index."""
        return self.uuid or f"GPU-{uuids.uuid5(uuids.NAMESPACE_DNS, f'{host}.{index}.rehearsal.invalid')}"


def _cuda_library() -> bytes:
    """The stand-in for libcuda.so.1, made by this machine's compiler."""

    def make(folder: Path) -> None:
        run(["cc", "-shared", "-fPIC", "-O1", "-o", str(folder / "libcuda.so.1"), str(CUDA_SOURCE)])

    return (cached("libcuda", digest(CUDA_SOURCE), make) / "libcuda.so.1").read_bytes()


def gpu_files(host: str, gpus: list[Gpu]) -> dict[str, tuple[bytes, int]]:
    """The files below / that make `gpus` visible: path -> (content, mode); none for no GPUs."""
    if not gpus:
        return {}
    files: dict[str, tuple[bytes, int]] = {
        PROGRAM: (PROGRAM_SOURCE.read_bytes(), 0o755),
        CUDA_LIBRARY: (_cuda_library(), 0o644),
    }
    for index, gpu in enumerate(gpus):
        identity = gpu.identity(host, index)
        cap = gpu.compute_cap or next((cap for part, cap in COMPUTE_CAPS.items() if part in gpu.name), "8.6")
        fields = {
            "index": index,
            "uuid": identity,
            "name": gpu.name,
            "driver": gpu.driver,
            "total": gpu.memory_mib,
            "used": gpu.used_mib or sum(mib for _, _, mib in gpu.apps),
            "reserved": gpu.reserved_mib,
            "compute_cap": cap,
            "mig": gpu.mig if cap in ("8.0", "9.0", "10.0") else "[N/A]",
            "bus": f"00000000:{index + 1:02X}:00.0",
            "persistence": "Enabled",
            "ecc": "[N/A]" if "GeForce" in gpu.name else "Enabled",
            "power": "350.00",
            "utilization": gpu.utilization,
            "cuda": "13.0" if gpu.driver >= "580" else "12.8",
        }
        text = "".join(f"{key}={value}\n" for key, value in fields.items())
        files[f"{DATA_DIR}/{index:02d}.gpu"] = (text.encode(), 0o644)
        if gpu.apps:
            lines = "".join(f"{pid}|{name}|{mib}\n" for pid, name, mib in gpu.apps)
            files[f"{DATA_DIR}/{identity}.apps"] = (lines.encode(), 0o644)
    return files
