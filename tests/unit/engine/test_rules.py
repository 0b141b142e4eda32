"""daemon.json: our keys in it, everybody else's left; a restart only when dockerd runs without them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuhost.engine.facts import DockerReading
from gpuhost.engine.rules import differing, merge, merging, pinned, reconcile, too_old
from gpuhost.plan.change import Resource

WANTED = {"features": {"cdi": True}, "log-driver": "json-file"}
RIGHT = {"features": {"cdi": True}, "log-driver": "json-file"}
CONFIG = "/etc/docker/daemon.json"
STAMP = "/state/engine-config.json"


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
    assert differing({**RIGHT, "log-driver": {"name": "local"}}, WANTED) == [("log-driver",)]
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
    found = reconcile(reading(**seen), WANTED, {}, STAMP)
    assert {(change.action, change.resource): change.reason for change in found} == changes
    assert {change.stage for change in found} <= {"engine"}


def test_what_differs_in_the_configuration() -> None:
    """Nobody else's keys are shown, and no password of ours or theirs."""
    there = {"features": {"cdi": False}, "registry-mirrors": ["https://me:pw@mirror"], "debug": True}
    wanted = {"features": {"cdi": True}, "registry-mirrors": ["https://you:pass@mirror"], "log-level": "info"}
    found = reconcile(reading(config=there), wanted, {}, STAMP)[0]
    assert [each.line() for each in found.diff] == [
        "~ features.cdi: false -> true",
        '~ registry-mirrors: ["https://[redacted]@mirror"] -> ["https://[redacted]@mirror"]',
        '+ log-level: "info"',
    ]


def test_values_are_shown_in_one_order() -> None:
    """So that a reader sees what differs in them."""
    pools = {"default-address-pools": [{"size": 24, "base": "10.0.0.0/8"}]}
    wanted = {"default-address-pools": [{"base": "10.0.0.0/8", "size": 16}]}
    [difference] = reconcile(reading(config=pools), wanted, {}, STAMP)[0].diff
    shown = '[{"base": "10.0.0.0/8", "size": 24}]'
    assert (difference.before, difference.after) == (shown, shown.replace("24", "16"))


def test_a_name_may_have_dots_in_it() -> None:
    there = {"default-network-opts": {"bridge": {"com.docker.network.driver.mtu": "1500"}}}
    wanted = {"default-network-opts": {"bridge": {"com.docker.network.driver.mtu": "1400"}}}
    found = reconcile(reading(config=there), wanted, {}, STAMP)[0]
    [line] = [each.line() for each in found.diff]
    assert line == '~ default-network-opts.bridge.com.docker.network.driver.mtu: "1500" -> "1400"'


# --- What the data names no more --------------------------------------------------------------------------------------

MIRROR = {"registry-mirrors": ["https://me:pw@mirror"]}


@pytest.mark.parametrize(
    ("here", "wanted", "written", "becomes", "ours"),
    [
        # What gpuhost wrote is taken out when the data names it no more, objects that have nothing else with it.
        ({"debug": True, "mtu": 9}, {}, {"debug": True}, {"mtu": 9}, {}),
        ({"features": {"cdi": True, "x": 1}}, {}, {"features": {"cdi": True}}, {"features": {"x": 1}}, {}),
        ({"mtu": 9, "a": {"b": {"c": 1}}}, {}, {"a": {"b": {"c": 1}}}, {"mtu": 9}, {}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"c": 2}}, {"a": {"b": 1, "c": 2}}, {"a": {"c": 2}}, {"a": {"c": 2}}),
        # What had the wanted value already is the operator's; so is all of which nobody knows who wrote it.
        ({"debug": True}, {"debug": True}, {}, {"debug": True}, {}),
        ({"debug": True}, {}, {}, {"debug": True}, {}),
        # What somebody changed since is his: it stays.
        ({"debug": False}, {}, {"debug": True}, {"debug": False}, {}),
        ({"a": {"b": 1}}, {}, {"a": {}}, {"a": {"b": 1}}, {}),
        ({"a": 1}, {}, {"a": {"b": 1}}, {"a": 1}, {}),
        # He gave it the value that the data names later: when the data drops that, it is not what gpuhost wrote.
        ({"debug": False}, {"debug": False}, {"debug": True}, {"debug": False}, {"debug": True}),
        # What is wanted is written, and is ours then.
        ({"debug": False}, {"debug": True}, {}, {"debug": True}, {"debug": True}),
        ({"debug": 1, "a": 2}, {"debug": 3}, {"debug": 1}, {"debug": 3, "a": 2}, {"debug": 3}),
        # Another kind of value in the place.
        ({"a": 5}, {"a": {"b": 1}}, {"a": 5}, {"a": {"b": 1}}, {"a": {"b": 1}}),
        ({"a": {"b": 1}}, {"a": 5}, {"a": {"b": 1}}, {"a": 5}, {"a": 5}),
        ({"a": {"b": 1, "x": 2}}, {"a": 5}, {"a": {"b": 1}}, {"a": 5}, {"a": 5}),
        # An object that should only be there is as it should be with whatever it holds.
        ({"a": {"b": 1}}, {"a": {}}, {}, {"a": {"b": 1}}, {}),
        ({"a": {"b": 1, "x": 2}}, {"a": {}}, {"a": {"b": 1}}, {"a": {"x": 2}}, {}),
        # A runtime stays: a container that was made with it would not start again.
        ({}, {"runtimes": {"mine": {"path": "x"}}}, {}, {"runtimes": {"mine": {"path": "x"}}}, {}),
    ],
)
def test_what_the_data_names_no_more(
    here: dict[str, Any],
    wanted: dict[str, Any],
    written: dict[str, Any],
    becomes: dict[str, Any],
    ours: dict[str, Any],
) -> None:
    before = copy.deepcopy((here, wanted, written))
    to = merging(here, wanted, written)
    assert (to.config, to.written) == (becomes, ours)
    assert bool(to.keys or to.taken) == (becomes != here)
    assert (here, wanted, written) == before
    # The second time there is nothing to do.
    again = merging(becomes, wanted, ours)
    assert (again.config, again.written) == (becomes, ours)
    assert not (again.keys or again.taken or again.changed or again.gone)


@settings(deadline=None, database=None)
@given(objects, objects, objects)
def test_what_gpuhost_writes_it_takes_back(theirs: dict[str, Any], first: dict[str, Any], then: dict[str, Any]) -> None:
    """Whatever was there: what the data names is there, what is not ours is untouched, and in the end nothing of ours
    is left."""
    one = merging(theirs, first, {})
    two = merging(one.config, then, one.written)
    assert differing(two.config, then) == [] and not two.changed and not two.gone
    end = merging(two.config, {}, two.written)
    assert end.written == {} and not end.keys and not end.changed and not end.gone
    untouched = theirs.keys() - first.keys() - then.keys()
    assert {key: end.config.get(key) for key in untouched} == {key: theirs[key] for key in untouched}
    assert end.config.keys() <= theirs.keys()


@pytest.mark.parametrize(
    ("here", "reason", "lines"),
    [
        (
            {**RIGHT, **MIRROR},
            "no longer in `engine_config`: registry-mirrors",
            ['- registry-mirrors: ["https://[redacted]@mirror"]'],
        ),
        (
            {"features": {"cdi": True}, **MIRROR},
            "keys differ: log-driver; no longer in `engine_config`: registry-mirrors",
            ['+ log-driver: "json-file"', '- registry-mirrors: ["https://[redacted]@mirror"]'],
        ),
    ],
)
def test_a_plan_says_what_is_taken_out(here: dict[str, Any], reason: str, lines: list[str]) -> None:
    write, restart = reconcile(reading(config=here), WANTED, MIRROR, STAMP)
    assert (write.stage, write.action, write.resource, write.reason) == ("engine", *WRITE, reason)
    assert [each.line() for each in write.diff] == lines
    assert (restart.action, restart.resource, restart.reason) == (*RESTART, f"{CONFIG} changes")


def test_a_plan_says_what_is_left_to_somebody_else() -> None:
    """dockerd is not restarted for it."""
    written = {"debug": True, "mtu": 9, "a": {"b": 1}}
    [change] = reconcile(reading(config={**RIGHT, "debug": False, "a": {}}), WANTED, written, STAMP)
    assert change.key == ("engine", "file", STAMP, "write")
    assert change.reason == (
        f"debug: no longer in `engine_config`, changed by hand: stays in {CONFIG}; "
        f"mtu, a.b: no longer in `engine_config`, nor in {CONFIG}"
    )
    assert [each.line() for each in change.diff] == ["- debug: true", "- mtu: 9", "- a.b: 1"]


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
