"""The server with the real diffusers and torch, on the CPU, and a tiny Stable Diffusion 3.5 with random weights.

`make sd35-check`: not part of the suite, for torch and what it needs are large.
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import torch
from PIL import Image

from bench.sd35_model import TINY, put_in_cache
from sd35 import pipeline
from sd35.settings import Settings
from sd35.wanted import Source, Wanted
from tests.unit.sd35.serving import COMMIT, REPO, ROOT, ended, made, serving, settings, start, status, until

WORKER = (sys.executable, "-m", "sd35.worker")
CAT = Wanted("a cat", "", 256, 256, steps=2, guidance_scale=7.0, count=1, seed=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the model in its cache."""
    folder = tmp_path_factory.mktemp("sd35")
    put_in_cache(folder / "hub", REPO, COMMIT, TINY, torch.float32, "cpu")
    return folder


@pytest.fixture(scope="module")
def loaded(folder: Path) -> pipeline.Pipeline:
    [snapshot] = folder.glob("hub/*/snapshots/*")
    return pipeline.load(Source(str(snapshot), "cpu", offload=False))


@pytest.fixture(scope="module")
def api(folder: Path) -> Iterator[httpx.Client]:
    patch = pytest.MonkeyPatch()
    patch.setenv("PYTHONPATH", str(ROOT))
    patch.setenv("HF_HUB_OFFLINE", "1")
    with serving(on_cpu(folder), lambda: None, WORKER) as client:
        yield client
    patch.undo()


def on_cpu(folder: Path) -> Settings:
    return settings(folder, device="cpu")


def no_step(_: int) -> None:
    """Nothing is told."""


def test_a_picture_has_its_size_and_tells_its_steps(loaded: pipeline.Pipeline, tmp_path: Path) -> None:
    steps: list[int] = []
    wanted = Wanted("a cat", "a dog", 320, 256, steps=3, guidance_scale=7.0, count=1, seed=0)
    (tmp_path / "a.png").write_bytes(loaded.picture(wanted, 0, steps.append))
    with Image.open(tmp_path / "a.png") as picture:
        assert (picture.format, picture.size) == ("PNG", (320, 256))
        lows_and_highs = picture.getextrema()
    assert any(low != high for low, high in lows_and_highs)
    assert steps == [1, 2, 3]


def test_a_seed_makes_the_same_picture_again_and_0_is_one(loaded: pipeline.Pipeline) -> None:
    zero, again, other = (loaded.picture(CAT, seed, no_step) for seed in (0, 0, 1))
    assert zero == again != other


@pytest.mark.parametrize("changed", [{"prompt": "a dog"}, {"negative_prompt": "a dog"}, {"guidance_scale": 2.0}])
def test_what_is_asked_for_reaches_the_model(loaded: pipeline.Pipeline, changed: dict[str, object]) -> None:
    other = Wanted(**{**vars(CAT), **changed})
    assert loaded.picture(other, 0, no_step) != loaded.picture(CAT, 0, no_step)


def test_what_is_raised_at_a_step_ends_the_work(loaded: pipeline.Pipeline) -> None:
    steps: list[int] = []

    def cancelled(step: int) -> None:
        steps.append(step)
        raise KeyError("no longer wanted")

    with pytest.raises(KeyError):
        loaded.picture(CAT, 0, cancelled)
    assert steps == [1]
    assert loaded.picture(CAT, 0, no_step)


def test_a_model_without_a_gpu_is_not_loaded_onto_one(folder: Path) -> None:
    with pytest.raises(RuntimeError, match="torch sees no GPU"):
        pipeline.load(Source(str(folder), "cuda", offload=False))


def test_through_the_api(api: httpx.Client) -> None:
    assert api.get("/health").json()["model_state"] == "unloaded"
    pictures = made(api, "a cat", seed=0, num_inference_steps=2, num_images=2)
    fields = {"prompt": "a cat", "size": "256x256", "num_inference_steps": 2}
    answer = api.post("/v1/images/generations", json={**fields, "seed": 1})
    assert [base64.b64decode(each["b64_json"]) for each in answer.json()["data"]] == pictures[1:]
    assert api.get("/health").json()["model_state"] == "ready"
    assert api.post("/unload").json()["model_state"] == "unloaded"
    assert made(api, "a cat", seed=0, num_inference_steps=2) == pictures[:1]


def test_a_running_job_is_cancelled_at_its_next_step(api: httpx.Client) -> None:
    job = start(api, "a cat", num_inference_steps=100, num_images=4)
    until(lambda: status(api, job)["step"] > 0)
    with ThreadPoolExecutor() as pool:
        answers = pool.submit(api.post, f"/cancel/{job}").result().json()
    assert (answers["status"], answers["error"]["code"]) == ("failed", "cancelled")
    assert answers["step"] < 400 and answers["images"] == []
    assert made(api, "a cat", num_inference_steps=1)


def test_weights_that_can_run_code_are_not_read(tmp_path: Path) -> None:
    snapshot = put_in_cache(tmp_path / "hub", REPO, COMMIT, TINY, torch.float32, "cpu")
    weights = snapshot / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        with serving(on_cpu(tmp_path), lambda: None, WORKER) as api:
            found = ended(api, start(api, "a cat"))
            assert found["error"]["code"] == "model_failed"
            assert "the model was not loaded: OSError" in found["error"]["message"]
            assert api.get("/health").json()["status"] == "model failed"
