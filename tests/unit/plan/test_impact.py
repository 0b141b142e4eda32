"""What a change costs, from what runs when the plan is made."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from gpuhost.plan.change import Change, Impact, Resource
from gpuhost.plan.impact import LiveContainer, with_impact, with_impacts
from gpuhost.plan.text import Shown, plan_lines

RUNNING = [LiveContainer("api", "unless-stopped"), LiveContainer("theirs", "no"), LiveContainer("always", "always")]


def change(kind: str, name: str, action: str) -> Change:
    return Change("stage", Resource(kind, name), action, "why")


@pytest.mark.parametrize(
    ("made", "impact"),
    [
        (change("engine", "dockerd", "restart"), Impact(("api", "theirs", "always"), ("api", "always"))),
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
        (change("engine", "dockerd", "install"), Impact(("api", "theirs", "always"), ("api", "always"))),
    ],
    ids=lambda each: each.line() if isinstance(each, Change) else "",
)
def test_impact(made: Change, impact: Impact) -> None:
    assert with_impact(made, RUNNING).impact == impact


@pytest.mark.parametrize(
    ("container", "back"),
    [
        (LiveContainer("a", "on-failure", ours=True), True),  # by the boot unit
        (LiveContainer("a", "on-failure"), False),
        (LiveContainer("a", "no", ours=True), False),
        (LiveContainer("a", "unless-stopped"), True),
    ],
)
def test_which_come_back_after_a_restart_of_docker(container: LiveContainer, back: bool) -> None:
    impact = with_impact(change("engine", "dockerd", "restart"), [container]).impact
    assert impact and impact.restarts == (("a",) if back else ())


def event(host: str) -> dict[str, Any]:
    return {"event": "change", "host": host, "phase": "plan", **asdict(change("engine", "dockerd", "restart"))}


def test_each_host_has_its_own_containers() -> None:
    events = [{"event": "running", "host": "one", "containers": [asdict(each) for each in RUNNING]}]
    events += [{"event": "running", "host": "other", "containers": []}]
    found = with_impacts([event("one"), event("other"), event("unread")], events)
    assert [each["impact"]["stops"] for each in found] == [("api", "theirs", "always"), (), ()]


def test_a_plan_names_every_container_that_stops() -> None:
    [made] = with_impacts(
        [event("one")], [{"event": "running", "host": "one", "containers": [asdict(each) for each in RUNNING]}]
    )
    assert list(plan_lines([made], Shown()))[3:-1] == [
        "        stops for it: api, theirs, always",
        "        and do not start again by themselves: theirs",
    ]
