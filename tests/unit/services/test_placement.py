"""Who runs on which GPU."""

from __future__ import annotations

import pytest

from gpuhost.host.facts import Gpu
from gpuhost.services.placement import place
from tests.unit import sample
from tests.unit.sample import GPU, SMALL_GPU


def test_without_a_gpu_what_needs_one_is_skipped_and_says_so() -> None:
    found = place(sample.catalog().enabled(), [])
    assert found.gpus == {"api": []}  # it only reads the GPUs' state
    assert found.skipped == {"painter": "it needs 1 NVIDIA GPU, this host has none"}


def test_too_few_gpus() -> None:
    found = place(sample.catalog({"services.painter.gpus": 3}).enabled(), [GPU, SMALL_GPU])
    assert found.skipped == {"painter": "it needs 3 NVIDIA GPUs, this host has 2"}


@pytest.mark.parametrize("gpus", [[GPU, SMALL_GPU], [SMALL_GPU, GPU]], ids=["as listed", "listed the other way"])
def test_the_largest_gpu_by_uuid_whatever_the_order_of_indexes(gpus: list[Gpu]) -> None:
    found = place(sample.catalog().enabled(), gpus)
    assert found.gpus == {"api": [GPU.uuid, SMALL_GPU.uuid], "painter": [GPU.uuid]}
    assert found.skipped == {}


def test_a_service_that_needs_no_gpu_gets_none() -> None:
    assert place(sample.catalog({"services.painter.gpus": 0}).enabled(), [GPU]).gpus["painter"] == []


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
    assert (list(run.models), list(run.installs), run.image_names) == (["vae"], ["stable"], ["api", "painter"])
    assert run.secret_names == ["API_TOKEN", "LABEL_HMAC_KEY", "LOGIN_HASH", "LOGIN_USER"]
    assert run.image("pulled") == run.image_spec("pulled") == "docker.io/acme/server:v1.2.3"
