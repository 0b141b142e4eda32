"""What is wrong with a driver, and when it is ours to install."""

from __future__ import annotations

from typing import Any

import pytest

from gpuhost.gpu.driver import Missing, findings, loading, missing
from tests.unit import sample

MISMATCH = "Failed to initialize NVML: Driver/library version mismatch NVML library version: 580.65"
SILENT = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA "
    "driver is installed and running."
)
DEBIAN_12 = {"ID": "debian", "VERSION_ID": "12", "VERSION_CODENAME": "bookworm"}
UBUNTU = {"ID": "ubuntu", "VERSION_ID": "24.04", "VERSION_CODENAME": "noble"}
PACKAGES = {
    "debian": ["linux-headers-{arch}", "nvidia-driver"],
    "ubuntu": ["linux-headers-generic", "nvidia-headless-{branch}-server"],
}
IN_WINDOWS = (
    "update the NVIDIA driver in Windows, `wsl --shutdown`, then run again; never install a Linux driver in WSL2"
)


def found(seen: dict[str, Any], wanted: dict[str, Any] | None = None) -> list[tuple[str, str]]:
    return list(findings(sample.reading(**seen), sample.catalog({"driver_packages": PACKAGES, **(wanted or {})})))


BROKEN: dict[str, tuple[dict[str, Any], str, str]] = {
    "updated since the start": (
        {"nvidia_error": MISMATCH, "nvidia_module": "570.158.01", "nvidia_library": "580.65.06"},
        "reboot needed: NVIDIA's driver was updated since the host started: the kernel runs 570.158.01, the libraries "
        "are 580.65.06",
        "reboot the host, then run again",
    ),
    "updated, and nvidia-smi says something else": (
        {"nvidia_error": "Failed to initialize NVML", "nvidia_module": "570.1", "nvidia_library": "580.2"},
        "reboot needed: NVIDIA's driver was updated since the host started: the kernel runs 570.1, the libraries are "
        "580.2",
        "reboot the host, then run again",
    ),
    "updated, versions unknown": (
        {"nvidia_error": MISMATCH},
        "reboot needed: NVIDIA's driver was updated since the host started",
        "reboot the host, then run again",
    ),
    "nouveau": (
        {"nvidia_error": SILENT, "nouveau": True, "secure_boot": True},
        "the kernel's own driver (nouveau) has the GPU, so NVIDIA's cannot",
        "the driver's packages switch nouveau off for the next boot: reboot the host, then run again",
    ),
    "Secure Boot": (
        {"nvidia_error": SILENT, "secure_boot": True},
        "NVIDIA's kernel module is not loaded: Secure Boot is on, the kernel takes no module without a known key",
        "enrol its key (`mokutil --import`, then a reboot), or turn Secure Boot off",
    ),
    "no module": (
        {"nvidia_error": SILENT},
        "NVIDIA's kernel module is not loaded",
        "`modprobe nvidia` and `dkms status` say why: often the headers of this kernel are missing",
    ),
    "a card that fell off the bus": (
        {"nvidia_error": "GPU 1: GPU is lost", "nvidia_module": "580.1", "nvidia_library": "580.1"},
        "a GPU does not answer: GPU 1: GPU is lost",
        "`journalctl -k | grep -i xid` says why; reboot the host, then run again",
    ),
    "an unknown error": (
        {"nvidia_error": "Failed to initialize NVML: Unknown Error"},
        "a GPU does not answer: Failed to initialize NVML: Unknown Error",
        "`journalctl -k | grep -i xid` says why; reboot the host, then run again",
    ),
    "a driver that hangs": (
        {"nvidia_error": "it does not answer within 60 s"},
        "a GPU does not answer: it does not answer within 60 s",
        "`journalctl -k | grep -i xid` says why; reboot the host, then run again",
    ),
    "no card that it can use": (
        {"nvidia_error": "No devices were found", "nvidia_module": "580.1", "nvidia_library": "580.1"},
        "the driver is loaded and finds no GPU that it can use",
        "`journalctl -k | grep NVRM` says why: often a power cable, or a card that wants another kind of driver",
    ),
    "WSL2": ({"nvidia_error": "boom", "wsl": True}, "nvidia-smi fails: boom", IN_WINDOWS),
    "anything else": (
        {"nvidia_error": "boom"},
        "nvidia-smi fails: boom",
        "reinstall the driver, or reboot if it was updated; then run again",
    ),
}


@pytest.mark.parametrize(("seen", "what", "hint"), BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("driver", [None, "550"])
def test_one_cause_of_a_driver_that_fails(seen: dict[str, Any], what: str, hint: str, driver: str | None) -> None:
    """Also where a driver is asked for: one that is there is not ours to replace."""
    assert found({"gpus": [], **seen}, {"driver": driver}) == [(what, hint)]
    assert (
        missing(sample.reading(**{"gpus": [], **seen}), sample.catalog({"driver": driver, "driver_packages": PACKAGES}))
        is None
    )


def test_a_driver_that_works_is_left_alone() -> None:
    other = {"nvidia_module": "580.1", "nvidia_library": "580.1", "nouveau": True, "secure_boot": True}
    for driver in (None, "570"):
        assert found(other, {"driver": driver}) == []
        assert missing(sample.reading(**other), sample.catalog({"driver": driver, "driver_packages": PACKAGES})) is None


def test_no_driver_and_none_asked_for() -> None:
    what = "the host has 1 NVIDIA device(s) but no working driver (no nvidia-smi)"
    hint = 'install the NVIDIA driver and reboot, or set `driver = "580"` for gpuhost to do it; then run again'
    assert found({"gpus": []}) == [(what, hint)]
    for driver in (None, "580"):  # never on WSL2
        assert found({"gpus": [], "wsl": True}, {"driver": driver}) == [(what, IN_WINDOWS)]


@pytest.mark.parametrize(
    ("seen", "driver", "what"),
    [
        ({}, "580", "Debian 13 has NVIDIA's driver 550, not 580"),
        ({"os": DEBIAN_12}, "550", "Debian 12 has NVIDIA's driver 535, not 550"),
        (
            {"secure_boot": True},
            "550",
            "Secure Boot is on: the kernel would refuse the driver's module, which is built on the host",
        ),
    ],
)
def test_a_driver_that_cannot_be_installed(seen: dict[str, Any], driver: str, what: str) -> None:
    assert [text for text, _ in found({"gpus": [], **seen}, {"driver": driver})] == [what]


@pytest.mark.parametrize(
    ("seen", "driver", "wanted"),
    [
        ({}, "550", Missing("550", ["linux-headers-amd64", "nvidia-driver"], False)),
        ({"arch": "aarch64"}, "550", Missing("550", ["linux-headers-arm64", "nvidia-driver"], False)),
        ({"os": DEBIAN_12, "nouveau": True}, "535", Missing("535", ["linux-headers-amd64", "nvidia-driver"], True)),
        ({"os": UBUNTU}, "580", Missing("580", ["linux-headers-generic", "nvidia-headless-580-server"], False)),
        ({}, None, None),
        ({"wsl": True}, "550", None),
        ({"nvidia_pci": 0}, "550", None),
    ],
)
def test_the_driver_that_is_missing(seen: dict[str, Any], driver: str | None, wanted: Missing | None) -> None:
    catalog = sample.catalog({"driver": driver, "driver_packages": PACKAGES})
    assert missing(sample.reading(**{"gpus": [], **seen}), catalog) == wanted
    if wanted:
        assert found({"gpus": [], **seen}, {"driver": driver}) == []


@pytest.mark.parametrize(
    ("reboot", "allowed", "action"),
    [(False, False, "load"), (False, True, "load"), (True, False, "ask for a reboot"), (True, True, "reboot")],
)
def test_a_reboot_is_made_only_where_it_must_and_may_be(reboot: bool, allowed: bool, action: str) -> None:
    change = loading(Missing("550", ["nvidia-driver"], reboot), allowed)
    assert change.key == ("gpu", "driver", "NVIDIA driver 550", action)
    assert change.reason == (
        "the kernel's own driver (nouveau) has the GPU until then" if reboot else "the host has a GPU and no driver"
    )
