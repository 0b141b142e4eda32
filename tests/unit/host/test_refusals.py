"""What preflight asks before a run begins: each question is really asked, and its answer refuses or is told."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from gpuhost.catalog.inventory import Site
from gpuhost.engine import facts as docker
from gpuhost.errors import Problem
from gpuhost.host.facts import HostReading
from gpuhost.plan.report import Report
from gpuhost.run.session import Session
from tasks import preflight
from tests.unit import sample


class Asked:
    """A preflight of one host, with what it told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.problems: list[Problem] = []
        self.notes: list[tuple[str, str]] = []
        self.failed: list[Any] = []
        self.locked: list[str] = []
        self.briefs: list[bool] = []
        self.ahead: list[Any] = []
        self._patch = monkeypatch

    def run(self, changes: dict[str, Any], seen: dict[str, Any], only: frozenset[str] | None = None) -> bool:
        """True when the host is not refused."""

        def get_fact(*_: Any, brief: bool, **__: Any) -> HostReading:
            self.briefs.append(brief)
            return sample.reading(**seen)

        host = mock.Mock(get_fact=get_fact)
        host.name = "gpu1"
        read = Site(Path(), ["gpu1"], {"gpu1": sample.catalog(changes)}, {})
        session = Session(Report(None), None)
        replaced: dict[str, Any] = {
            "host": host,
            "state": SimpleNamespace(fail_hosts=self.failed.extend),
            "site": lambda: read,
            "current": lambda: session,
            "only": lambda: only,
            "STAGES": {"status", "stacks", "destroy", "verify"},
            "tune": lambda _: None,
            "_sudo": list,
            "_root": list,
            "ahead": SimpleNamespace(together=lambda *asks: self.ahead.extend(asks)),
            "report_problem": self.problems.append,
            "at": lambda stage: None,
            "note": lambda event, message, **_: self.notes.append((event, message)),
            "_with_models": lambda run, _: (run, [], []),
            "lock": SimpleNamespace(host_lock=lambda name: self.locked.append(name)),
        }
        for name, value in replaced.items():
            self._patch.setattr(preflight, name, value)
        return preflight.preflight() is not None


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asked:
    monkeypatch.chdir(tmp_path)
    return Asked(monkeypatch)


def test_a_host_that_is_fit_is_not_refused(asked: Asked) -> None:
    assert asked.run({}, {}) and (asked.problems, asked.failed) == ([], [])
    assert asked.locked == ["preflight | host lock"]


# What is otherwise: the data, what the host shows, what the environment holds -> the sentence.
REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, str], str]] = {
    "a short token": (
        {"secrets.API_TOKEN.min_chars": 32},
        {},
        {"API_TOKEN": "x" * 25},
        "`API_TOKEN` has fewer than 32 characters, which its service refuses",
    ),
    "a token that nobody can send": ({}, {}, {"API_TOKEN": "tokén"}, "`API_TOKEN` has characters that an HTTP header"),
    "a hash of another password": (
        {},
        {},
        {"LOGIN_PASSWORD": "mine", "LOGIN_HASH": "$2b$04$abcdefghijklmnopqrstuuGJ1zvBCtvS5HkhvXjNDEDqdzHpEQ0ka"},
        "`LOGIN_HASH` is not the hash of `LOGIN_PASSWORD`",
    ),
    "a secret that only the operator can give": (
        {"services.api.secrets": ["API_TOKEN", "GIVEN"]},
        {},
        {},
        "`GIVEN` is not set",
    ),
    "a port of somebody's": ({}, {"listening": {9001: "nginx (pid 12)"}}, {}, "port 9001 of `api` is already in use"),
    "a uid of somebody's": ({}, {"users": {"admin": 10001}}, {}, "the uid 10001 is already that of the user `admin`"),
    "a folder in which a container writes": (
        {"tools_root": "/data/services/painter/data/tools"},
        {},
        {},
        "`tools_root` (/data/services/painter/data/tools) lies in",
    ),
}


@pytest.mark.parametrize(("changes", "seen", "values", "what"), REFUSED.values(), ids=REFUSED)
def test_every_question_is_asked(
    asked: Asked,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    seen: dict[str, Any],
    values: dict[str, str],
    what: str,
) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    assert not asked.run(changes, seen)
    found = [problem for problem in asked.problems if what in problem.what]
    assert found and all(problem.hint and problem.host == "gpu1" for problem in asked.problems), asked.problems
    assert len(asked.problems) == len(found) and len(asked.failed) == 1 and asked.locked == []


def test_what_a_host_cannot_give_is_told_and_refuses_nobody(asked: Asked) -> None:
    assert asked.run({"services.painter.memory": "200g", "services.api.cpus": 64}, {"cpus": 2})
    limits = [message for event, message in asked.notes if event == "limit"]
    assert any("painter: its limit of 200g of memory is above this host's 64 GiB" in each for each in limits)
    assert any("api: it gets 2 of the 64 cores" in each for each in limits)
    assert any("may together take 202 GiB of memory" in each for each in limits)


def test_who_only_looks_is_not_refused_for_the_state_of_the_host(asked: Asked) -> None:
    taken = {"listening": {9001: "nginx (pid 12)"}}
    assert asked.run({}, taken, frozenset({"status"})) and asked.locked == []
    assert not asked.run({}, taken, frozenset({"stacks"}))


def test_who_makes_nothing_is_not_told_what_concerns_that(asked: Asked) -> None:
    changes: dict[str, Any] = {"services.painter.memory": "200g"}
    assert asked.run(changes, {}, frozenset({"destroy"})) and asked.run(changes, {}, frozenset({"verify"}))
    assert {event for event, _ in asked.notes} & {"limit", "unpinned"} == set()
    assert asked.run(changes, {}, frozenset({"stacks"}))
    assert {event for event, _ in asked.notes} >= {"limit", "unpinned"}


@pytest.mark.parametrize(
    ("only", "brief", "ahead"),
    [
        (frozenset({"status"}), True, [("states",)]),
        (None, False, [("containers",)]),
        (frozenset({"verify"}), False, []),
        (frozenset({"status", "verify"}), False, []),
    ],
)
def test_of_a_host_that_is_only_shown_little_is_read(
    asked: Asked, only: frozenset[str] | None, brief: bool, ahead: list[tuple[str]]
) -> None:
    """Who decides anything else reads it all; what is asked ahead is what is asked then, or it is asked twice."""
    assert asked.run({}, {}, only)
    looks = [ask for ask in asked.ahead if isinstance(ask, partial)]
    [read] = [ask for ask in looks if ask.func is preflight._read]
    read()
    assert asked.briefs == [brief, brief]
    assert [ask.args for ask in looks if ask.func is docker.look] == ahead
