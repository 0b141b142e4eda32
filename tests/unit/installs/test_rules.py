"""An install is what its entry, its image and its script make it; each spec has a folder of its own."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gpuhost.installs.facts import InstallReading
from gpuhost.installs.rules import environment, folder, judge, limits, spec
from gpuhost.plan.spec import canonical
from hostside.protocol import TreeDifference, TreeEntry, TreeSeen
from tests.unit import sample

INSTALL = sample.catalog().installs["tree"]
SPEC = spec(INSTALL, "gpuhost/painter:1")
ROOT = "/data/installs/tree"
PATH = f"{ROOT}/{folder(INSTALL, SPEC)}"

RIGHT = TreeSeen("recorded", 7, 0, [], 0, "")


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


def test_the_limits_are_those_of_the_entry_as_far_as_the_host_has_them() -> None:
    install = sample.catalog({"installs.tree.memory": "6g", "installs.tree.pids": 50}).installs["tree"]
    assert limits(install, host_cpus=2) == [
        "--memory=6g",
        "--memory-swap=6g",
        "--cpus=2",
        "--pids-limit=50",
        "--ulimit=core=0",
    ]
    assert "--cpus=4" in limits(install, host_cpus=64)


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
    found = judge(PATH, SPEC, InstallReading(stamps, RIGHT))
    assert (found and (found.action, found.reason)) == (("install", reason) if reason else None)


def test_what_differs_from_the_nearest_is_shown() -> None:
    found = judge(PATH, SPEC, InstallReading({f"{ROOT}/old": stamp({**SPEC, "script": "0", "image": "x"})}))
    assert found and [difference.field for difference in found.diff] == ["image", "script"]
    change = found.change(PATH)
    assert change.key == ("installs", "install", PATH, "install") and change.diff == found.diff


def test_one_of_the_same_spec_that_was_set_aside_is_no_other_version() -> None:
    found = judge(PATH, SPEC, InstallReading({f"{PATH}.replaced-20261121T000000Z": stamp(SPEC)}))
    assert found and (found.reason, found.diff) == ("not installed", ())


GONE = TreeDifference("code/server.py", TreeEntry("file", 0o644, 1, 1, "a" * 64, 41), None)
DAMAGED = TreeSeen("recorded", 7_400_000_000, 3, [GONE], 1, "x")


@pytest.mark.parametrize(
    ("stamps", "tree", "action", "reason"),
    [
        ({PATH: stamp(SPEC)}, RIGHT, None, None),
        ({PATH: stamp(SPEC)}, None, None, None),  # no python3: nothing was looked at
        (
            {PATH: stamp(SPEC)},
            DAMAGED,
            "reinstall",
            "code/server.py is gone and 2 more differ; what is there (7400 MB) is set aside",
        ),
        # The stamp is one of the files.
        ({PATH: ""}, DAMAGED, "reinstall", None),
        ({PATH: stamp({**SPEC, "version": "v0"})}, DAMAGED, "reinstall", None),
        ({}, DAMAGED, "install", "not installed"),
        (
            {PATH: stamp(SPEC)},
            TreeSeen("unknown", 5_000_000, 0, [], 0, ""),
            "reinstall",
            "there is no record of what was installed, so nobody can say whether it still is that; what is there (5 MB)"
            " is set aside",
        ),
        ({PATH: ""}, TreeSeen("unknown", 5, 0, [], 0, ""), "reinstall", None),
        ({PATH: ""}, TreeSeen("unfinished", 5, 0, [], 0, ""), "install", "it was not finished"),
        # Killed while its files were being recorded.
        ({PATH: stamp(SPEC)}, TreeSeen("unfinished", 5, 0, [], 0, ""), "install", "it was not finished"),
        (
            {PATH: stamp(SPEC)},
            TreeSeen("recorded", 5, 0, [], 1, "code/x.py"),
            "record",
            "code/x.py was touched; the bytes are those that were installed",
        ),
        (
            {PATH: stamp(SPEC)},
            TreeSeen("recorded", 5, 0, [], 3, "code/x.py"),
            "record",
            "code/x.py and 2 more were touched; the bytes are those that were installed",
        ),
    ],
)
def test_what_lies_there_is_judged_by_its_record(
    stamps: dict[str, str], tree: TreeSeen | None, action: str | None, reason: str | None
) -> None:
    found = judge(PATH, SPEC, InstallReading(stamps, tree))
    assert (found and found.action) == action
    if reason:
        assert found and found.reason == reason
    if action == "reinstall" and tree is DAMAGED:
        assert found and [each.field for each in found.diff] == ["code/server.py"]
