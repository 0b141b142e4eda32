"""What a run makes under a service is part of what is desired of it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpuhost.host.measures import Measure, parsed
from gpuhost.plan.change import Change, Resource
from gpuhost.plan.report import Report
from gpuhost.run.session import Session
from gpuhost.services import operations
from gpuhost.services.rules import Desired, ServiceStep
from gpuhost.services.stacks import Stacks
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


@pytest.mark.parametrize(("code", "noted"), [(0, ["api"]), (1, [])], ids=["healthy", "not healthy"])
def test_how_long_a_start_took_is_noted_when_it_is_healthy(tmp_path: Path, code: int, noted: list[str]) -> None:
    """From before its container is made, by the two steps; `docker` and the program that waits are stand-ins."""
    run = sample.run(secrets={"API_TOKEN": "x" * 32, "LOGIN_HASH": "x" * 32})
    stacks = Stacks(run)
    programs = {
        "docker": "sleep 0.4",
        "verify": f"sleep 0.3; exit {code}",
        "binds": "exit 0",
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    paths = run.paths
    elsewhere = {paths.verify_command: "verify", paths.binds_command: "binds", paths.measures: f"{tmp_path}/measures"}
    elsewhere |= {operations.RUNTIME: f"{tmp_path}/run"}

    def done(step: ServiceStep) -> int:
        script = f"PATH={tmp_path}:$PATH\n{operations._command(run, stacks, step)}"
        for there, here in elsewhere.items():
            script = script.replace(there, here)
        return subprocess.run(["sh"], input=script, capture_output=True, text=True, check=False).returncode

    assert done(ServiceStep("up", "api")) == done(ServiceStep("wait", "api")) == 0
    file = tmp_path / "measures"
    found: list[Measure] = parsed(file.read_text().splitlines()) if file.exists() else []
    assert [each.name for each in found] == noted and all(0.6 <= each.seconds < 30 for each in found)
    file.unlink(missing_ok=True)
    if code == 0:  # a wait for what nobody began just now
        assert done(ServiceStep("wait", "api")) == 0 and not file.exists()


def test_a_start_that_is_awaited_says_what_it_waits_for() -> None:
    """Whatever comes of it: whether the service is healthy is for the verification to judge."""
    run = sample.run()
    step = operations._command(run, Stacks(run), ServiceStep("wait", "api"))
    program = "sh -c 'echo api: running, health starting >&2; echo {}; exit 1' --"
    script = str(step).replace(run.paths.verify_command, program)
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
    assert step._live
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "api: running, health starting\n")
