"""The chain of proof: driver -> device files -> toolkit -> engine -> a container has the GPUs that it asked for, and
none when it asked for none -> what it computes on them is right. Pure: what was seen in, the first broken link out.

It is gone through when something that it rests on is another than at the last proof, whose record lies on the host.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from gpuhost.plan.change import Change, Resource
from gpuhost.plan.spec import differences, summary
from hostside.protocol.gpu_proof import GpuChainSeen, GpuContainerSeen

RESOURCE = Resource("proof", "containers reach the GPUs")
LINKS = ("driver", "device files", "toolkit", "engine", "container", "computation")
FULL = "CUDA_ERROR_OUT_OF_MEMORY"  # somebody has all of the card's memory: it was reached, and nothing was computed


@dataclass(frozen=True)
class Asked:
    """What the chain must show. `uuids`: the host's GPUs; `devices`: the names by which containers ask for them
    (on WSL2 one for all)."""

    uuids: Sequence[str]
    devices: Sequence[str]
    access: Literal["cdi", "runtime"]
    toolkit: str
    wsl: bool = False


class Broken(NamedTuple):
    """A link that does not hold."""

    link: str
    what: str
    hint: str


def reconcile(wanted: Mapping[str, Any], proved: Mapping[str, Any] | None) -> list[Change]:
    """Prove it when nobody has, or what it rests on has changed. Both are specs."""
    if proved is None:
        return [Change("gpu", RESOURCE, "prove", "never proved on this host")]
    diff = differences(proved, wanted)
    return [Change("gpu", RESOURCE, "prove", summary(diff), diff)] if diff else []


def broken(asked: Asked, seen: GpuChainSeen) -> Broken | None:
    """The first link that does not hold; what comes after it says nothing."""
    return next(_broken(asked, seen), None)


def uncomputed(seen: GpuChainSeen) -> list[str]:
    """The GPUs on which nothing was computed because their memory is full."""
    return sorted({gpu.uuid for each in seen.containers for gpu in each.gpus if gpu.error == FULL})


def _broken(asked: Asked, seen: GpuChainSeen) -> Iterator[Broken]:
    if missing := sorted(set(asked.uuids) - set(seen.uuids)):
        said = f" ({seen.said})" if seen.said else ""
        yield Broken(
            "driver", f"nvidia-smi does not name {', '.join(missing)}{said}", "run again; else reboot the host"
        )
    yield from _device_files(asked, seen.device_files)
    wanted = asked.toolkit.partition("-")[0]
    if seen.toolkit != wanted:
        hint = "`nvidia-ctk --version`; `which -a nvidia-ctk` shows whether another one comes first"
        yield Broken("toolkit", f"nvidia-ctk is {seen.toolkit or 'not there'}, not {wanted}", hint)
    yield from _engine(asked, seen)
    for container in seen.containers:
        yield from _container(asked, container)
    for container in seen.containers:
        yield from _computation(container)


def _device_files(asked: Asked, files: Sequence[str]) -> Iterator[Broken]:
    if asked.wsl:
        missing = [] if "/dev/dxg" in files else ["/dev/dxg"]
        hint = "`wsl --update` and `wsl --shutdown` in Windows"
    else:
        missing = [path for path in ("/dev/nvidiactl", "/dev/nvidia-uvm") if path not in files]
        cards = sum(path.removeprefix("/dev/nvidia").isdigit() for path in files)
        if cards < len(asked.uuids):
            missing.append(f"{len(asked.uuids) - cards} of /dev/nvidia0, /dev/nvidia1, ...")
        hint = "`nvidia-modprobe -u -c=0` makes them; nvidia-persistenced does at boot"
    if missing:
        yield Broken("device files", f"not there: {', '.join(missing)}", hint)


def _engine(asked: Asked, seen: GpuChainSeen) -> Iterator[Broken]:
    engine = seen.engine
    if engine.said:
        yield Broken("engine", f"Docker does not answer: {engine.said}", "`systemctl status docker`")
    elif asked.access == "runtime":
        if "nvidia" not in engine.runtimes:
            hint = "`runtimes` in /etc/docker/daemon.json; `systemctl restart docker`"
            yield Broken("engine", "Docker knows no runtime `nvidia`", hint)
    elif not engine.cdi_folders:
        hint = '`"features": {"cdi": true}` in /etc/docker/daemon.json; `systemctl restart docker`'
        yield Broken("engine", "Docker does not look for CDI devices", hint)
    elif engine.devices is not None:
        names = [f"nvidia.com/gpu={device}" for device in asked.devices]
        if missing := [name for name in names if name not in engine.devices]:
            hint = "`nvidia-ctk cdi list` beside `docker info`"
            yield Broken("engine", f"Docker does not see {', '.join(missing)}", hint)


def _container(asked: Asked, seen: GpuContainerSeen) -> Iterator[Broken]:
    who = f"a container that asks for {seen.device}" if seen.device else "a container that asks for no GPU"
    if not seen.ran:
        hint = "`docker run --rm --device nvidia.com/gpu=all ... nvidia-smi` on the host says more"
        yield Broken("container", f"{who} does not run: {seen.said}", hint)
        return
    has = sorted(gpu.uuid for gpu in seen.gpus)
    if seen.device is None:
        if has or seen.device_files:
            hint = "look for `default-runtime` in /etc/docker/daemon.json: it gives every container all of them"
            yield Broken("container", f"{who} has {', '.join(has or seen.device_files)}", hint)
        return
    if not seen.driver:
        why = f": {seen.said}" if seen.said else ""
        hint = "`nvidia-ctk cdi generate` must find libcuda.so.1, and the image what it needs: libdl, librt, libpthread"
        yield Broken("container", f"{who} cannot load CUDA's library (libcuda.so.1){why}", hint)
        return
    wanted = sorted(asked.uuids) if seen.device == "all" else [seen.device]
    if has != wanted:
        why = f" ({seen.said})" if seen.said else ""
        hint = "`nvidia-ctk cdi generate --output=/var/run/cdi/nvidia.yaml`, then run again"
        yield Broken("container", f"{who} has {', '.join(has) or 'none'}{why}", hint)


def _computation(seen: GpuContainerSeen) -> Iterator[Broken]:
    for gpu in seen.gpus:
        if gpu.wrong:
            hint = "the card or its memory is bad: `nvidia-smi -q -d ECC,PAGE_RETIREMENT`; test it alone"
            yield Broken("computation", f"{gpu.uuid} computes wrongly: {gpu.wrong} results are not right", hint)
        elif gpu.wrong is None and gpu.error != FULL:
            hint = "`nvidia-smi` and `journalctl -k | grep -i xid` say why"
            yield Broken("computation", f"nothing can be computed on {gpu.uuid}: {gpu.error}", hint)
