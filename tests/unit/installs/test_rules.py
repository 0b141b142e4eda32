"""A ComfyUI install is what its entry, its image and the installer make it; each version has a folder of its own."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gpuhost.installs.rules import environment, folder, reconcile, spec_hash
from tests.unit import sample

INSTALL = sample.catalog().comfyui["stable"]
SPEC = spec_hash(INSTALL, "image")


@pytest.mark.parametrize(
    "changes",
    [
        {"version": "v0.3.65"},
        {"source.ref": "v0.3.65"},
        {"source.url": "https://mirror.example/ComfyUI.git"},
        {"torch_index_url": "https://wheels.example/cu126"},
        {"torch_packages": ["torch==2.9.0"]},
        {"login.ref": "1234567"},
        {"login": None},
        {"extra_nodes": {"manager": {"url": "https://git.example/m.git", "ref": "3.0"}}},
    ],
)
def test_every_part_of_the_entry_is_in_the_spec(changes: dict[str, Any]) -> None:
    entry = {f"comfyui.stable.{key}": value for key, value in changes.items()}
    other = sample.catalog({"services.painter.login": False, **entry}).comfyui["stable"]
    assert spec_hash(other, "image") != SPEC
    assert spec_hash(INSTALL, "another image") != SPEC


def test_the_spec_is_stable_and_names_the_folder() -> None:
    assert spec_hash(sample.catalog().comfyui["stable"], "image") == SPEC
    assert folder(INSTALL, SPEC) == f"v0.3.64-{SPEC[:12]}"


def test_what_the_installer_is_told() -> None:
    told = environment(INSTALL, SPEC)
    assert told == {
        "INSTALL_SPEC": SPEC,
        "COMFYUI_URL": "https://git.example/ComfyUI.git",
        "COMFYUI_REF": "v0.3.64",
        "TORCH_INDEX_URL": "https://wheels.example/cu128",
        "TORCH_PACKAGES": "torch==2.8.0 torchvision==0.23.0",
        "AUTH": "1",
        "LOGIN_URL": "https://git.example/Login.git",
        "LOGIN_REF": "6910925",
    }


def test_what_comfyui_leaves_open_is_pinned_for_pip() -> None:
    install = sample.catalog({"comfyui.stable.extra_requirements": ["a==1", "b==2"]}).comfyui["stable"]
    assert environment(install, SPEC)["EXTRA_REQUIREMENTS"] == "a==1\nb==2"


def test_without_a_login_and_with_more_nodes() -> None:
    nodes = {name: {"url": f"https://git.example/{name}.git", "ref": "1"} for name in ("one", "two")}
    entry = {"comfyui.stable.login": None, "comfyui.stable.extra_nodes": nodes}
    install = sample.catalog({"services.painter.login": False, **entry}).comfyui["stable"]
    told = environment(install, SPEC)
    assert (told["AUTH"], "LOGIN_URL" in told) == ("0", False)
    assert told["EXTRA_NODES"] == "one https://git.example/one.git 1\ntwo https://git.example/two.git 1"


@pytest.mark.parametrize(
    ("stamp", "reason"),
    [
        (json.dumps({"spec": SPEC, "version": "v0.3.64"}), None),
        (None, "not installed, or not finished"),
        ("", "not installed, or not finished"),
        ('{"spec":', "not installed, or not finished"),
        ("[]", "not installed, or not finished"),
        ("{}", "not installed, or not finished"),
        (json.dumps({"spec": "older"}), "the spec changed"),
    ],
)
def test_installed_when_the_stamp_is_not_the_specs(stamp: str | None, reason: str | None) -> None:
    found = reconcile("/data/comfyui/x", SPEC, stamp)
    assert [((change.stage, change.resource.name, change.action), change.reason) for change in found] == (
        [(("comfyui", "/data/comfyui/x", "install"), reason)] if reason else []
    )
