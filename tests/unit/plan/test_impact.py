"""What a change costs, from what runs when the plan is made."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest

from gpuhost.plan.change import Change, Impact, Resource
from gpuhost.plan.impact import LiveContainer, Running, foreign_stops, with_impact, with_impacts
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
BACK = ("theirs", "api", "on-demand")  # whatever their policy: what ran runs again


def change(kind: str, name: str, action: str) -> Change:
    return Change("stage", Resource(kind, name), action, "why")


@pytest.mark.parametrize(
    ("made", "impact"),
    [
        (change("engine", "dockerd", "restart"), Impact(EVERY, BACK)),
        (change("service", "api", "recreate"), Impact(("api",), ("api",))),
        (change("service", "api", "remove"), Impact(("api",), ())),
        (change("service", "new", "create"), Impact()),
        (change("service", "api", "unpause"), Impact()),
        (change("file", "api", "write"), Impact()),
        (change("model", "vae", "fetch"), Impact(download_bytes=None)),
        (change("model", "vae", "link"), Impact()),
        (change("image", "acme/api:1", "pull"), Impact(download_bytes=None)),
        (change("image", "api", "build"), Impact(download_bytes=None)),
        (change("install", "tree", "install"), Impact(download_bytes=None)),
        (change("install", "tree", "reinstall"), Impact(download_bytes=None)),
        (change("packages", "base", "install"), Impact(download_bytes=None)),
        (change("model", "api", "fetch"), Impact(download_bytes=None)),  # named like a service
        (change("engine", "dockerd", "install"), Impact(EVERY, BACK)),
        (change("driver", "NVIDIA driver 580", "reboot"), Impact(EVERY, ("api",))),
        (change("driver", "NVIDIA driver 580", "load"), Impact()),
    ],
    ids=lambda each: each.line() if isinstance(each, Change) else "",
)
def test_impact(made: Change, impact: Impact) -> None:
    assert with_impact(made, RUNNING).impact == impact


def test_what_a_rule_knows_of_its_downloads_stays() -> None:
    known = Impact(download_bytes=7, neighbour_bytes={"gpu2": 5})
    fetch = replace(change("model", "vae", "fetch"), impact=known)
    assert with_impact(fetch, RUNNING).impact == known


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
    assert with_impact(change("engine", "dockerd", "restart"), live).impact == Impact()
    assert with_impact(change("driver", "NVIDIA driver 580", "reboot"), live).impact == Impact(EVERY, ("api",))


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
