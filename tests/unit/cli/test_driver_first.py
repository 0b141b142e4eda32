"""A driver comes alone: `gpuhost apply` goes on with what is planned once it is loaded, and asks again."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from gpuhost.cli import main as cli
from gpuhost.run import pyinfra
from gpuhost.run.pyinfra import Outcome
from tests.unit.cli.test_main import ADDRESS, HOST, OBSERVED, PROBLEM, Fake, change, fake
from tests.unit.described import described

__all__ = ["fake"]
DRIVER = {"event": "driver", "host": "gpu1", "message": "the driver comes first"}
REBOOT: dict[str, Any] = {"name": "NVIDIA driver 550", "stage": "gpu", "action": "reboot"}
TOOLKIT: dict[str, Any] = {"name": "NVIDIA Container Toolkit", "stage": "gpu", "action": "install"}
LATER = [HOST, change("performed", **TOOLKIT), OBSERVED, ADDRESS]


@pytest.fixture
def both(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Plans and applies of a host that has a card and no driver, then one."""
    fake.plan, fake.apply = Outcome(0, [HOST, change(**REBOOT), DRIVER], ""), Outcome(0, [], "")
    outcomes: dict[str, Iterator[Outcome]] = {
        "plan": iter([fake.plan, Outcome(0, [HOST, change(**TOOLKIT)], "")]),
        "apply": iter([Outcome(0, [HOST, change("performed", **REBOOT), DRIVER], ""), Outcome(0, LATER, "")]),
    }

    def answer(name: str) -> Any:
        def one(*_: Any, **__: Any) -> Outcome:
            fake.asked.append(name)
            return next(outcomes[name])

        return one

    for name in outcomes:
        monkeypatch.setattr(pyinfra, name, answer(name))
    return fake


def test_it_goes_on_with_everything_else(both: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["apply", "--yes"]) == 0
    assert both.asked == ["plan", "apply", "plan", "apply"]
    said = capsys.readouterr().out.splitlines()
    loaded = said.index("The NVIDIA driver is loaded. What else there is to do:")
    first, second = (next(n for n, line in enumerate(said) if name["name"] in line) for name in (REBOOT, TOOLKIT))
    assert first < loaded < second
    assert said[loaded - 1].startswith("[gpu1] 1 change made in ")
    assert said[-1] == "[gpu1] api: http://127.0.0.1:9001"


def test_for_a_program_it_is_one_apply(both: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["apply", "--yes", "--json"]) == 0
    document = described("applied", capsys.readouterr().out)
    assert [each["resource"]["name"] for each in document["changes"]] == [REBOOT["name"], TOOLKIT["name"]]
    assert (document["result"], document["observed"], document["errors"]) == ("ok", [OBSERVED], [])


def test_a_person_is_asked_about_the_rest_too(both: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    answers = iter(["y", "n"])
    monkeypatch.setattr("builtins.input", lambda *_: next(answers))
    assert cli.main(["apply"]) == 1
    assert both.asked == ["plan", "apply", "plan"]


def test_after_a_driver_that_failed_nothing_follows(fake: Fake) -> None:
    fake.plan = Outcome(0, [HOST, change(**REBOOT), DRIVER], "")
    fake.apply = Outcome(1, [HOST, DRIVER, PROBLEM], "")
    assert cli.main(["apply", "--yes"]) == 1
    assert fake.asked == ["plan", "apply"]
