"""Command lines: what the data and the placement make of them, and whether each release takes them."""

from __future__ import annotations

import json
import runpy
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuhost.catalog.types import Catalog, PullImage, load
from gpuhost.host.facts import Gpu
from gpuhost.project import PROJECT
from gpuhost.services.arguments import filled, problems, settings
from gpuhost.services.placement import memory_part, place
from hostside.vram import SHARED_PART
from tests.unit import sample

RECORDED = json.loads((PROJECT / "tests/rehearsal/standins/vllm_arguments.json").read_text())
SHIPPED = runpy.run_path(str(PROJECT / "group_data" / "all.py"))
RELEASES = sorted(SHIPPED["images"]["vllm"]["arguments"])
VLLM = [name for name, entry in SHIPPED["services"].items() if entry["image"] == "vllm"]
# 24 GB cards as nvidia-smi shows them.
CARDS_24_GB = [Gpu(f"GPU-{mib}", "NVIDIA", mib, mib, "580") for mib in (24576, 24564)]


def shipped(release: str, **over: Any) -> Catalog:
    data = {name: value for name, value in SHIPPED.items() if not name.startswith("_")}
    image = {**data["images"]["vllm"], "pull": f"docker.io/vllm/vllm-openai:{release}", **over}
    return load({**data, "images": {**data["images"], "vllm": image}})


def refusals(arguments: Sequence[str], release: str) -> list[str]:
    """What the release's own command line would not take; its model comes first."""
    known, found = RECORDED[release], []
    for argument in arguments[1:]:
        name, equals, value = argument.partition("=")
        takes = known.get(name, "nothing of this name")
        fits = bool(equals) == (takes is not None) and (not isinstance(takes, list) or value in takes)
        if name not in known or not fits:
            found.append(argument)
    return found


def test_the_services_and_releases_are_found() -> None:
    assert VLLM == ["qwen3-micro", "qwen3-mini", "qwen3-medium"] and RELEASES == ["v0.32.0", "v0.9.2"]
    image = shipped("v0.32.0").images["vllm"]
    assert isinstance(image, PullImage)
    assert SHIPPED["images"]["vllm"]["pull"] == image.pull


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("name", VLLM)
def test_each_release_takes_the_arguments_that_it_is_given(name: str, release: str) -> None:
    arguments = filled(shipped(release), name, CARDS_24_GB[:1])
    assert refusals(arguments, release) == [] and len(arguments) > 15
    assert arguments[0] == SHIPPED["models"][name]["repo"]


def test_a_release_refuses_what_it_does_not_know() -> None:
    """Or the test above would prove nothing."""
    wrong = ["--enable-reasoning", "--rope-scaling={}", "--reasoning-parser=granit", "--dtype=fp4", "--max-model-len"]
    assert refusals(["model", *wrong], "v0.32.0") == wrong
    assert refusals(["model", *wrong], "v0.9.2") == wrong[2:]


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("card", CARDS_24_GB, ids=lambda card: str(card.vram_mib))
def test_the_reports_values_on_a_card_with_24_gb(release: str, card: Gpu) -> None:
    reported = {
        "qwen3-micro": ("0.38", "65536", "1"),
        "qwen3-mini": ("0.48", "65536", "1"),
        "qwen3-medium": ("0.88", "70000", "2"),
    }
    names = ("--gpu-memory-utilization", "--max-model-len", "--tensor-parallel-size")
    for service, values in reported.items():
        found = settings(filled(shipped(release), service, [card]))
        assert tuple(found[name] for name in names) == values
        assert found["--max-num-batched-tokens"] == found["--max-model-len"]
        assert (found["--tool-call-parser"], found["--reasoning-parser"]) == ("hermes", "qwen3")
        assert (found["--dtype"], found["--kv-cache-dtype"]) == ("float16", "fp8")


def test_a_longer_context_than_the_model_was_trained_with_is_scaled() -> None:
    for name in VLLM:
        options = SHIPPED["services"][name]["options"]
        scaled = options["rope"]["factor"] * options["rope"]["original_max_position_embeddings"]
        assert options["context"] <= scaled < options["context"] * 1.01
    old = settings(filled(shipped("v0.9.2"), "qwen3-micro", CARDS_24_GB))
    assert json.loads(old["--rope-scaling"]) == SHIPPED["services"]["qwen3-micro"]["options"]["rope"]
    new = json.loads(settings(filled(shipped("v0.32.0"), "qwen3-micro", CARDS_24_GB))["--hf-overrides"])
    assert new == {"max_position_embeddings": 65536, "rope_parameters": json.loads(old["--rope-scaling"])}


# -- marks -------------------------------------------------------------------------------------------------------------


def one(*arguments: str, release: str = "v1.2.3", **over: Any) -> Catalog:
    """The sample with a pulled image for `painter`, whose release has these arguments."""
    image = {"pull": f"docker.io/acme/server:{release}", "arguments": {"v1.2.3": list(arguments)}}
    return sample.catalog({"images.pulled": image, "services.painter.image": "pulled", **over})


NO_MODELS: dict[str, Any] = {"services.painter.models": []}


def test_what_marks_stand_for() -> None:
    release = ["{repo}", "--of={service}@{revision}", "--at={container_port}", "--on={gpu_count}", "--with={a}/{b}"]
    options = {"a": 7, "b": {"c": [1]}}
    own: dict[str, Any] = {"services.painter.options": options, "services.painter.arguments": ["--own={a}"]}
    catalog = one(*release, **own)
    assert filled(catalog, "painter", []) == [
        "Acme/Models",
        "--of=painter@main",
        "--at=8188",
        "--on=1",
        '--with=7/{"c":[1]}',
        "--own=7",
    ]
    assert list(problems(catalog)) == []


def test_an_argument_is_left_out_where_its_option_is_not_there() -> None:
    catalog = one("--a={size?}", '--b={"x":{size?}}', "--c={container_port?}")
    assert filled(catalog, "painter", []) == ["--c=8188"] and list(problems(catalog)) == []


def test_what_is_no_mark_stays() -> None:
    assert filled(one('--x={"a":{"b":1}}', "--y={A}", "--z={}"), "painter", []) == [
        '--x={"a":{"b":1}}',
        "--y={A}",
        "--z={}",
    ]


def test_an_image_that_is_built_has_no_arguments() -> None:
    catalog = sample.catalog({"services.painter.arguments": ["--fast"]})
    assert filled(catalog, "painter", [sample.GPU]) == ["--fast"] and filled(catalog, "api", []) == []


@pytest.mark.parametrize(
    ("catalog", "what"),
    [
        (one("--a={size}"), "`services.painter`: its command line has the mark `{size}`, for which there is no option"),
        (
            one("--a={gpu_memory_part}"),
            "`services.painter`: its command line holds a part of the GPU's memory, and nobody says how much",
        ),
        (
            one("{repo}", **NO_MODELS),
            "`services.painter` has no model, and its command line names one",
        ),
        (one("--a", release="v2.0.0"), "`images.pulled.arguments` says nothing of the release v2.0.0"),
    ],
    ids=["option", "memory", "model", "release"],
)
def test_what_cannot_be_written_is_one_problem(catalog: Catalog, what: str) -> None:
    [problem] = problems(catalog)
    assert problem.what == what and problem.hint


def test_settings_of_every_form() -> None:
    assert settings(["model", "--a=1=2", "--b", "3", "--c", "--d_e=4", "--f"]) == {
        **{"--a": "1=2", "--b": "3", "--c": "", "--d-e": "4", "--f": ""},
    }


# -- a part of a card's memory -----------------------------------------------------------------------------------------

CARD = st.builds(lambda mib: Gpu(f"GPU-{mib}", "NVIDIA", mib, mib, "580"), st.integers(4000, 200000))


@given(st.integers(1, 250000), st.lists(CARD, min_size=1, max_size=4))
def test_a_part_is_never_more_than_the_budget_on_any_card_and_less_than_a_thousandth_below_it(
    vram_mib: int, cards: list[Gpu]
) -> None:
    part, smallest = memory_part(vram_mib, cards), min(card.vram_mib for card in cards)
    assert 0 <= part <= 1
    assert part * smallest <= vram_mib * 1.000001
    assert part == 1 or part * smallest > vram_mib - smallest / 1000 - 0.001


@given(st.lists(st.integers(100, 30000), min_size=2, max_size=6), CARD)
def test_the_parts_of_a_shared_card_sum_to_what_may_be_shared(needs: list[int], card: Gpu) -> None:
    painter = sample.catalog().services["painter"]
    services = {
        str(number): painter.model_copy(
            update={"gpu": painter.gpu and painter.gpu.model_copy(update={"vram_mib": mib})}
        )
        for number, mib in enumerate(needs)
    }
    together = [needs[int(name)] for name in place(services, [card]).gpus]
    if len(together) > 1:
        assert sum(memory_part(mib, [card]) for mib in together) <= SHARED_PART + 1e-9
