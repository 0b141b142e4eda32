"""What passes between the control side and `hostside.gpu_proof`. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class GpuChainRequest:
    """`devices`: the names by which containers ask for GPUs, each looked at in a container of its own; `source`: the
    program that is run there, in `image`, for at most `timeout_s`."""

    devices: list[str]
    access: Literal["cdi", "runtime"]
    image: str
    source: str
    timeout_s: int


@dataclass(frozen=True)
class EngineSeen:
    """What Docker says of itself. `devices`: those of CDI that it found, None when it is too old to say; `said`: its
    words when it says nothing else."""

    runtimes: list[str]
    cdi_folders: list[str]
    devices: list[str] | None
    said: str


@dataclass(frozen=True)
class ComputingGpu:
    """A GPU as a container has it. `wrong`: how many of its results are not right, None when it computed nothing, and
    then `error` is CUDA's name of the reason."""

    uuid: str
    wrong: int | None
    error: str


@dataclass(frozen=True)
class GpuContainerSeen:
    """A container that asked for a device (None: for none). `ran`: the program in it said something, else `said` is
    why not; `device_files`: of the cards, in it; `driver`: CUDA's library is in it."""

    device: str | None
    ran: bool
    device_files: list[str]
    driver: bool
    gpus: list[ComputingGpu]
    said: str


@dataclass(frozen=True)
class GpuChainSeen:
    """Every link of the chain. `uuids`: that nvidia-smi names, `said` its words when it names none; `device_files`:
    those of the host; `toolkit`: its version, "" when it does not say."""

    uuids: list[str]
    said: str
    device_files: list[str]
    toolkit: str
    engine: EngineSeen
    containers: list[GpuContainerSeen]
