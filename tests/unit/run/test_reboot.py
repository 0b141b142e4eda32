"""A run waits for a host that reboots: over new connections, until the mark is gone that a reboot takes away."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest
from paramiko import SSHException
from pyinfra.connectors.local import LocalConnector

from gpuhost.errors import Problem
from gpuhost.run import reboot
from gpuhost.run.remote import Completed, Script


class Rebooting:
    """A host that answers each question in turn: "up" (it has not gone yet), "lost" (in the middle of it), "down",
    "back"."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answers: Iterable[str]) -> None:
        self.answers, self.now, self.problems = iter(answers), 0.0, list[Problem]()
        self.connected, self.connections, self.tuned = True, 0, 0
        self.name = "gpu1"
        self.connector: object = SimpleNamespace()
        self.answer = "up"
        monkeypatch.setattr(reboot, "current_host", self)
        monkeypatch.setattr(reboot, "clear_askpass_cache", lambda host: None)
        monkeypatch.setattr(reboot, "run", self.run)
        monkeypatch.setattr(reboot, "report_problem", self.problems.append)
        monkeypatch.setattr(reboot, "tune", self.tune)
        monkeypatch.setattr(reboot, "time", SimpleNamespace(monotonic=lambda: self.now, sleep=self.sleep))

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def tune(self, host: object) -> None:
        self.tuned += 1

    def disconnect(self) -> None:
        self.connected = False

    def connect(self, show_errors: bool) -> None:
        assert not self.connected and not show_errors
        self.answer = next(self.answers)
        self.connections += 1
        self.connected = self.answer != "down"

    def run(self, script: str) -> Completed:
        if self.answer == "lost":
            raise SSHException("SSH session not active")
        return Completed(self.answer == "back", "", "")

    def wait(self) -> Any:
        script, waiting = reboot.reboots()
        assert isinstance(script, Script) and "systemctl reboot" in script.get_raw_value()
        return waiting.function(None, self)  # type: ignore[attr-defined]


def test_it_waits_through_all_that_a_reboot_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Rebooting(monkeypatch, ["up", "lost", "down", "down", "back"])
    assert host.wait() is True
    assert (host.connections, host.tuned, host.problems) == (5, 1, [])


def test_a_host_that_stays_away_is_given_up_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Rebooting(monkeypatch, ["down"] * 10_000)
    assert host.wait() is False
    [problem] = host.problems
    assert problem.what == "the host has not come back within 30 minutes after its reboot"
    assert problem.host == "gpu1" and host.now == pytest.approx(reboot.WITHIN_S, abs=reboot.EVERY_S)


def test_who_waits_can_be_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Rebooting(monkeypatch, ["down"] * 10_000)
    monkeypatch.setattr(reboot.stop, "asked", lambda: host.now > 20)
    assert host.wait() is False
    assert host.problems == [] and host.now < 30


def test_a_run_on_the_host_itself_cannot_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Rebooting(monkeypatch, [])
    host.connector = LocalConnector.__new__(LocalConnector)
    [script] = reboot.reboots()
    assert isinstance(script, Script) and not reboot.waits()
