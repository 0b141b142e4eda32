"""An install is what its entry, its image and its script make it; each spec has a folder of its own."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gpuhost.installs.rules import environment, folder, reconcile, spec
from gpuhost.plan.spec import canonical
from tests.unit import sample

INSTALL = sample.catalog().installs["tree"]
SPEC = spec(INSTALL, "gpuhost/painter:1")
ROOT = "/data/installs/tree"
PATH = f"{ROOT}/{folder(INSTALL, SPEC)}"


def stamp(made: dict[str, Any]) -> str:
    return f'{{"spec": {canonical(made)}, "finished_at": "2026-11-21"}}'


@pytest.mark.parametrize("changes", [{"version": "v0.3.65"}, {"environment.SOURCE_REF": "d" * 40}, {"environment": {}}])
def test_every_part_of_the_entry_is_in_the_spec(changes: dict[str, Any]) -> None:
    other = sample.catalog({f"installs.tree.{key}": value for key, value in changes.items()}).installs["tree"]
    assert spec(other, "gpuhost/painter:1") != SPEC
    assert spec(INSTALL, "another image") != SPEC


def test_the_spec_is_stable_and_names_the_folder() -> None:
    assert spec(sample.catalog().installs["tree"], "gpuhost/painter:1") == SPEC
    assert folder(INSTALL, SPEC).startswith("v0.3.64-")
    assert folder(INSTALL, {**SPEC, "image": "another"}) != folder(INSTALL, SPEC)


def test_what_the_script_reads() -> None:
    read = environment(INSTALL, SPEC)
    assert json.loads(read.pop("INSTALL_SPEC")) == SPEC
    assert read == {"SOURCE_URL": "https://git.example/tree.git", "SOURCE_REF": "c" * 40}


@pytest.mark.parametrize(
    ("stamps", "reason"),
    [
        ({PATH: stamp(SPEC)}, None),
        ({}, "not installed"),
        ({PATH: ""}, "it was not finished"),
        ({PATH: '{"spec":'}, "it was not finished"),
        ({PATH: "[]"}, "it was not finished"),
        ({PATH: stamp({**SPEC, "version": "v0.3.63"})}, "it was not finished"),
        ({f"{ROOT}/v0.3.63-a": ""}, "not installed"),
        (
            {f"{ROOT}/v0.3.64-a": stamp({**SPEC, "image": "gpuhost/painter:0"})},
            "image: gpuhost/painter:0 -> gpuhost/painter:1; v0.3.64-a stays beside it",
        ),
        (
            {
                f"{ROOT}/far": stamp({"version": "v0.3.1"}),
                f"{ROOT}/near": stamp({**SPEC, "version": "v0.3.63"}),
            },
            "version: v0.3.63 -> v0.3.64; near stays beside it",
        ),
    ],
)
def test_installed_when_the_stamp_is_not_the_specs(stamps: dict[str, str], reason: str | None) -> None:
    found = reconcile(PATH, SPEC, stamps)
    assert [(change.key, change.reason) for change in found] == (
        [(("installs", "install", PATH, "install"), reason)] if reason else []
    )


def test_what_differs_from_the_nearest_is_shown() -> None:
    [change] = reconcile(PATH, SPEC, {f"{ROOT}/old": stamp({**SPEC, "script": "0", "image": "x"})})
    assert [difference.field for difference in change.diff] == ["image", "script"]
