"""What `gpuhost status` and `gpuhost logs` make of what Docker says."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpuhost.engine.containers import Container
from gpuhost.engine.facts import DockerReading
from gpuhost.run import output
from gpuhost.run.remote import Completed
from gpuhost.services import looks
from gpuhost.services.logs import LINE_CHARS_SHOWN, MARK, Asked, LogLine, read, shown
from gpuhost.services.status import ServiceStatus, statuses, table
from hostside.protocol.logs import LogRequest
from hostside.redaction import Redactor
from hostside.wire import from_json
from tests.unit import sample

RUNNING = Container(
    "1", "api", "api", "front", "running", started_s=1000.0, health="healthy", ended_s=900.0, exit_code=1
)


def of(*containers: Container, **changes: Any) -> dict[str, ServiceStatus]:
    docker = DockerReading(installed=True, version="28.0", now_s=1090.5, containers=[*containers])
    return {each.service: each for each in statuses(sample.run(changes or None), docker)}


def test_what_runs_and_what_is_not_there() -> None:
    found = of(RUNNING)
    assert found["api"] == ServiceStatus("api", "running", "running", "healthy", 9001, [], 90.5, None, 0)
    assert found["painter"].state == "absent" and found["painter"].since_s is None
    assert found["painter"].gpus == [0]
    assert (found["api"].ok, found["painter"].ok) == (True, False)


@pytest.mark.parametrize(
    ("over", "ok", "code", "since_s"),
    [
        ({"health": "starting"}, False, None, 90.5),
        ({"health": "unhealthy"}, False, None, 90.5),
        ({"health": ""}, True, None, 90.5),
        ({"state": "exited"}, False, 1, 190.5),
        ({"state": "paused"}, False, None, 90.5),
        ({"state": "created", "ended_s": 0.0, "exit_code": 0}, False, None, None),
    ],
)
def test_a_state(over: dict[str, Any], ok: bool, code: int | None, since_s: float | None) -> None:
    found = of(replace(RUNNING, **over))["api"]
    assert (found.ok, found.exit_code, found.since_s) == (ok, code, since_s)
    assert found.health == ("" if over.get("state") in ("exited", "created") else over.get("health", "healthy"))


def test_on_demand_retired_and_somebodys_own() -> None:
    gone = replace(RUNNING, name="old", service="old")
    stopped = replace(RUNNING, name="painter", service="painter", state="exited")
    copy = replace(RUNNING, name="mine", state="exited", own="copy")
    found = of(copy, gone, stopped, **{"services.painter.start": "on-demand"})
    assert {name: (each.wanted, each.ok) for name, each in found.items()} == {
        "api": ("running", False),
        "painter": ("on-demand", True),
        "old": ("nothing", True),
    }
    assert found["api"].state == "absent"


def test_of_several_containers_the_one_that_runs() -> None:
    renamed = replace(RUNNING, name="api-renamed")
    assert of(renamed, replace(RUNNING, state="exited"))["api"].state == "running"


def test_a_table_in_80_columns() -> None:
    ended = replace(RUNNING, state="exited", service="painter", name="painter", exit_code=137, restarts=3)
    lines = list(table([asdict(each) for each in of(RUNNING, ended).values()]))
    assert lines == [
        "  SERVICE  STATE                     HEALTH   PORT  GPU  SINCE",
        "  api      running                   healthy  9001  -    2 min",
        "  painter  exited (137), 3 restarts  -        9002  0    3 min",
    ]
    assert max(map(len, lines)) <= 80


def test_a_line_of_a_log_on_its_way() -> None:
    assert Asked.of(Asked("api", 5, True).as_text()) == Asked("api", 5, True)
    masked = Redactor(["hidden-word"]).text
    said = shown(masked, json.dumps({"line": "a [b] log| c hidden-word"}))
    assert read(f"\x1b[0m[\x1b[1mgpu1\x1b[0m]   {said}") == LogLine("gpu1", "a [b] log| c [redacted]")
    assert shown(masked, "{}") is None and shown(masked, "no json, hidden-word") == "no json, [redacted]"
    at_the_edge = shown(masked, json.dumps({"line": "x" * (LINE_CHARS_SHOWN - 4) + "hidden-word"}))
    assert at_the_edge == f"{MARK}{'x' * (LINE_CHARS_SHOWN - 4)}[red"
    assert read("[gpu1] Success") is None


@pytest.mark.parametrize(
    ("installed", "told"),
    [
        (False, ("Docker is not installed here", "`gpuhost plan` says what is to be done")),
        (
            True,
            ("Docker does not run here", "`gpuhost plan` says what is to be done; `journalctl -u docker` why it ended"),
        ),
    ],
)
def test_a_host_without_docker(monkeypatch: pytest.MonkeyPatch, installed: bool, told: tuple[str, str]) -> None:
    """Of a Docker that was never there no journal says anything."""
    said: list[tuple[str, str]] = []

    def fail(what: str, hint: str) -> list[None]:
        said.append((what, hint))
        return []

    monkeypatch.setattr(looks, "state", SimpleNamespace(is_executing=False))
    monkeypatch.setattr(looks, "look", lambda *_: DockerReading(installed=installed))
    monkeypatch.setattr(looks, "fail_host", fail)
    list(looks.reported._inner(sample.run()))
    assert said == [told]


def test_a_host_is_told_no_secret_that_it_does_not_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for a log, it gets what its containers hold to mask; the rest is masked on this side."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secrets").mkdir()
    retired = {"API_TOKEN": ["old-api-token"], "LOGIN_PASSWORD": ["old-password"]}
    (tmp_path / "secrets/host.retired.json").write_text(json.dumps(retired))
    (tmp_path / "secrets/host.retired.json").chmod(0o600)
    names = ("GIVEN", "LABEL_HMAC_KEY", "API_TOKEN", "LOGIN_USER", "LOGIN_PASSWORD", "LOGIN_HASH")
    asked: list[LogRequest] = []
    printed: list[str | None] = []

    def look(script: str, stdin: str, live: bool) -> Completed:
        asked.append(from_json(LogRequest, stdin))
        said = json.dumps({"line": " ".join(f"value-of-{name}" for name in names) + " old-password"})
        printed.append(output._shown["[gpu1] "](said))
        return Completed(True, "", "")

    monkeypatch.setattr(looks, "host", SimpleNamespace(print_prefix="[gpu1] "))
    monkeypatch.setattr(looks, "state", SimpleNamespace(is_executing=True))
    monkeypatch.setattr(looks, "run_now", look)
    run = sample.run(secrets={name: f"value-of-{name}" for name in names})
    list(looks.logged._inner(run, Asked("api", 5, False)))
    assert sorted(asked[0].secrets) == ["old-api-token", "value-of-API_TOKEN", "value-of-LOGIN_HASH"]
    assert printed == [f"{MARK}{' '.join(['[redacted]'] * 3)} value-of-LOGIN_USER {' '.join(['[redacted]'] * 3)}"]
