"""The systems that are supported, by what they say of themselves: which packages and repositories each gets, and which
are refused. The texts are those of /etc/os-release, /proc/1/comm and uname."""

from __future__ import annotations

import pytest

from gpuhost.engine.rules import pinned
from gpuhost.gpu.driver import missing
from gpuhost.gpu.rules import device_names
from gpuhost.host.facts import HostReading, parse
from gpuhost.host.preflight import problems
from tests.unit import sample

DEBIAN_12 = """PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"
NAME="Debian GNU/Linux"
VERSION_ID="12"
VERSION="12 (bookworm)"
VERSION_CODENAME=bookworm
ID=debian"""
DEBIAN_13 = """PRETTY_NAME="Debian GNU/Linux 13 (trixie)"
NAME="Debian GNU/Linux"
VERSION_ID="13"
VERSION="13 (trixie)"
VERSION_CODENAME=trixie
DEBIAN_VERSION_FULL=13.2
ID=debian"""
UBUNTU_22_04 = """PRETTY_NAME="Ubuntu 22.04.5 LTS"
NAME="Ubuntu"
VERSION_ID="22.04"
VERSION="22.04.5 LTS (Jammy Jellyfish)"
VERSION_CODENAME=jammy
ID=ubuntu
ID_LIKE=debian
UBUNTU_CODENAME=jammy"""
UBUNTU_24_04 = """PRETTY_NAME="Ubuntu 24.04.3 LTS"
NAME="Ubuntu"
VERSION_ID="24.04"
VERSION="24.04.3 LTS (Noble Numbat)"
VERSION_CODENAME=noble
ID=ubuntu
ID_LIKE=debian
UBUNTU_CODENAME=noble
LOGO=ubuntu-logo"""
UBUNTU_26_04 = UBUNTU_24_04.replace("24.04.3", "26.04").replace("24.04", "26.04").replace("noble", "resolute")
UBUNTU_25_10 = UBUNTU_24_04.replace("24.04.3 LTS", "25.10").replace("24.04", "25.10").replace("noble", "questing")
MINT = UBUNTU_24_04.replace("ID=ubuntu\n", "ID=linuxmint\n").replace("24.04.3 LTS", "22.1").replace("24.04", "22.1")
SUPPORTED = {
    "Debian 12": (DEBIAN_12, "debian", "12", "bookworm", False),
    "Debian 13": (DEBIAN_13, "debian", "13", "trixie", True),
    "Ubuntu 22.04": (UBUNTU_22_04, "ubuntu", "22.04", "jammy", False),
    "Ubuntu 24.04": (UBUNTU_24_04, "ubuntu", "24.04", "noble", True),
    "Ubuntu 26.04": (UBUNTU_26_04, "ubuntu", "26.04", "resolute", True),
}


def seen(release: str, arch: str = "x86_64", *more: str) -> HostReading:
    lines = [f"os\t{line}" for line in release.splitlines()]
    return parse([*lines, f"arch\t{arch}", "init\tsystemd", "cpus\t8", "memory_kib\t67108864", *more])


def refused(reading: HostReading, **data: object) -> list[str]:
    return [problem.what for problem in problems(reading, sample.catalog(data), ["api"], "gpu1")]


@pytest.mark.parametrize(("release", "system", "version", "suite", "distro"), SUPPORTED.values(), ids=SUPPORTED)
@pytest.mark.parametrize(("arch", "deb_arch"), [("x86_64", "amd64"), ("aarch64", "arm64")])
def test_a_supported_system(
    release: str, system: str, version: str, suite: str, distro: bool, arch: str, deb_arch: str
) -> None:
    reading = seen(release, arch)
    assert (reading.os_id, reading.os_version, reading.suite) == (system, version, suite)
    assert reading.url_marks == {"os": system, "suite": suite, "arch": deb_arch}
    assert refused(reading) == []
    assert bool(refused(reading, engine_source="distro")) is not distro
    [pin] = pinned(["docker-ce"], "28.3.3", reading.os_id, reading.os_version, reading.suite)
    assert pin == f"docker-ce=5:28.3.3-1~{system}.{version}~{suite}"


@pytest.mark.parametrize("release", [UBUNTU_25_10, MINT, "ID=arch\nPRETTY_NAME=Arch"], ids=["25.10", "Mint", "Arch"])
def test_a_system_that_is_not_supported(release: str) -> None:
    [what] = refused(seen(release))
    assert what.endswith("is not a system that gpuhost supports")


WSL = ("wsl\tyes", "gpu\t0, GPU-a, NVIDIA GeForce RTX 4090, 24564, 22000, 581.15, 8.9, [N/A]")


def test_wsl2() -> None:
    """No PCI device, libraries without a version, Windows's driver: never one of ours."""
    reading = seen(UBUNTU_24_04, "x86_64", *WSL, "nvidia_library\t/usr/lib/wsl/lib/libnvidia-ml.so.1")
    assert reading.wsl and reading.nvidia_pci == 0 and reading.nvidia_library == "" and len(reading.gpus) == 1
    assert refused(reading, driver="580", driver_packages={"debian": [], "ubuntu": []}) == []
    assert missing(reading, sample.catalog()) is None
    assert device_names([gpu.uuid for gpu in reading.gpus], reading.wsl) == ["all"]


def test_wsl2_without_systemd() -> None:
    reading = seen(UBUNTU_24_04, "x86_64", *WSL)
    reading.init = "init(Ubuntu-24.04)"
    [problem] = problems(reading, sample.catalog(), ["api"], "gpu1")
    assert "`[boot]` and `systemd=true` into /etc/wsl.conf" in problem.hint and "wsl --shutdown" in problem.hint


def test_a_path_of_windows_is_no_path() -> None:
    [problem] = sample.problems({"data_root": r"\\wsl.localhost\Ubuntu\srv\genai"})
    assert "is not an absolute path" in problem.what
