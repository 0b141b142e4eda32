"""An install is what its entry, its image and its script make it; each spec has a folder of its own."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from gpuhost.catalog.lock import Lock, Pins
from gpuhost.installs.facts import InstallReading
from gpuhost.installs.rules import (
    Sources,
    environment,
    folder,
    judge,
    limits,
    lock_subject,
    lock_text,
    sources,
    spec,
)
from gpuhost.plan.spec import canonical, differences
from hostside.protocol.trees import TreeDifference, TreeEntry, TreeSeen
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


PINS = [f"torch==2.8.0+cu128 --hash=sha256:{'a' * 64}", f"aiohttp==3.14.0 --hash=sha256:{'b' * 64}"]


def test_locked_packages_are_in_the_spec_each_by_name() -> None:
    """So that a plan says which one is another; without a lock nothing of an install that is there changes."""
    locked = spec(INSTALL, "gpuhost/painter:1", PINS)
    assert locked.keys() - SPEC.keys() == {"packages"} and "packages" not in SPEC
    others = [PINS[0].replace("aa", "ab"), PINS[1].replace("3.14.0", "3.14.1")]
    changed = differences(locked, spec(INSTALL, "gpuhost/painter:1", others))
    assert [each.field for each in changed] == ["packages.aiohttp", "packages.torch"]
    assert [(each.before or "").split()[0] for each in changed] == ["3.14.0", "2.8.0+cu128"]
    assert folder(INSTALL, locked) != folder(INSTALL, SPEC)
    assert len(canonical(locked)) < 2000  # it is an environment variable of the script


def test_the_file_that_pip_gets() -> None:
    assert lock_text(PINS) == f"{PINS[0]}\n{PINS[1]}\n"


def test_what_packages_are_resolved_from() -> None:
    """By the names of variables, and a line of name, URL and commit in any of them."""
    environment = {
        "B_URL": "https://git.example/b.git",
        "B_REF": "b" * 40,
        "A_URL": "https://git.example/a.git",
        "A_REF": "a" * 40,
        "PAGE_URL": "https://docs.example",
        "WHEELS_INDEX_URL": "https://wheels.example",
        "WHEELS_PACKAGES": "torch==2.8.0 torchvision==0.23.0",
        "MORE": f"one https://git.example/one.git {'c' * 40}\nno line of that form\n",
        "EXTRA_REQUIREMENTS": "idna==3.10\n\nyarl==1.20.1",
    }
    install = sample.catalog({"installs.tree.environment": environment}).installs["tree"]
    assert sources(install) == Sources(
        repositories=[
            ("https://git.example/a.git", "a" * 40),
            ("https://git.example/b.git", "b" * 40),
            ("https://git.example/one.git", "c" * 40),
        ],
        indexes=[("https://wheels.example", ["torch==2.8.0", "torchvision==0.23.0"])],
        lines=["idna==3.10", "yarl==1.20.1"],
    )
    assert not sources(sample.catalog({"installs.tree.environment": {"AUTH": "1"}}).installs["tree"])
    alone = (
        {"A_URL": "https://git.example/a.git", "A_REF": "a" * 40},
        {"WHEELS_INDEX_URL": "https://wheels.example", "WHEELS_PACKAGES": "torch==2.8.0"},
        {"EXTRA_REQUIREMENTS": "idna==3.10"},
    )
    for environment in alone:
        assert sources(sample.catalog({"installs.tree.environment": environment}).installs["tree"])


@pytest.mark.parametrize(
    ("changes", "another"),
    [
        ({"installs.tree.environment.SOURCE_REF": "d" * 40}, True),
        ({"installs.tree.environment.EXTRA_REQUIREMENTS": "idna"}, True),
        ({"images.painter.args": {"BASE_IMAGE": "python:3.13"}}, True),
        ({"installs.tree.environment.AUTH": "0"}, False),
        ({"installs.tree.version": "v2"}, False),
        ({"installs.tree.memory": "9g"}, False),
        ({"images.api.args": {"BASE_IMAGE": "python:3.13"}}, False),
    ],
)
def test_a_lock_is_of_another_entry_when_its_packages_may_be_others(changes: dict[str, Any], another: bool) -> None:
    found = lock_subject(sample.catalog(changes), "tree")
    assert (found != lock_subject(sample.catalog(), "tree")) == another
    assert re.fullmatch(r"[0-9a-f]{64}", found)


def test_a_run_takes_a_lock_of_its_entry_only() -> None:
    """What is locked as another entry is neither taken nor passed over."""
    subject = lock_subject(sample.catalog(), "tree")

    def seen(pinned: str | None, changes: dict[str, Any] | None = None) -> tuple[bool, list[str], list[str]]:
        installs = {"tree": {"for": pinned, "requirements": PINS}} if pinned else {}
        pins = Pins(Lock.model_validate({"version": 1, "installs": installs}))
        run = replace(sample.run(changes), pins=pins)
        assert ("packages" in run.install_spec("tree")) == (run.install_packages("tree") is not None)
        return run.install_packages("tree") == PINS, run.unpinned_installs(), run.stale_installs()

    assert seen(subject) == (True, [], [])
    assert seen(None) == (False, ["tree"], [])
    assert seen("0" * 64) == (False, ["tree"], ["tree"])
    assert seen(None, {"installs.tree.environment": {}}) == (False, [], [])  # pip has nothing to do


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
