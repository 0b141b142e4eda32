"""When the CDI specification is made anew, and why."""

from __future__ import annotations

from typing import Any

import pytest

from gpuhost.gpu.rules import devices, reconcile, stamped

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
    assert all(
        (change.stage, change.resource.name, change.action) == ("gpu", "/var/run/cdi/nvidia.yaml", "refresh")
        for change in found
    )


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
