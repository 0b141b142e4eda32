"""What a host answers is data: whatever it says, the worst is that this host fails."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyinfra.api.exceptions import FactProcessError
from pyinfra.api.facts import FactBase

from gpuhost.errors import Problem
from gpuhost.plan.change import Change, Resource
from gpuhost.project import PROJECT
from gpuhost.run import fact as module
from gpuhost.run import session
from gpuhost.run.fact import HostFact

for path in (PROJECT / "gpuhost").rglob("*.py"):
    importlib.import_module(".".join(path.relative_to(PROJECT).with_suffix("").parts))


def facts(base: type[HostFact[Any]] = HostFact) -> Iterator[type[HostFact[Any]]]:
    for each in base.__subclasses__():
        yield each
        yield from facts(each)


FACTS = [each for each in facts() if each.__module__.startswith("gpuhost.")]
KINDS = ["container", "package", "gpu", "route", "listen", "config", "image", "model", "stat", "disk_kib", "cpus", "os"]
LINES = st.lists(st.text() | st.builds("{}\t{}".format, st.sampled_from(KINDS), st.text()), max_size=5)


def below(base: type[Any]) -> Iterator[type[Any]]:
    for each in base.__subclasses__():
        yield each
        yield from below(each)


def test_every_fact_is_one_of_these_and_reads() -> None:
    assert len(FACTS) >= 9
    ours = {each for each in below(FactBase) if each.__module__.partition(".")[0] in ("gpuhost", "tasks")}
    assert ours == {*FACTS, HostFact}
    assert [each for each in FACTS if "read" not in vars(each)] == []


@pytest.mark.parametrize("fact", FACTS, ids=lambda each: each.__name__)
def test_no_answer_ends_the_run_for_others(fact: type[HostFact[Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    problems: list[Problem] = []
    monkeypatch.setattr(module, "report_problem", problems.append)
    monkeypatch.setattr(module, "host", SimpleNamespace(name="gpu1"))

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(LINES)
    def answers(lines: list[str]) -> None:
        try:
            fact().process(lines)
        except FactProcessError:
            assert problems[-1].host == "gpu1" and problems[-1].hint

    answers()


def test_an_answer_that_cannot_be_read_is_one_sentence_that_quotes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(HostFact[int]):
        def command(self) -> str:
            return "true"

        def read(self, output: list[str]) -> int:
            return int(output[0])

    problems: list[Problem] = []
    monkeypatch.setattr(module, "report_problem", problems.append)
    monkeypatch.setattr(module, "host", SimpleNamespace(name="gpu1"))
    with pytest.raises(FactProcessError):
        Broken().process(["hunter2"])
    assert [problem.what for problem in problems] == ["what the host answered cannot be read (Broken: ValueError)"]


def test_on_a_host_that_failed_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """pyinfra goes on with the fact's default, by which everything seems to be missing."""
    gpu1 = SimpleNamespace(name="gpu1")
    monkeypatch.setattr(session, "host", gpu1)
    monkeypatch.setattr(session, "state", SimpleNamespace(failed_hosts=[gpu1], is_executing=True))
    changes = [Change("stacks", Resource("service", "api"), "create", "no container")]
    assert list(session.carry_out(changes, iter([]))) == []
