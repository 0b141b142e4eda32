"""Who runs on which GPU."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuhost.catalog.types import Service
from gpuhost.host.facts import Gpu
from gpuhost.services.placement import place, sharing, short_of_memory
from gpuhost.services.stacks import Stacks
from hostside.vram import SHARED_PART
from tests.unit import sample
from tests.unit.sample import GPU, SMALL_GPU

CARDS = [Gpu(f"GPU-{number}", "NVIDIA RTX", 24576, 24000, "580") for number in range(3)]
PAINTER = sample.catalog().services["painter"]


def service(count: int, vram_mib: int | None = None, least_mib: int | None = None, start: str = "always") -> Service:
    gpu = {"count": count, "vram_mib": vram_mib, "vram_least_mib": least_mib}
    return PAINTER.model_validate({**PAINTER.model_dump(), "gpu": gpu if count else None, "start": start})


def waiting(vram_mib: int, count: int = 1, least_mib: int | None = None) -> Service:
    """One that runs on demand."""
    return service(count, vram_mib, least_mib, "on-demand")


def test_without_a_gpu_what_needs_one_is_skipped_and_says_so() -> None:
    found = place(sample.catalog().enabled(), [])
    assert found.gpus == {"api": []}  # it only reads the GPUs' state
    assert found.skipped == {"painter": "it needs 1 NVIDIA GPU, this host has none"}


def test_too_few_gpus() -> None:
    found = place({"painter": service(3)}, [GPU, SMALL_GPU])
    assert found.skipped == {"painter": "it needs 3 NVIDIA GPUs, this host has 2"}


@pytest.mark.parametrize("gpus", [[GPU, SMALL_GPU], [SMALL_GPU, GPU]], ids=["as listed", "listed the other way"])
def test_the_largest_gpu_by_uuid_whatever_the_order_of_indexes(gpus: list[Gpu]) -> None:
    found = place(sample.catalog().enabled(), gpus)
    assert found.gpus == {"api": [GPU.uuid, SMALL_GPU.uuid], "painter": [GPU.uuid]}
    assert found.skipped == {}


def test_a_service_that_needs_no_gpu_gets_none() -> None:
    assert place({"painter": service(0)}, [GPU]).gpus["painter"] == []


def test_each_gets_a_card_of_its_own_before_two_share_one() -> None:
    three = {name: service(1) for name in "abc"}
    assert sorted(place(three, CARDS).gpus.values()) == [["GPU-0"], ["GPU-1"], ["GPU-2"]]
    two = place(three, CARDS[:2]).gpus
    assert two["a"] != two["b"] and len({*two["a"], *two["b"]}) == 2


def test_what_is_placed_stays_where_it_is() -> None:
    wanted = {name: service(1, 8000) for name in "ab"}
    assert place(wanted, CARDS, {"a": ["GPU-2"], "b": ["GPU-1"]}).gpus == {"a": ["GPU-2"], "b": ["GPU-1"]}
    together = {"a": ["GPU-1"], "b": ["GPU-1"]}
    assert place(wanted, CARDS, together).gpus == together
    # Of a card that is gone, or of more cards than it needs now, nothing is kept.
    assert place({"a": service(1)}, CARDS[:1], {"a": ["GPU-9"]}).gpus == {"a": ["GPU-0"]}
    assert len(place({"a": service(1)}, CARDS, {"a": ["GPU-0", "GPU-1"]}).gpus["a"]) == 1
    # Cards of one name and another memory are not alike.
    larger = replace(CARDS[0], vram_mib=49152)
    assert place({"a": service(2)}, [larger, *CARDS[1:]], {"a": ["GPU-0", "GPU-1"]}).gpus["a"] == ["GPU-1", "GPU-2"]


def test_a_newcomer_does_not_take_the_place_of_one_that_runs() -> None:
    wanted = {"new": service(1, 20000), "old": service(1, 20000)}
    assert place(wanted, CARDS[:2], {"old": ["GPU-0"]}).gpus == {"new": ["GPU-1"], "old": ["GPU-0"]}


def test_no_service_gets_more_than_a_whole_card() -> None:
    assert place({"a": service(1, 24577)}, CARDS[:1]).skipped == {
        "a": "it needs 24577 MiB on 1 GPU; the most that is left is 24576 MiB, 1 MiB too little; "
        "no GPU here is large enough"
    }


def test_two_unmeasured_ones_may_share_a_card_that_is_not_full() -> None:
    part = int(24576 * SHARED_PART)
    beside = {"measured": service(1, part), "unmeasured": service(1)}
    assert set(place(beside, CARDS[:1]).gpus) == {"measured", "unmeasured"}
    full = {"measured": service(1, part + 1), "unmeasured": service(1)}
    assert place(full, CARDS[:1]).skipped == {
        "unmeasured": "it needs 1 GPU that no other service fills, there is none; give it a `vram_mib`"
    }


def test_what_does_not_fit_is_skipped_with_what_is_left() -> None:
    wanted = {"a": service(1, 20000), "b": service(1, 10000)}
    found = place(wanted, CARDS[:1])
    assert found.gpus == {"a": ["GPU-0"]}
    assert found.skipped == {
        "b": "it needs 10000 MiB on 1 GPU; the most that is left is 2118 MiB, 7882 MiB too little; "
        "it would fit without `a` (20000 MiB)"
    }


def test_of_several_cards_the_fullest_one_counts() -> None:
    wanted = {"a": service(1, 20000), "b": service(2, 22000)}
    assert place(wanted, CARDS[:2]).skipped == {
        "b": "it needs 22000 MiB on 2 GPUs; the most that is left is 2118 MiB, 19882 MiB too little; "
        "it would fit without `a` (20000 MiB)"
    }


def test_a_whole_card_may_be_used_by_one_and_less_by_several() -> None:
    assert place({"a": service(1, 24576)}, CARDS[:1]).gpus == {"a": ["GPU-0"]}
    part = int(24576 * SHARED_PART) // 2
    assert set(place({"a": service(1, part), "b": service(1, part)}, CARDS[:1]).gpus) == {"a", "b"}
    assert set(place({"a": service(1, part), "b": service(1, part + 20)}, CARDS[:1]).gpus) == {"a"}


def test_a_second_run_changes_nothing() -> None:
    """One that needs more than its share is alone on its card, whoever came first."""
    wanted = {"unmeasured": service(1), "large": service(1, 23000)}
    first = place(wanted, CARDS[:1], {"large": ["GPU-0"]})
    assert set(first.gpus) == {"large"}
    assert place(wanted, CARDS[:1], first.gpus).gpus == first.gpus


MIXED = [*CARDS[:2], GPU, Gpu("GPU-H", "NVIDIA H200", 143771, 143771, "580")]


def test_several_cards_of_one_service_are_of_one_model() -> None:
    """Each does the same share of the work."""
    assert place({"a": service(2)}, [CARDS[0], GPU]).skipped == {
        "a": "it needs 2 NVIDIA GPUs of one model, this host has NVIDIA H200, NVIDIA RTX"
    }
    larger = {GPU.uuid, "GPU-H"}
    assert set(place({"a": service(2)}, MIXED).gpus["a"]) == larger
    assert set(place({"b": service(1), "a": service(2)}, MIXED, {"b": [GPU.uuid]}).gpus["a"]) == {"GPU-0", "GPU-1"}
    # Of two models by chance they do not stay where they are.
    assert set(place({"a": service(2)}, MIXED, {"a": ["GPU-0", GPU.uuid]}).gpus["a"]) == larger


def test_two_cards_of_one_name_and_two_sizes_are_two_models() -> None:
    two = [Gpu("GPU-0", "NVIDIA", 24576, 0, ""), Gpu("GPU-1", "NVIDIA", 12288, 0, "")]
    assert set(place({"a": service(2)}, two).skipped) == {"a"}


@pytest.mark.parametrize(
    ("others", "need", "said"),
    [
        ({"a": 8000, "b": 6000}, 15000, "it would fit without `a` (8000 MiB)"),
        ({"a": 8000, "b": 6000}, 14000, "it would fit without `b` (6000 MiB)"),
        ({"a": 8000, "b": 6000}, 24000, "it would fit without `b` (6000 MiB) and `a` (8000 MiB)"),
        ({"a": 8000, "b": 6000}, 25000, "no GPU here is large enough"),
        ({"a": 4000, "b": 5000, "c": 6000}, 18000, "it would fit without `b` (5000 MiB) and `c` (6000 MiB)"),
    ],
)
def test_what_does_not_fit_says_what_would_help(others: dict[str, int], need: int, said: str) -> None:
    wanted = {name: service(1, mib) for name, mib in others.items()} | {"z": service(1, need)}
    assert place(wanted, CARDS[:1]).skipped["z"].endswith(said)
    without = {name: each for name, each in wanted.items() if f"`{name}`" not in said}
    assert bool(place(without, CARDS[:1]).skipped) == ("large enough" in said)


def test_what_needs_most_is_placed_first_when_that_leaves_nobody_out() -> None:
    """In their own order two small ones take the cards that the large one needs together."""
    needs = {"first": service(1), "small": service(1, 9339), "middle": service(1, 11797), "large": service(2, 21627)}
    found = place(needs, CARDS)
    assert found.skipped == {} and found.gpus["small"] == found.gpus["middle"]
    assert len(found.gpus["large"]) == 2 and not set(found.gpus["large"]) & set(found.gpus["small"])
    assert place(needs, CARDS, found.gpus).gpus == found.gpus
    # Where somebody is left out all the same, the order decides who.
    two = {"a": service(1, 20000), "b": service(1, 22000)}
    assert list(place(two, CARDS[:1]).gpus) == ["a"]
    assert list(place(needs, CARDS[:2]).skipped) == ["large"]


def test_who_shares_a_card() -> None:
    """Who only reads the state of all shares none."""
    services = {"api": sample.catalog().services["api"], **{name: service(1, 5000) for name in "abc"}}
    assert sharing(place(services, CARDS), services) == set()
    assert sharing(place(services, CARDS[:1]), services) == {"a", "b", "c"}
    assert sharing(place({"api": services["api"], "a": services["a"]}, CARDS[:1]), services) == set()


H200 = Gpu("GPU-H", "NVIDIA H200", 143771, 143771, "580")


def test_a_card_that_is_too_small_for_all_of_it_will_do_when_it_is_its_own() -> None:
    wanted = {"large": service(1, 35000, 20000), "small": service(1, 5000)}
    assert place(wanted, CARDS[:2]).gpus["large"] != place(wanted, CARDS[:2]).gpus["small"]
    # There it takes the whole card, so nobody fits beside it, in whatever order.
    for order in (("large", "small"), ("small", "large")):
        found = place({name: wanted[name] for name in order}, CARDS[:1])
        assert list(found.gpus) == list(order)[:1] and list(found.skipped) == list(order)[1:]
    # On a card with room for all of it the others fit, too.
    assert set(place(wanted, [H200]).gpus) == {"large", "small"}
    assert list(place({"large": service(1, 35000, 24577)}, CARDS[:1]).skipped) == ["large"]


def test_what_runs_on_demand_takes_nobodys_room_and_comes_last() -> None:
    wanted = {"a": waiting(24000), "b": service(1, 24000), "c": waiting(24000)}
    found = place(wanted, CARDS[:1])
    assert found.gpus == {name: ["GPU-0"] for name in wanted} and found.crowded == {"a", "c"}
    assert sharing(found, wanted) == set()  # nothing starts them at boot
    # Where there are more cards, nobody waits on the one that is full.
    found = place(wanted, CARDS)
    assert sorted(found.gpus.values()) == [["GPU-0"], ["GPU-1"], ["GPU-2"]] and not found.crowded
    assert place(wanted, CARDS, found.gpus) == found


def test_one_that_runs_on_demand_waits_beside_one_that_leaves_it_room() -> None:
    wanted = {"full": service(1, 24000), "half": service(1, 10000), "waits": waiting(12000)}
    found = place(wanted, CARDS[:2])
    assert found.gpus["waits"] == found.gpus["half"] and not found.crowded
    # The second one would fit beside the first service, but not beside both.
    found = place({**wanted, "waits, too": waiting(12000)}, CARDS[:2])
    assert found.crowded == {"waits, too"}


def test_what_no_card_could_carry_alone_is_skipped_on_demand_as_well() -> None:
    found = place({"a": service(1, 20000), "b": waiting(24577), "c": waiting(20000, 2)}, CARDS[:1])
    assert found.skipped == {
        "b": "it needs 24577 MiB on 1 GPU; the most that is left is 24576 MiB, 1 MiB too little; "
        "no GPU here is large enough",
        "c": "it needs 2 NVIDIA GPUs, this host has 1",
    }


def test_a_newcomer_does_not_count_on_what_others_hold_and_what_is_placed_stays() -> None:
    wanted = {"a": service(1, 20000)}
    held = {"GPU-0": 6000}
    assert place(wanted, CARDS[:2], foreign=held).gpus == {"a": ["GPU-1"]}
    assert place(wanted, CARDS[:1], foreign=held).skipped == {
        "a": "it needs 20000 MiB on 1 GPU; the most that is left is 18576 MiB, 1424 MiB too little, "
        "other programs hold 6000 MiB; it would fit on a GPU that nothing else uses"
    }
    assert place({"a": service(1, 30000)}, CARDS[:1], foreign=held).skipped["a"].endswith("no GPU here is large enough")
    assert place(wanted, CARDS[:1], {"a": ["GPU-0"]}, held).gpus == {"a": ["GPU-0"]}
    # What makes do takes what is left.
    assert place({"a": service(1, 35000, 18000)}, CARDS[:1], foreign=held).gpus == {"a": ["GPU-0"]}


NEEDS = st.dictionaries(
    st.sampled_from("abcdef"), st.tuples(st.integers(0, 3), st.none() | st.integers(1, 30000)), max_size=6
)
NOW = st.dictionaries(st.sampled_from("abcdef"), st.lists(st.sampled_from([c.uuid for c in CARDS]), max_size=3))


@given(NEEDS, st.lists(st.sampled_from([*CARDS, *MIXED[2:]]), unique=True, max_size=5), NOW)
def test_no_card_is_given_more_than_it_has(
    needs: Mapping[str, tuple[int, int | None]], gpus: list[Gpu], now: dict[str, list[str]]
) -> None:
    wanted = {name: service(*need) for name, need in needs.items()}
    found = place(wanted, gpus, now)
    assert found.gpus.keys() | found.skipped.keys() == wanted.keys() and not found.gpus.keys() & found.skipped.keys()
    for gpu in gpus:
        users = [name for name, uuids in found.gpus.items() if gpu.uuid in uuids]
        taken = sum(needs[name][1] or 0 for name in users)
        assert taken <= gpu.vram_mib * (1.0 if len(users) == 1 else SHARED_PART) or not taken
    for name, uuids in found.gpus.items():
        assert len(set(uuids)) == len(uuids) == needs[name][0]
        assert set(uuids) <= {gpu.uuid for gpu in gpus}
        assert len({gpu.name for gpu in gpus if gpu.uuid in uuids}) == min(1, needs[name][0])
    # Where it is placed now is where it stays.
    assert place(wanted, gpus, found.gpus).gpus == found.gpus


@given(
    st.lists(st.tuples(st.integers(1, 2), st.integers(1, 25000)), min_size=1, max_size=6),
    st.dictionaries(st.sampled_from(CARDS), st.integers(0, 25000), min_size=1),
)
def test_newcomers_are_given_no_more_than_others_leave(needs: list[tuple[int, int]], held: dict[Gpu, int]) -> None:
    foreign = {gpu.uuid: mib for gpu, mib in held.items()}
    found = place({str(number): service(*need) for number, need in enumerate(needs)}, list(held), foreign=foreign)
    for gpu, mib in held.items():
        users = [name for name, uuids in found.gpus.items() if gpu.uuid in uuids]
        taken = sum(needs[int(name)][1] for name in users)
        assert taken + mib <= gpu.vram_mib * (1.0 if len(users) == 1 else SHARED_PART) or not users


@given(st.lists(st.none() | st.integers(1, 24576), max_size=5), st.integers(0, 5))
def test_as_long_as_there_are_cards_nobody_shares_one(needs: list[int | None], more: int) -> None:
    """Whatever each needs, as long as every card carries it."""
    cards = [Gpu(f"GPU-{number}", "NVIDIA RTX", 24576, 24000, "580") for number in range(len(needs) + more)]
    found = place({str(number): service(1, need) for number, need in enumerate(needs)}, cards)
    used = [uuid for uuids in found.gpus.values() for uuid in uuids]
    assert not found.skipped and len(set(used)) == len(used) == len(needs)


LACKS = re.compile(r"needs (\d+) MiB on (\d+) GPUs?; the most that is left is (\d+) MiB, (\d+) MiB too little(; .+)")


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.integers(1, 3), st.integers(1, 25000)), min_size=2),
    st.lists(st.sampled_from(CARDS), unique=True, min_size=1) | st.lists(st.sampled_from(MIXED), unique=True),
)
def test_what_a_skipped_one_lacks_and_what_would_help_is_true(
    needs: Mapping[str, tuple[int, int]], gpus: list[Gpu]
) -> None:
    wanted = {name: service(*need) for name, need in needs.items()}
    found = place(wanted, gpus, place(wanted, gpus).gpus)  # as every later run says it
    for name, why in found.skipped.items():
        if not (said := LACKS.search(why)):
            assert len(gpus) < needs[name][0] or "of one model" in why
            continue
        need, count, left, lacks = map(int, said.groups()[:4])
        assert (count, need) == needs[name] and need - left == lacks > 0
        others = re.findall(r"`(\w)` \(", said[5])
        if not others:
            assert place({name: wanted[name]}, gpus).skipped  # no GPU here is large enough
            continue
        kept = {each: uuids for each, uuids in found.gpus.items() if each not in others}
        assert name in place({each: wanted[each] for each in (*kept, name)}, gpus, kept).gpus


DEMANDS = st.dictionaries(
    st.sampled_from("abcdefgh"),
    st.tuples(st.integers(1, 2), st.integers(1, 30000), st.booleans(), st.booleans()),
    max_size=8,
)


@given(DEMANDS, st.lists(st.sampled_from([*CARDS, *MIXED[2:]]), unique=True, max_size=5))
def test_what_a_run_may_start_never_takes_more_than_a_card_has(
    needs: Mapping[str, tuple[int, int, bool, bool]], gpus: list[Gpu]
) -> None:
    """All that always run, and those on demand that a run starts again: together."""
    wanted = {
        name: service(count, mib, max(1, mib // 2) if elastic else None, "on-demand" if demand else "always")
        for name, (count, mib, elastic, demand) in needs.items()
    }
    found = place(wanted, gpus)
    started = found.gpus.keys() - found.crowded
    for gpu in gpus:
        users = [name for name in started if gpu.uuid in found.gpus[name]]
        taken = sum(needs[name][1] for name in users)
        if len(users) == 1:
            _, mib, elastic, _ = needs[users[0]]
            assert (max(1, mib // 2) if elastic else mib) <= gpu.vram_mib
        else:
            assert taken <= gpu.vram_mib * SHARED_PART
    # Who runs on demand takes no place from who always does.
    always = {name: each for name, each in wanted.items() if each.start == "always"}
    assert place(always, gpus).skipped == {name: why for name, why in found.skipped.items() if name in always}
    assert place(wanted, gpus, found.gpus).gpus == found.gpus


def test_the_run_leaves_out_what_is_skipped() -> None:
    run = sample.run(gpus=[], nvidia_pci=0)
    assert list(run.services) == ["api"]
    assert (dict(run.stacks), dict(run.models), dict(run.installs)) == ({"front": ["api"]}, {}, {})
    assert run.image_names == ["api"]
    assert run.secret_names == ["API_TOKEN", "LABEL_HMAC_KEY"]


def test_the_run_of_a_whole_host() -> None:
    run = sample.run()
    assert list(run.services) == ["api", "painter"]
    assert dict(run.stacks) == {"front": ["api"], "paint": ["painter"]}
    assert (list(run.models), list(run.installs), run.image_names) == (["vae"], ["tree"], ["api", "painter"])
    assert run.secret_names == ["API_TOKEN", "LABEL_HMAC_KEY", "LOGIN_HASH", "LOGIN_USER"]
    assert run.image("pulled") == "docker.io/acme/server:v1.2.3"


def test_the_steps_learn_for_whom_there_is_no_room() -> None:
    run = sample.run({"services.painter.start": "on-demand"})
    assert not Stacks(run).desired()["painter"].crowded
    crowded = replace(run, placement=replace(run.placement, crowded=frozenset({"painter"})))
    assert {name: each.crowded for name, each in Stacks(crowded).desired().items()} == {"api": False, "painter": True}


def memory_of(**least: tuple[str, str | None]) -> dict[str, Service]:
    """service -> (start, the least memory of a host)."""
    made = {name: {"start": start, "memory_least": mib} for name, (start, mib) in least.items()}
    return {name: service(0).model_copy(update=over) for name, over in made.items()}


def test_who_is_too_large_for_the_hosts_memory_is_skipped_with_a_sentence() -> None:
    wanted = memory_of(a=("always", "20g"), b=("always", "8g"), c=("on-demand", "24g"), d=("on-demand", "12g"))
    assert short_of_memory(wanted, 28 * 2**30) == {}
    assert short_of_memory(wanted, 27 * 2**30) == {
        "b": "it needs 8.0 GiB of memory, this host has 27.0 GiB, of which 20.0 GiB are for a",
    }
    assert short_of_memory(wanted, 16 * 2**30) == {
        "a": "it needs 20.0 GiB of memory, this host has 16.0 GiB",
        "c": "it needs 24.0 GiB of memory, this host has 16.0 GiB",
    }
    assert short_of_memory(memory_of(a=("always", None)), 0) == {}


@given(
    st.lists(st.tuples(st.sampled_from(["always", "on-demand"]), st.integers(1, 64))),
    st.integers(0, 128),
)
def test_what_always_runs_has_the_memory_that_it_needs(needs: list[tuple[str, int]], have: int) -> None:
    wanted = memory_of(**{f"s{n}": (start, f"{gib}g") for n, (start, gib) in enumerate(needs)})
    kept = wanted.keys() - short_of_memory(wanted, have * 2**30).keys()
    gib = {f"s{n}": each for n, (_, each) in enumerate(needs)}
    assert sum(gib[name] for name in kept if wanted[name].start == "always") <= have
    assert all(gib[name] <= have for name in kept)
