"""NVIDIA's driver: what is wrong with it, and whether it is ours to install. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gpuhost.catalog.types import Catalog
from gpuhost.host.facts import HostReading
from gpuhost.plan.change import Change, Resource

Finding = tuple[str, str]

# A release of Debian has one branch of the driver, in its component non-free; Ubuntu has several.
DEBIAN_BRANCHES = {"12": "535", "13": "550"}
_NO_MODULE = "couldn't communicate with the NVIDIA driver"
_REBOOT = "reboot the host, then run again"
_IN_WINDOWS = (
    "update the NVIDIA driver in Windows, `wsl --shutdown`, then run again; never install a Linux driver in WSL2"
)


@dataclass(frozen=True)
class Missing:
    """The driver to install: its packages, and whether it can be loaded only by a reboot (else it is tried)."""

    branch: str
    packages: Sequence[str]
    reboot: bool


def findings(reading: HostReading, catalog: Catalog) -> Iterator[Finding]:
    """Why the host cannot be used as its driver is; nothing when it works, or when it will be installed."""
    if reading.nvidia_error:
        yield _cause(reading)
    elif reading.nvidia_pci and not reading.gpus:
        if catalog.driver is None or reading.wsl:
            yield _absent(reading)
        else:
            yield from _not_installable(reading, catalog.driver)


def missing(reading: HostReading, catalog: Catalog) -> Missing | None:
    """The driver that this host lacks and the data asks for. Never on WSL2, and never where one is or works."""
    asked = catalog.driver
    if asked is None or reading.wsl or reading.gpus or reading.nvidia_error or not reading.nvidia_pci:
        return None
    marks: Mapping[str, str] = {"branch": asked, "arch": reading.deb_arch}
    packages = [name.format(**marks) for name in catalog.driver_packages["ubuntu" if _is_ubuntu(reading) else "debian"]]
    return Missing(asked, packages, reading.nouveau)


def loading(missing: Missing, allow_reboot: bool) -> Change:
    """What follows the installation: the driver is loaded, or the host is rebooted where it must and may be."""
    resource = Resource("driver", f"NVIDIA driver {missing.branch}")
    if not missing.reboot:
        return Change("gpu", resource, "load", "the host has a GPU and no driver")
    why = "the kernel's own driver (nouveau) has the GPU until then"
    return Change("gpu", resource, "reboot" if allow_reboot else "ask for a reboot", why)


def _is_ubuntu(reading: HostReading) -> bool:
    return reading.os_id == "ubuntu"


def _not_installable(reading: HostReading, asked: str) -> Iterator[Finding]:
    branch = None if _is_ubuntu(reading) else DEBIAN_BRANCHES.get(reading.os_version)
    if branch and branch != asked:
        yield (
            f"Debian {reading.os_version} has NVIDIA's driver {branch}, not {asked}",
            f'set `driver = "{branch}"`, or install another one yourself and leave `driver` out',
        )
    if reading.secure_boot:
        yield (
            "Secure Boot is on: the kernel would refuse the driver's module, which is built on the host",
            "install the driver yourself and enrol its key (`mokutil --import`), or turn Secure Boot off",
        )


def _absent(reading: HostReading) -> Finding:
    what = f"the host has {reading.nvidia_pci} NVIDIA device(s) but no working driver (no nvidia-smi)"
    if reading.wsl:
        return what, _IN_WINDOWS
    return what, 'install the NVIDIA driver and reboot, or set `driver = "580"` for gpuhost to do it; then run again'


def _cause(reading: HostReading) -> Finding:
    """The cause of a driver that fails, from its own words and from what the kernel has loaded."""
    said = reading.nvidia_error
    module, library = reading.nvidia_module, reading.nvidia_library
    if "Driver/library version mismatch" in said or (module and library and module != library):
        versions = f": the kernel runs {module}, the libraries are {library}" if module and library else ""
        return f"reboot needed: NVIDIA's driver was updated since the host started{versions}", _REBOOT
    if reading.wsl:
        return f"nvidia-smi fails: {said}", _IN_WINDOWS
    if _NO_MODULE in said and reading.nouveau:
        return (
            "the kernel's own driver (nouveau) has the GPU, so NVIDIA's cannot",
            f"the driver's packages switch nouveau off for the next boot: {_REBOOT}",
        )
    if _NO_MODULE in said and reading.secure_boot and not module:
        return (
            "NVIDIA's kernel module is not loaded: Secure Boot is on, the kernel takes no module without a known key",
            "enrol its key (`mokutil --import`, then a reboot), or turn Secure Boot off",
        )
    if _NO_MODULE in said and not module:
        return (
            "NVIDIA's kernel module is not loaded",
            "`modprobe nvidia` and `dkms status` say why: often the headers of this kernel are missing",
        )
    if "Unknown Error" in said or "GPU is lost" in said or "does not answer" in said:
        return f"a GPU does not answer: {said}", f"`journalctl -k | grep -i xid` says why; {_REBOOT}"
    if "No devices were found" in said:
        return (
            "the driver is loaded and finds no GPU that it can use",
            "`journalctl -k | grep NVRM` says why: often a power cable, or a card that wants another kind of driver",
        )
    return f"nvidia-smi fails: {said}", "reinstall the driver, or reboot if it was updated; then run again"
