"""When the CDI specification is made anew, and why."""

from __future__ import annotations

from typing import Any

import pytest

from gpuhost.gpu import rules
from gpuhost.gpu.facts import Gpu
from gpuhost.gpu.rules import devices, reconcile, stamped
from tests.unit import sample

CDI = "cdiVersion: 0.7.0\ndevices:\n- name: GPU-a\n- name: all\n"
WANTED: dict[str, object] = {"gpus": ["GPU-a", "GPU-b"], "driver": "580.1", "toolkit": "1.20.0-1"}


@pytest.mark.parametrize(
    ("stamp", "devices", "reason"),
    [
        (WANTED, ["GPU-a", "GPU-b", "all"], None),
        (None, ["GPU-a", "GPU-b", "all"], "never made by us"),
        ({**WANTED, "driver": "570.2"}, ["GPU-a", "GPU-b"], "made for another driver"),
        ({**WANTED, "toolkit": "1.18.0-1", "gpus": ["GPU-a"]}, ["GPU-a"], "made for another gpus, toolkit"),
        (WANTED, ["GPU-a", "all"], "it does not name GPU-b"),
        (WANTED, [], "it does not name GPU-a, GPU-b"),
    ],
)
def test_reason(stamp: dict[str, Any] | None, devices: list[str], reason: str | None) -> None:
    found = reconcile(WANTED, stamp, devices)
    assert [change.reason for change in found] == ([reason] if reason else [])
    keys = {change.key for change in found}
    assert keys <= {("gpu", "CDI specification", "/var/run/cdi/nvidia.yaml", "refresh")}


@pytest.mark.parametrize(
    ("text", "names"),
    [(CDI, ["GPU-a", "all"]), ("", []), ("devices:", []), ("[", []), ("- a\n- b", []), ("devices: [{x: 1}]", [])],
)
def test_a_cdi_file_that_cannot_be_read_names_nothing(text: str, names: list[str]) -> None:
    assert devices(text) == names


@pytest.mark.parametrize(
    ("text", "value"), [('{"driver": "1"}', {"driver": "1"}), (None, None), ("", None), ("[]", None)]
)
def test_a_stamp_that_cannot_be_read_is_none(text: str | None, value: object) -> None:
    """A power cut may leave an empty one."""
    assert stamped(text) == value


@pytest.mark.parametrize(
    ("asked", "engine", "access", "reason"),
    [
        ("auto", "", "cdi", "Docker 26.1 or later"),  # the one that will be installed
        ("auto", "26.1.5+dfsg1", "cdi", "Docker 26.1 or later"),
        ("auto", "25.0.5", "runtime", "Docker 25.0.5 runs here, CDI needs 26.1 or later"),
        ("cdi", "29.0.1", "cdi", '`gpu_access = "cdi"`'),
        ("runtime", "29.0.1", "runtime", '`gpu_access = "runtime"`'),
    ],
)
def test_how_containers_get_gpus(asked: Any, engine: str, access: str, reason: str) -> None:
    assert rules.access(asked, engine) == (access, reason)


def test_units_of_the_toolkit_that_would_not_run_at_boot() -> None:
    states = {"nvidia-cdi-refresh.path": "disabled", "nvidia-cdi-refresh.service": "masked", "other.service": "masked"}
    assert [(change.resource.name, change.reason) for change in rules.units(states)] == [
        ("nvidia-cdi-refresh.path", "it is disabled: no CDI specification would be made at boot"),
        ("nvidia-cdi-refresh.service", "it is masked: no CDI specification would be made at boot"),
    ]
    assert {change.key for change in rules.units(states)} == {
        ("gpu", "unit", f"nvidia-cdi-refresh.{kind}", "enable") for kind in ("path", "service")
    }
    assert rules.units({"nvidia-cdi-refresh.path": "enabled", "nvidia-cdi-refresh.service": "static"}) == []
    assert rules.units({}) == []  # a toolkit that ships none


def test_wsl2_has_one_device_for_all_cards() -> None:
    assert rules.device_names(["GPU-a", "GPU-b"], wsl=True) == ["all"]
    assert rules.device_names([], wsl=True) == []
    assert rules.device_names(["GPU-a"], wsl=False) == ["GPU-a"]


def test_a_gpu_that_is_cut_into_instances_is_given_to_nobody() -> None:
    cut = Gpu("GPU-b", "NVIDIA A100", 81920, 81046, "550.90.07", 3, "8.0", True)
    assert rules.whole([sample.GPU, cut]) == [sample.GPU]
