"""What a run makes under a service is part of what is desired of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from gpuhost.plan.change import Change, Resource
from gpuhost.plan.report import Report
from gpuhost.run.session import Session
from gpuhost.services import operations
from gpuhost.services.rules import Desired
from tests.unit import sample


@pytest.mark.parametrize(("action", "remade"), [("reinstall", "tree"), ("install", "tree"), ("record", ""), ("", "")])
def test_a_service_whose_install_is_made_anew(monkeypatch: pytest.MonkeyPatch, action: str, remade: str) -> None:
    run = sample.run()
    session = Session(Report(None), None)
    change = Change("installs", Resource("install", run.install_path("tree")), action, "")
    session.found.add(("here", change.resource, change.action))
    monkeypatch.setattr(operations, "current", lambda: session)
    monkeypatch.setattr(operations, "host", SimpleNamespace(name="here"))
    desired: dict[str, Any] = {name: Desired("front", {}) for name in ("api", "painter")}
    found = operations._with_remade_installs(run, desired)
    assert {name: each.remade_install for name, each in found.items()} == {"api": "", "painter": remade}


@pytest.mark.parametrize(
    ("restarted", "executing", "shared", "awaited"),
    [(True, True, True, True), (False, True, True, False), (True, False, True, False), (True, True, False, False)],
    ids=["restarted", "not restarted", "a plan", "no shared card"],
)
def test_after_a_restart_of_docker_the_ordered_start_is_awaited(
    monkeypatch: pytest.MonkeyPatch, restarted: bool, executing: bool, shared: bool, awaited: bool
) -> None:
    """What the boot unit is still to start would seem to have ended."""
    second = {**sample.data()["services"]["painter"], "port": 9009, "start_order": 60, "seeds": {}}
    second |= {"account": {"name": "svc-second", "uid": 10009, "gid": 10009}}
    changes = {"services.second": second, "enabled_services": ["api", "painter", "second"]} if shared else {}
    session, asked = Session(Report(None), None), list[Any]()
    if restarted:
        session.found.add(("here", Resource("engine", "dockerd"), "restart"))
    monkeypatch.setattr(operations, "current", lambda: session)
    monkeypatch.setattr(operations, "host", SimpleNamespace(name="here"))
    monkeypatch.setattr(operations, "state", SimpleNamespace(is_executing=executing))
    monkeypatch.setattr(operations, "run_now", asked.append)
    operations._await_boot_unit(sample.run(changes))
    assert asked == (["systemctl start gpuhost-services.service || true"] if awaited else [])
