"""Before the first byte: access, room, and what a person is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from gpuhost.catalog.lock import Lock, LockedFile, LockedModel, Pins
from gpuhost.models import hub, preflight
from gpuhost.models.facts import FileStat, ModelsReading
from gpuhost.models.hub import HubError
from tests.unit import sample

COMMIT, FILE = "a" * 40, "split/vae/one.safetensors"
GB = 10**9
LISTING = LockedModel(commit=COMMIT, files={FILE: LockedFile(size=10 * GB, sha256="0" * 64, git_sha1="b" * 40)})
LOCK = Lock(version=1, models={"Acme/Models": {"main": LISTING}})
HUB = "/data/cache/huggingface/hub/models--Acme--Models"
TOLD: dict[str, Any] = {}  # by the last run
THERE = ModelsReading(
    cached={f"{HUB}/snapshots/{COMMIT}/{FILE}": FileStat(10 * GB, 1, 1, uid=10001)}, refs={f"{HUB}/refs/main": COMMIT}
)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str, Any]]]:
    """What the hub is asked: (question, repository, token)."""
    questions: list[tuple[str, str, Any]] = []

    def listing(endpoint: str, repo: str, revision: str, token: str | None) -> LockedModel:
        questions.append(("listing", repo, token))
        return LISTING

    def check_access(endpoint: str, repo: str, token: str | None) -> None:
        questions.append(("access", repo, token))

    monkeypatch.setattr(hub, "listing", listing)
    monkeypatch.setattr(hub, "check_access", check_access)
    yield questions


def check(
    monkeypatch: pytest.MonkeyPatch,
    reading: ModelsReading,
    locked: bool = True,
    gated: bool = False,
    free_gb: float = 100,
    secrets: dict[str, str] | None = None,
    planned: dict[str, Any] | None = None,
) -> tuple[Any, list[Any], list[Any]]:
    changes = {"models.vae.gated": gated, "secrets.HF_TOKEN": {}}
    run = sample.run(changes, secrets, disk_kib={"/data": int(free_gb * GB) // 1024})
    object.__setattr__(run, "pins", Pins(own=LOCK) if locked else Pins())
    session = SimpleNamespace(
        revisions=planned or {}, report=SimpleNamespace(add=lambda *_, **fields: TOLD.update(fields))
    )
    monkeypatch.setattr(preflight, "current", lambda: session)
    monkeypatch.setattr(preflight, "host", SimpleNamespace(name="gpu1", get_fact=lambda *_, **__: reading))
    return preflight.check(run)


def test_what_is_there_and_pinned_costs_no_question(monkeypatch: pytest.MonkeyPatch, asked: list[Any]) -> None:
    decided, problems, notes = check(monkeypatch, THERE)
    assert (problems, notes, asked) == ([], [], []) and len(decided.models) == 1


def test_what_is_to_be_fetched_is_asked_for_and_told(monkeypatch: pytest.MonkeyPatch, asked: list[Any]) -> None:
    """For how long is told below the plan."""
    _, problems, notes = check(monkeypatch, ModelsReading(bytes_per_s=100 * 10**6))
    assert asked == [("access", "Acme/Models", None)] and problems == []
    assert notes == [("fetch", "models: 10.0 GB to fetch, 0 B are there")]
    assert check(monkeypatch, ModelsReading())[2] == notes


def test_without_a_lock_the_hub_says_it_and_the_run_says_what_it_uses(
    monkeypatch: pytest.MonkeyPatch, asked: list[Any]
) -> None:
    _, problems, notes = check(monkeypatch, THERE, locked=False)
    assert asked == [("listing", "Acme/Models", None)] and problems == []
    assert notes == [
        ("unpinned", f"vae: `main` of Acme/Models is {COMMIT[:12]}, as the hub says now; `gpuhost lock` pins it")
    ]


def test_what_the_hub_said_to_the_plan_the_apply_takes_and_asks_nobody(
    monkeypatch: pytest.MonkeyPatch, asked: list[Any]
) -> None:
    """A branch that moves in between changes nothing."""
    check(monkeypatch, THERE, locked=False)
    planned = {"gpu1": json.loads(json.dumps(TOLD["models"]))}
    asked.clear()
    decided, problems, _ = check(monkeypatch, THERE, locked=False, planned=planned)
    assert asked == [] and problems == [] and decided.models[0].commit == COMMIT
    assert decided.models[0].files == LISTING.files and decided.models[0].source == "hub"
    check(monkeypatch, THERE, locked=False, planned={"gpu2": planned["gpu1"]})
    assert asked == [("listing", "Acme/Models", None)]


def test_the_token_is_sent_for_gated_models_only(monkeypatch: pytest.MonkeyPatch, asked: list[Any]) -> None:
    token = {"HF_TOKEN": "hf_mine"}
    check(monkeypatch, ModelsReading(), locked=False, gated=True, secrets=token)
    assert asked == [("listing", "Acme/Models", "hf_mine"), ("access", "Acme/Models", "hf_mine")]
    asked.clear()
    check(monkeypatch, ModelsReading(), locked=False, secrets=token)
    assert asked == [("listing", "Acme/Models", None), ("access", "Acme/Models", None)]


@pytest.mark.parametrize("kind", ["gated", "token", "licence", "scope", "repository", "refused"])
def test_a_refusal_stops_the_run(monkeypatch: pytest.MonkeyPatch, asked: list[Any], kind: str) -> None:
    def refuse(*_: Any) -> None:
        raise HubError(kind, "it may not", "click there")

    monkeypatch.setattr(hub, "check_access", refuse)
    _, [problem], _ = check(monkeypatch, ModelsReading())
    assert (problem.what, problem.hint, problem.host) == ("vae: it may not", "click there", "gpu1")


def test_a_hub_that_this_machine_does_not_reach_stops_nothing_that_is_known(
    monkeypatch: pytest.MonkeyPatch, asked: list[Any]
) -> None:
    def refuse(*_: Any) -> None:
        raise HubError("unreachable", "no way", "check the proxy")

    monkeypatch.setattr(hub, "check_access", refuse)
    _, problems, notes = check(monkeypatch, ModelsReading())
    assert problems == [] and ("fetch", "vae: no way; the host will ask") in notes
    monkeypatch.setattr(hub, "listing", refuse)
    _, [problem], _ = check(monkeypatch, ModelsReading(), locked=False)
    assert (problem.what, problem.host) == ("no way", "gpu1")


def test_what_does_not_fit_is_a_hard_stop(monkeypatch: pytest.MonkeyPatch, asked: list[Any]) -> None:
    """10 GB, and 5 GiB that must stay free."""
    room = 10 + 5 * 2**30 / GB
    _, problems, _ = check(monkeypatch, ModelsReading(), free_gb=room + 0.001)
    assert problems == []
    _, [problem], _ = check(monkeypatch, ModelsReading(), free_gb=room - 1)
    assert problem.what == "10.0 GB of models are to be fetched and 5 GiB must stay free, but /data has 14.4 GB"
    assert problem.hint.startswith("free 1.0 GB there (`gpuhost models prune`")
    assert check(monkeypatch, THERE, free_gb=0)[1] == []  # nothing is to be fetched


def test_a_limit_below_the_largest_file_of_a_services_models_is_refused() -> None:
    model = sample.catalog().models["vae"]
    sizes = {"a.safetensors": 20 * 2**30 + 1, "b.safetensors": 20 * 2**30}
    files = {path: LISTING.files[next(iter(LISTING.files))].model_copy(update={"size": n}) for path, n in sizes.items()}
    wanted = [preflight.Wanted("vae", model, "c" * 40, files, "hub")]

    def refused(memory: str) -> list[Any]:
        return list(preflight.too_small(sample.catalog({"services.painter.memory": memory}).services, wanted))

    assert refused("21g") == [] == list(preflight.too_small(sample.catalog().services, []))
    [problem] = refused("20g")
    assert problem.what == "`services.painter.memory` is 20g, and a.safetensors of its models has 21.5 GB"
    assert problem.hint == "give it 25g at least, or another model"
