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
