"""daemon.json: our keys in it, everybody else's left; a restart only when dockerd runs without them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuhost.engine.facts import DockerReading
from gpuhost.engine.rules import differing, merge, pinned, reconcile, too_old
from gpuhost.plan.change import Resource

WANTED = {"features": {"cdi": True}, "log-driver": "json-file"}
RIGHT = {"features": {"cdi": True}, "log-driver": "json-file"}
CONFIG = "/etc/docker/daemon.json"


def test_merging_keeps_what_is_not_ours() -> None:
    current = {"debug": True, "features": {"containerd-snapshotter": True, "cdi": False}, "log-driver": "local"}
    merged = merge(current, WANTED)
    assert merged == {
        "debug": True,
        "features": {"containerd-snapshotter": True, "cdi": True},
        "log-driver": "json-file",
    }
    assert current["features"] == {"containerd-snapshotter": True, "cdi": False}  # untouched


def test_the_order_of_foreign_keys_stays_and_ours_come_last() -> None:
    merged = merge({"z": 1, "log-driver": "local", "a": {"z": 1, "a": 2}}, {**WANTED, "live-restore": True})
    assert list(merged) == ["z", "log-driver", "a", "features", "live-restore"] and list(merged["a"]) == ["z", "a"]


def test_merging_over_a_value_of_another_kind_and_over_nothing() -> None:
    assert merge({"features": "all"}, WANTED) == WANTED
    assert merge({"log-driver": {"name": "local"}}, WANTED)["log-driver"] == "json-file"
    assert differing({**RIGHT, "log-driver": {"name": "local"}}, WANTED) == ["log-driver"]
    assert merge(None, WANTED) == WANTED


values = st.recursive(
    st.sampled_from([True, False, 0, 1, "x", "", None]),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(st.sampled_from("abcd"), values, max_size=4)


@settings(deadline=None, database=None)
@given(objects, objects)
def test_what_is_merged_differs_no_more(current: dict[str, Any], wanted: dict[str, Any]) -> None:
    merged = merge(current, wanted)
    assert differing(merged, wanted) == []
    assert {key: merged[key] for key in current.keys() - wanted.keys()} == {
        key: current[key] for key in current.keys() - wanted.keys()
    }


def reading(**over: Any) -> DockerReading:
    return DockerReading(**{"installed": True, "active": True, "at_boot": "enabled", "config": RIGHT, **over})


RESTART = ("restart", Resource("engine", "dockerd"))
WRITE = ("write", Resource("file", CONFIG))
ENABLE = ("enable", Resource("unit", "docker.service"))


@pytest.mark.parametrize(
    ("seen", "changes"),
    [
        ({}, {}),
        ({"config": {**RIGHT, "debug": True}}, {}),
        (
            {"config": None},
            {WRITE: "keys differ: features, log-driver", RESTART: f"{CONFIG} changes"},
        ),
        (
            {"config": {**RIGHT, "features": {"cdi": False}}},
            {WRITE: "keys differ: features.cdi", RESTART: f"{CONFIG} changes"},
        ),
        # The file is right, but the dockerd that runs has not read it: a run died between the two.
        ({"stale": True}, {RESTART: f"it started before {CONFIG} changed"}),
        ({"active": False}, {RESTART: "not running"}),
        ({"cut_off": True}, {RESTART: "an earlier restart was cut off before every container ran again"}),
        ({"cut_off": True, "active": False}, {RESTART: "not running"}),
        (
            {"cut_off": True, "config": {**RIGHT, "log-driver": "local"}},
            {WRITE: "keys differ: log-driver", RESTART: f"{CONFIG} changes"},
        ),
        ({"at_boot": "disabled"}, {ENABLE: "it is disabled: it would not start at boot"}),
        ({"at_boot": "masked"}, {ENABLE: "it is masked: it would not start at boot"}),
        # The command is there and the engine is not: its package enables the unit that it brings.
        ({"at_boot": ""}, {}),
        ({"at_boot": "not-found"}, {}),
        (
            {"installed": False, "active": False, "at_boot": "", "config": None},
            {WRITE: "keys differ: features, log-driver", RESTART: f"{CONFIG} changes"},
        ),
    ],
)
def test_reconcile(seen: dict[str, Any], changes: dict[tuple[str, Resource], str]) -> None:
    found = reconcile(reading(**seen), WANTED)
    assert {(change.action, change.resource): change.reason for change in found} == changes


def test_what_differs_in_the_configuration() -> None:
    """Nobody else's keys are shown, and no password of ours or theirs."""
    there = {"features": {"cdi": False}, "registry-mirrors": ["https://me:pw@mirror"], "debug": True}
    wanted = {"features": {"cdi": True}, "registry-mirrors": ["https://you:pass@mirror"], "log-level": "info"}
    found = reconcile(reading(config=there), wanted)[0]
    assert [each.line() for each in found.diff] == [
        "~ features.cdi: false -> true",
        '~ registry-mirrors: ["https://[redacted]@mirror"] -> ["https://[redacted]@mirror"]',
        '+ log-level: "info"',
    ]


def test_values_are_shown_in_one_order() -> None:
    """So that a reader sees what differs in them."""
    pools = {"default-address-pools": [{"size": 24, "base": "10.0.0.0/8"}]}
    wanted = {"default-address-pools": [{"base": "10.0.0.0/8", "size": 16}]}
    [difference] = reconcile(reading(config=pools), wanted)[0].diff
    shown = '[{"base": "10.0.0.0/8", "size": 24}]'
    assert (difference.before, difference.after) == (shown, shown.replace("24", "16"))


@pytest.mark.parametrize(
    ("version", "old"),
    [
        ("20.10.24+dfsg1", True),
        ("24.0.9", True),
        ("25.0.0", False),
        ("26.1.0", False),
        ("26.1.5+dfsg1", False),
        ("29.0.1", False),
        ("", False),  # it does not run (yet): told elsewhere
    ],
)
def test_the_least_version(version: str, old: bool) -> None:
    assert too_old(version) is old


def test_a_pin_is_the_version_of_the_two_packages_of_the_engine() -> None:
    packages = ["docker-ce", "docker-ce-cli", "containerd.io", "docker-compose-plugin"]
    assert pinned(packages, None, "debian", "13", "trixie") == packages
    assert pinned(packages, "28.3.3", "debian", "13", "trixie") == [
        "docker-ce=5:28.3.3-1~debian.13~trixie",
        "docker-ce-cli=5:28.3.3-1~debian.13~trixie",
        *packages[2:],
    ]
    assert pinned(packages, "28.3.3", "ubuntu", "24.04", "noble")[0] == "docker-ce=5:28.3.3-1~ubuntu.24.04~noble"
