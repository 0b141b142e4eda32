"""What a change costs, from what runs when the plan is made."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest

from gpuhost.host.measures import Measure
from gpuhost.plan.change import Change, Impact, Resource
from gpuhost.plan.impact import LiveContainer, Measured, Running, foreign_stops, with_impact, with_impacts
from gpuhost.plan.text import Shown, plan_lines

RUNNING = Running(
    [
        LiveContainer("api", "unless-stopped", ours=True),
        LiveContainer("theirs", "no"),
        LiveContainer("gone", "no", removed=True),
        LiveContainer("on-demand", "no", ours=True),
    ]
)
EVERY = ("theirs", "gone", "api", "on-demand")  # foreign ones first
UNKNOWN = Impact(download_bytes=None, disk_bytes=None, seconds=None)
BACK = ("theirs", "api", "on-demand")  # whatever their policy: what ran runs again


def change(kind: str, name: str, action: str) -> Change:
    return Change("stage", Resource(kind, name), action, "why")


@pytest.mark.parametrize(
    ("made", "impact"),
    [
        (change("engine", "dockerd", "restart"), Impact(EVERY, BACK, seconds=None)),
        (change("service", "api", "recreate"), Impact(("api",), ("api",), seconds=None, starts=True)),
        (change("service", "api", "remove"), Impact(("api",), ())),
        (change("service", "new", "create"), Impact(seconds=None, starts=True)),
        (replace(change("service", "api", "recreate"), impact=Impact()), Impact(("api",), ())),  # not started again
        (change("service", "api", "unpause"), Impact()),
        (change("file", "api", "write"), Impact()),
        (change("model", "vae", "fetch"), UNKNOWN),
        (change("model", "vae", "link"), Impact()),
        (change("image", "acme/api:1", "pull"), UNKNOWN),
        (change("image", "api", "build"), UNKNOWN),
        (change("install", "tree", "install"), UNKNOWN),
        (change("install", "tree", "reinstall"), UNKNOWN),
        (change("packages", "base", "install"), UNKNOWN),
        (change("model", "api", "fetch"), UNKNOWN),  # named like a service
        (change("engine", "dockerd", "install"), Impact(EVERY, BACK)),
        (change("driver", "NVIDIA driver 580", "reboot"), Impact(EVERY, ("api",), seconds=None, reboot="by gpuhost")),
        (change("driver", "NVIDIA driver 580", "ask for a reboot"), Impact(seconds=None, reboot="by you")),
        (change("driver", "NVIDIA driver 580", "load"), Impact(seconds=None)),
    ],
    ids=lambda each: each.line() if isinstance(each, Change) else "",
)
def test_impact(made: Change, impact: Impact) -> None:
    assert with_impact(made, RUNNING).impact == impact


def test_what_a_rule_knows_of_its_downloads_stays() -> None:
    known = Impact(download_bytes=7, neighbour_bytes={"gpu2": 5})
    fetch = replace(change("model", "vae", "fetch"), impact=known)
    assert with_impact(fetch, RUNNING).impact == replace(known, disk_bytes=7, seconds=None)


@pytest.mark.parametrize(
    ("container", "back"),
    [
        (LiveContainer("a", "on-failure", ours=True), True),  # by the boot unit
        (LiveContainer("a", "on-failure"), False),
        (LiveContainer("a", "no", ours=True), False),
        (LiveContainer("a", "unless-stopped"), True),
    ],
)
def test_which_come_back_after_a_reboot(container: LiveContainer, back: bool) -> None:
    impact = with_impact(change("driver", "NVIDIA driver 580", "reboot"), Running([container])).impact
    assert impact and impact.restarts == (("a",) if back else ())


MEASURED = Measured(
    {
        (each.kind, each.name): each
        for each in (
            Measure("service", "api", 43.1),
            Measure("engine", "dockerd", 16.0),
            Measure("image", "acme/api", 61.0, 9),
            Measure("install", "t", 5.0, 7),
        )
    },
    bytes_per_s=10,
)


@pytest.mark.parametrize(
    ("made", "disk_bytes", "seconds"),
    [
        (change("service", "api", "recreate"), 0, 43.1),
        (change("service", "api", "remove"), 0, 0),
        (change("engine", "dockerd", "restart"), 0, 16.0),
        (change("service", "api", "unpause"), 0, 0),
        (change("service", "new", "create"), 0, None),
        (replace(change("service", "api", "create"), impact=Impact()), 0, 0),  # on demand
        (change("image", "acme/api:2", "pull"), 9, 61.0),
        (change("image", "acme/other:2", "pull"), None, None),
        (change("install", "/installs/t/v2", "install"), 7, 5.0),
        (change("install", "/installs/t/v2", "record"), 0, 0),
        (replace(change("model", "m", "fetch"), impact=Impact(download_bytes=100)), 100, 10.0),
        (change("model", "m", "fetch"), None, None),
        (change("model", "m", "link"), 0, 0),
        (replace(change("packages", "p", "install"), impact=Impact(download_bytes=4, disk_bytes=8)), 8, None),
        (change("file", "/a", "write"), 0, 0),
    ],
    ids=lambda each: each.line() if isinstance(each, Change) else "",
)
def test_what_was_measured_last_is_what_it_takes_now(
    made: Change, disk_bytes: int | None, seconds: float | None
) -> None:
    impact = with_impact(made, RUNNING, MEASURED).impact
    assert impact and (impact.disk_bytes, impact.seconds) == (disk_bytes, seconds)


def test_the_speed_of_another_host_says_nothing() -> None:
    fetch = asdict(replace(change("model", "m", "fetch"), impact=Impact(download_bytes=100)))
    seen = {"measures": [], "free_bytes": {}, "data": "", "docker": "", "proof_s": 0.0}
    events: list[dict[str, Any]] = [{"event": "measured", "host": host, **seen} for host in ("one", "two")]
    events.append({"event": "speed", "host": "one", "bytes_per_s": 10})
    found = with_impacts([{"host": host, **fetch} for host in ("one", "two", "unread")], events)
    assert [each["impact"]["seconds"] for each in found] == [10.0, None, None]


def event(host: str) -> dict[str, Any]:
    return {"event": "change", "host": host, "phase": "plan", **asdict(change("engine", "dockerd", "restart"))}


def running(host: str, seen: Running) -> dict[str, Any]:
    containers = [asdict(each) for each in seen.containers]
    return {"event": "running", "host": host, "containers": containers, "live_restore": seen.live_restore}


def test_each_host_has_its_own_containers() -> None:
    events = [running("one", RUNNING), running("other", Running())]
    found = with_impacts([event("one"), event("other"), event("unread")], events)
    assert [each["impact"]["stops"] for each in found] == [EVERY, (), ()]


def test_with_live_restore_no_container_stops_but_for_a_reboot() -> None:
    live = replace(RUNNING, live_restore=True)
    assert with_impact(change("engine", "dockerd", "restart"), live).impact == Impact(seconds=None)
    reboot = with_impact(change("driver", "NVIDIA driver 580", "reboot"), live).impact
    assert reboot and (reboot.stops, reboot.restarts) == (EVERY, ("api",))


def test_a_plan_names_every_container_that_stops() -> None:
    [made] = with_impacts([event("one")], [running("one", RUNNING)])
    assert list(plan_lines([made], Shown()))[3:-1] == [
        "        stops for it: theirs, gone, api, on-demand",
        "        and do not start again: gone",
    ]


@pytest.mark.parametrize(
    ("seen", "stops"),
    [
        (RUNNING, {"one": ["theirs", "gone"]}),
        (replace(RUNNING, live_restore=True), {}),
        (Running([LiveContainer("api", "always", ours=True)]), {}),
    ],
)
def test_which_foreign_containers_a_plan_stops(seen: Running, stops: dict[str, list[str]]) -> None:
    events = [running("one", seen), running("other", RUNNING)]
    assert foreign_stops(with_impacts([event("one"), event("one")], events), events) == stops
