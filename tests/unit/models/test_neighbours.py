"""Who gives which models to whom: soundly whatever the hosts have, and each byte from the hub once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuhost.catalog.lock import LockedFile
from gpuhost.catalog.types import Model
from gpuhost.models import neighbours
from gpuhost.models.facts import FileStat, ModelsReading
from gpuhost.models.neighbours import Blob, Given, HostModels, MissingFile, MissingModel, Turn, decided, host_models
from gpuhost.models.rules import PlannedFile, PlannedModel, Wanted
from gpuhost.plan.change import Difference, Impact
from hostside.protocol.models import Manifest, ManifestEntry, ModelFile

MODELS = "ABCDE"


def blob(model: str, number: int) -> Blob:
    return f"acme/{model}", f"{model}{number}"


def missing(model: str, *numbers: int, from_hub: bool = False, size: int = 10) -> MissingModel:
    files = [MissingFile(blob(model, number), size, f"at/{model}{number}") for number in numbers]
    return MissingModel(model, files, from_hub)


def has(*blobs: Blob) -> dict[Blob, str]:
    return {each: f"old/{each[1]}" for each in blobs}


def asked_of_the_hub(hosts: Mapping[str, HostModels]) -> Counter[Blob]:
    """How often the hub is asked for each file."""
    turns = decided(hosts)
    wanted = {
        (host, file.blob)
        for host, each in hosts.items()
        for model in each.lacks
        for file in model.files
        if file.blob not in turns[host][model.name].given
    }
    # What a model brings another one of the same host need not.
    given = {(host, known) for host, each in turns.items() for turn in each.values() for known in turn.given}
    return Counter(known for host, known in wanted if (host, known) not in given)


# -- examples ----------------------------------------------------------------------------------------------------------


def test_a_host_alone_asks_the_hub() -> None:
    assert decided({"a": HostModels({}, [missing("A", 1, 2)])}) == {"a": {"A": Turn()}}
    assert decided({}) == {} and decided({"a": HostModels()}) == {"a": {}}


def test_a_model_comes_in_its_wave_and_one_of_which_nothing_was_decided_in_the_first() -> None:
    files = {"one.bin": LockedFile(size=1, sha256=None, git_sha1="b" * 40)}
    models = [Wanted(name, Model(repo="Acme/Models"), "a" * 40, files, "hub") for name in "ABC"]
    turns = {"A": Turn(2), "B": Turn(3)}
    found = {wave: [each.name for each in neighbours.of_wave(models, turns, wave)] for wave in (1, 2, 3)}
    assert found == {1: ["C"], 2: ["A"], 3: ["B"]}


def test_what_a_host_has_the_others_take_at_once() -> None:
    hosts = {"a": HostModels(has(blob("A", 1))), "b": HostModels({}, [missing("A", 1, 2)])}
    assert decided(hosts)["b"] == {"A": Turn(1, {blob("A", 1): Given("a", "old/A1")})}  # A2 comes from the hub


def test_of_hosts_that_all_lack_it_one_asks_the_hub_and_the_others_take_it_from_that_one() -> None:
    lacking = HostModels({}, [missing("A", 1, 2)])
    turns = decided({"a": lacking, "b": lacking, "c": lacking})
    taken = Turn(2, {blob("A", 1): Given("a", "at/A1"), blob("A", 2): Given("a", "at/A2")})
    assert turns == {"a": {"A": Turn()}, "b": {"A": taken}, "c": {"A": taken}}


def test_the_hub_is_asked_by_each_of_them_for_as_much() -> None:
    lacking = HostModels({}, [missing("A", 1, size=9), missing("B", 1, size=5), missing("C", 1, size=4)])
    turns = decided({"a": lacking, "b": lacking})
    asks = {host: [name for name, turn in each.items() if not turn.given] for host, each in turns.items()}
    assert asks == {"a": ["A"], "b": ["B", "C"]}


def test_what_the_hub_has_not_allowed_a_host_it_takes_from_none_and_gives_to_others() -> None:
    hosts = {
        "a": HostModels({}, [missing("A", 1)]),
        "b": HostModels({}, [missing("A", 1, from_hub=True)]),
        "c": HostModels(has(blob("A", 2)), [missing("A", 1)]),
    }
    turns = decided(hosts)
    taken = Turn(2, {blob("A", 1): Given("b", "at/A1")})
    assert turns == {"b": {"A": Turn()}, "a": {"A": taken}, "c": {"A": taken}}
    hosts["c"] = HostModels(has(blob("A", 1)))
    assert decided(hosts)["b"] == {"A": Turn()} and decided(hosts)["a"]["A"].given[blob("A", 1)].host == "c"


def test_one_host_gives_to_so_many_at_a_time_and_those_give_on() -> None:
    lacking = HostModels({}, [missing("A", 1)])
    turns = decided({f"h{number:02}": lacking for number in range(17)})
    waves = Counter(turn["A"].wave for turn in turns.values() if turn["A"].given)
    assert waves == {2: 3, 3: 12}
    assert sum(not turn["A"].given for turn in turns.values()) == 2  # the seventeenth asks the hub, too


def test_a_file_of_two_models_of_a_host_comes_once() -> None:
    shared = MissingFile(blob("A", 1), 10, "at/A1")
    host = HostModels({}, [missing("A", 1), MissingModel("B", [shared])])
    turns = decided({"a": host, "b": host})
    assert asked_of_the_hub({"a": host, "b": host}) == {blob("A", 1): 1}
    assert turns["b"]["A"] == turns["b"]["B"] == Turn(2, {blob("A", 1): Given("a", "at/A1")})


# -- whatever the hosts have -------------------------------------------------------------------------------------------


NUMBERS = st.sets(st.integers(0, 3))


def inventories(hosts_max: int, alike: bool = False) -> st.SearchStrategy[dict[str, HostModels]]:
    """`alike`: hosts that want a model want the same files of it; else each may want others."""

    @st.composite
    def one(draw: Any) -> HostModels:
        there, lacks = dict[Blob, str](), []
        for name in MODELS:
            kept, wanted = draw(NUMBERS), set(range(4)) if alike else draw(NUMBERS)
            there |= has(*(blob(name, number) for number in kept))
            if wanted - kept and draw(st.booleans()):
                lacks.append(missing(name, *sorted(wanted - kept), from_hub=draw(st.integers(0, 9)) == 0))
        return HostModels(there, lacks)

    return st.lists(one(), max_size=hosts_max).map(lambda found: {f"h{n:02}": each for n, each in enumerate(found)})


@given(inventories(9))
def test_who_gives_has_it_by_then_and_gives_to_no_more_than_its_connection_carries(
    hosts: dict[str, HostModels],
) -> None:
    turns = decided(hosts)
    assert turns == decided(hosts) and list(turns) == list(hosts)
    got: dict[tuple[str, Blob], int] = {}  # after which wave
    for host, each in hosts.items():
        got |= {(host, known): 0 for known in each.has}
        for model in each.lacks:
            got |= {(host, file.blob): turns[host][model.name].wave for file in model.files}
    pairs = set()
    for host, each in hosts.items():
        assert set(turns[host]) == {model.name for model in each.lacks}
        for model in each.lacks:
            turn = turns[host][model.name]
            assert 1 <= turn.wave <= neighbours.WAVES
            assert not (model.from_hub and turn.given) and set(turn.given) <= {file.blob for file in model.files}
            for known, source in turn.given.items():
                assert source.host != host and got[source.host, known] < turn.wave
                assert source.at in (hosts[source.host].has.get(known), f"at/{known[1]}")
                pairs.add((turn.wave, source.host, host))
    assert max(Counter((wave, giver) for wave, giver, _ in pairs).values(), default=0) <= neighbours.TAKERS_MAX
    assert max(Counter((wave, taker) for wave, _, taker in pairs).values(), default=0) <= neighbours.GIVERS_MAX


@given(inventories(4, alike=True))
def test_of_four_hosts_one_asks_the_hub_for_a_file_and_none_for_one_that_somebody_has(
    hosts: dict[str, HostModels],
) -> None:
    own = Counter(
        file.blob for each in hosts.values() for model in each.lacks if model.from_hub for file in model.files
    )
    there = {known for each in hosts.values() for known in each.has}
    for known, times in asked_of_the_hub(hosts).items():
        assert times == max(own[known], known not in there), known


# -- what a host has and lacks -----------------------------------------------------------------------------------------

CACHE, STAT = "/data/hub", FileStat(10, 20, 30, uid=7)
PATH = f"{CACHE}/models--acme--A/snapshots/{'a' * 40}/x.bin"


def entry(**over: Any) -> ManifestEntry:
    known: dict[str, Any] = {"model": "A", "repo": "acme/A", "commit": "a" * 40, "file": "x.bin", "path": PATH}
    known |= {"size": 10, "mtime_ns": 20, "inode": 30, "sha256": "0" * 64, "git_sha1": None, "links": []}
    return ManifestEntry(**(known | {"verified_ns": 1, "checked_against": "hub"} | over))


def seen(made: ManifestEntry, cached: FileStat | None = STAT) -> Mapping[Blob, str]:
    reading = ModelsReading(Manifest({"x": made}), cached={made.path: cached} if cached else {})
    return host_models([], reading, CACHE, owner=7, unheard=()).has


def test_only_what_was_compared_and_is_as_it_was_then_is_given() -> None:
    at = PATH.removeprefix(f"{CACHE}/")
    assert seen(entry()) == {("acme/A", "0" * 64): at}
    assert seen(entry(git_sha1="1" * 40)) == {("acme/A", "1" * 40): at}
    assert seen(entry(checked_against="none")) == {}
    assert seen(entry(), None) == {}
    assert seen(entry(inode=31)) == seen(entry(size=11)) == seen(entry(mtime_ns=21)) == {}
    assert seen(entry(), FileStat(10, 20, 30, uid=8)) == {}  # who could change it at any time
    assert seen(entry(path="/etc/shadow")) == {}


def planned(gated: bool = False, **over: Any) -> PlannedModel:
    known: dict[str, Any] = {"model": "A", "repo": "acme/A", "commit": "a" * 40, "file": "x.bin", "size": 10}
    known |= {"sha256": "0" * 64, "git_sha1": None, "links": [], "action": "fetch", "gated": gated}
    big, small = ModelFile(**known), ModelFile(**{**known, "file": "y.bin", "sha256": "1" * 64, "size": 3})
    there = ModelFile(**{**known, "file": "z.bin", "sha256": "2" * 64})
    return PlannedModel("A", [PlannedFile(big, "w", 10), PlannedFile(small, "w", 3), PlannedFile(there, "w")], None)


def lacks(model: PlannedModel, *unheard: str) -> MissingModel:
    [found] = host_models([model], ModelsReading(), CACHE, 7, unheard).lacks
    return found


def test_what_comes_over_the_network_is_lacking() -> None:
    found = lacks(planned())
    assert [(file.blob[1][0], file.size) for file in found.files] == [("0", 10), ("1", 3)]
    assert found.files[0].at == PATH.removeprefix(f"{CACHE}/") and found.bytes == 13


@pytest.mark.parametrize(
    ("gated", "unheard", "from_hub"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_a_gated_model_of_which_the_hub_said_nothing_comes_from_the_hub(
    gated: bool, unheard: bool, from_hub: bool
) -> None:
    assert lacks(planned(gated), *(["acme/A"] if unheard else [])).from_hub is from_hub


def test_what_tells_the_bytes_of_a_file() -> None:
    [first, *_] = planned().files
    file = first.file
    assert neighbours.blob(file) == ("acme/A", "0" * 64)
    assert neighbours.blob(replace(file, sha256=None, git_sha1="b" * 40)) == ("acme/A", "b" * 40)
    assert neighbours.blob(replace(file, sha256=None)) == ("acme/A", "")


def test_what_no_neighbour_gives_comes_from_the_hub() -> None:
    turns = {"A": Turn(1, {("acme/A", "0" * 64): Given("gpu2", "at"), ("acme/A", "2" * 64): Given("gpu2", "at")})}
    [model] = neighbours.with_givers([planned()], turns)
    assert [each.giver for each in model.files] == ["gpu2", "", ""]  # the third is there already
    assert [each.giver for each in neighbours.with_givers([planned()], {})[0].files] == ["", "", ""]


def test_a_plan_says_how_much_comes_from_whom() -> None:
    turns = {"A": Turn(2, {("acme/A", "0" * 64): Given("gpu2", "at"), ("acme/A", "2" * 64): Given("gpu2", "at")})}
    [model] = neighbours.with_givers([planned()], turns)
    change = model.change()
    assert change.impact == Impact(download_bytes=13, neighbour_bytes={"gpu2": 10})
    assert change.reason == "w (3 files); 10 B from gpu2"
    assert change.diff[:2] == (
        Difference("x.bin", None, "fetch, 10 B from gpu2"),
        Difference("y.bin", None, "fetch, 3 B"),
    )
    [alone] = neighbours.with_givers([planned()], {})
    assert alone == planned() and alone.change().reason == "w (3 files)"
