"""Who says which files a model is: a lock.json, else the host, else the hub."""

from __future__ import annotations

from gpuhost.catalog.lock import Lock, LockedFile, LockedModel, Pins
from gpuhost.catalog.types import Model
from gpuhost.errors import Problem, UserError
from gpuhost.models.decided import Decided, decide
from gpuhost.models.facts import ModelsReading

FILES = {name: LockedFile(size=1, sha256=None, git_sha1="d" * 40) for name in ("a.bin", "b.bin")}
LOCKED, NOTED, ASKED = (LockedModel(commit=letter * 40, files=FILES) for letter in "abc")
MODELS = {"one": Model(repo="o/m", allow=["a.bin"]), "two": Model(repo="o/m", allow=["b.bin"])}


def lock(found: LockedModel) -> Lock:
    return Lock(version=1, models={"o/m": {"main": found}})


class Hub:
    """Says what it is told to, and counts."""

    def __init__(self, answer: LockedModel | Problem = ASKED) -> None:
        self.answer = answer
        self.asked = 0

    def __call__(self, model: Model) -> LockedModel:
        self.asked += 1
        if isinstance(self.answer, Problem):
            raise UserError(self.answer)
        return self.answer


def said(pins: Pins, reading: ModelsReading, hub: Hub | None) -> tuple[Decided, list[tuple[str, str, list[str]]]]:
    found, problems = decide(MODELS, pins, reading, hub)
    assert problems == []
    return found, [(each.commit[0], each.source, list(each.files)) for each in found.models]


def test_a_lock_alone_says_it_and_nobody_is_asked() -> None:
    hub = Hub()
    decided, found = said(Pins(own=lock(LOCKED)), ModelsReading(revisions=lock(NOTED)), hub)
    assert found == [("a", "lock", ["a.bin"]), ("a", "lock", ["b.bin"])]
    assert hub.asked == 0 and decided.revisions is None


def test_without_a_lock_what_the_host_noted_counts() -> None:
    hub = Hub()
    decided, found = said(Pins(), ModelsReading(revisions=lock(NOTED)), hub)
    assert found == [("b", "host", ["a.bin"]), ("b", "host", ["b.bin"])]
    assert hub.asked == 0 and decided.revisions == lock(NOTED)


def test_else_the_hub_is_asked_and_all_that_it_says_is_kept() -> None:
    hub = Hub()
    decided, found = said(Pins(), ModelsReading(), hub)
    assert found == [("c", "hub", ["a.bin"]), ("c", "hub", ["b.bin"])]
    assert hub.asked == 2 and decided.revisions == lock(ASKED)  # the whole listing, for models to come


def test_what_is_not_to_be_asked_is_unresolved() -> None:
    decided, found = said(Pins(), ModelsReading(), None)
    assert found == [] and decided.unresolved == MODELS and decided.revisions is None


def test_a_problem_that_two_models_have_is_one() -> None:
    problem = Problem("the hub is gone", "wait")
    decided, problems = decide(MODELS, Pins(), ModelsReading(), Hub(problem))
    assert problems == [problem] and decided.unresolved == MODELS


def test_data_that_name_no_file_are_a_problem_of_that_model() -> None:
    models = {**MODELS, "three": Model(repo="o/m", allow=["none"])}
    decided, [problem] = decide(models, Pins(own=lock(LOCKED)), ModelsReading(), None)
    assert problem.what.startswith("`models.three`: no file") and list(decided.unresolved) == ["three"]
    assert [each.name for each in decided.models] == ["one", "two"]


def test_a_model_of_which_nothing_is_known_hides_none_behind_it() -> None:
    """The hub fails for it, nobody is asked for it, the data names no file of it."""
    models = {"first": Model(repo="o/other"), **MODELS}

    def ask(model: Model) -> LockedModel:
        if model.repo == "o/other":
            raise UserError(Problem("the hub is gone", "wait"))
        return ASKED

    for asked, pins in ((ask, Pins()), (None, Pins(own=lock(LOCKED)))):
        decided, _ = decide(models, pins, ModelsReading(), asked)
        assert [each.name for each in decided.models] == ["one", "two"] and list(decided.unresolved) == ["first"]
    decided, _ = decide({"none": Model(repo="o/m", allow=["x"]), **MODELS}, Pins(), ModelsReading(), Hub())
    assert [each.name for each in decided.models] == ["one", "two"] and list(decided.unresolved) == ["none"]


def test_no_model_is_nothing() -> None:
    assert decide({}, Pins(), ModelsReading(), Hub()) == (Decided(models=[]), [])
