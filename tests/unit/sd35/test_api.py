"""What clients say and are told: the token, the fields, the shapes of answers."""

from __future__ import annotations

import base64
import http.client
import json
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest

from sd35 import bodies, gate, health
from sd35.settings import Limits
from tests.unit.sd35.serving import (
    AUTH,
    REPO,
    ROOT,
    TOKEN,
    Cache,
    Fifo,
    ended,
    gpu_memory,
    made,
    pixels,
    serving,
    settings,
    start,
    status,
    until,
)

IMAGES = "/v1/images/generations"

# -- the token ---------------------------------------------------------------------------------------------------------

LOCKED = [
    ("POST", "/generate"),
    ("GET", "/status/x"),
    ("POST", "/cancel/x"),
    ("POST", "/unload"),
    ("GET", "/metrics"),
    ("GET", "/v1/models"),
    ("POST", IMAGES),
    ("GET", "/docs"),
    ("GET", "/openapi.json"),
    ("GET", "/nowhere"),
    ("GET", "/health/"),
    ("GET", "//health"),
    ("OPTIONS", "/generate"),
]


@pytest.mark.parametrize(("method", "path"), LOCKED)
@pytest.mark.parametrize("header", [None, "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer", "Bearer é"])
def test_everything_but_health_is_locked(stranger: httpx.Client, method: str, path: str, header: str | None) -> None:
    headers = {} if header is None else {b"Authorization": header.encode()}
    answer = stranger.request(method, f"{stranger.base_url}{path}", headers=headers)
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert answer.json()["error"]["code"] == "invalid_api_key"


def test_two_tokens_are_none(stranger: httpx.Client) -> None:
    headers = [("Authorization", "Bearer wrong"), ("Authorization", AUTH["Authorization"])]
    assert stranger.get("/v1/models", headers=headers).status_code == 401


def test_with_the_token_what_is_not_there_is_not_found(api: httpx.Client) -> None:
    for path in ("/docs", "/openapi.json", "/redoc", "/nowhere"):
        answer = api.get(path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found"), path
    assert api.get("/generate").status_code == 405


def test_a_stranger_is_refused_before_his_body_is_read(api: httpx.Client) -> None:
    connection = http.client.HTTPConnection(api.base_url.host, api.base_url.port, timeout=30)
    connection.putrequest("POST", "/generate")
    connection.putheader("Content-Length", str(10**9))
    connection.endheaders()
    assert connection.getresponse().status == 401
    connection.close()


# -- bodies ------------------------------------------------------------------------------------------------------------


def test_a_body_that_is_too_large_is_refused(api: httpx.Client) -> None:
    whole = b'{"prompt": "' + b"x" * gate.BODY_BYTES + b'"}'
    for content in (whole, iter([whole[:100], whole[100:]])):  # announced, and in chunks
        answer = api.post("/generate", content=content)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")


def test_a_body_that_does_not_come_is_not_waited_for(api: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "BODY_S", 0.05)
    with socket.create_connection((api.base_url.host, api.base_url.port or 0), 30) as made:
        made.sendall(f"POST /generate HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n".encode())
        made.sendall(b"Content-Length: 100\r\n\r\n{")
        assert made.makefile("rb").readline().startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"null", b"\xff", b"[" * 60000])
@pytest.mark.parametrize("path", ["/generate", IMAGES])
def test_what_is_no_object_is_refused(api: httpx.Client, path: str, body: bytes) -> None:
    answer = api.post(path, content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")


REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    ("/generate", {"prompt": None}, "prompt", "invalid_type"),
    ("/generate", {"prompt": ""}, "prompt", "invalid_value"),
    ("/generate", {"prompt": " \n"}, "prompt", "invalid_value"),
    ("/generate", {"prompt": "x" * 4001}, "prompt", "invalid_value"),
    ("/generate", {"negative_prompt": "x" * 4001}, "negative_prompt", "invalid_value"),
    ("/generate", {"width": 240}, "width", "invalid_value"),
    ("/generate", {"width": 1000}, "width", "invalid_value"),
    ("/generate", {"height": 1552}, "height", "invalid_value"),
    ("/generate", {"height": -256}, "height", "invalid_value"),
    ("/generate", {"width": 1536, "height": 1536}, "width", "invalid_value"),
    ("/generate", {"width": "512"}, "width", "invalid_type"),
    ("/generate", {"width": 512.5}, "width", "invalid_type"),
    ("/generate", {"width": True}, "width", "invalid_type"),
    ("/generate", {"num_inference_steps": 0}, "num_inference_steps", "invalid_value"),
    ("/generate", {"num_inference_steps": 101}, "num_inference_steps", "invalid_value"),
    ("/generate", {"num_images": 0}, "num_images", "invalid_value"),
    ("/generate", {"num_images": 5}, "num_images", "invalid_value"),
    ("/generate", {"guidance_scale": -1}, "guidance_scale", "invalid_value"),
    ("/generate", {"guidance_scale": 31}, "guidance_scale", "invalid_value"),
    ("/generate", {"guidance_scale": float("nan")}, "guidance_scale", "invalid_type"),
    ("/generate", {"guidance_scale": float("inf")}, "guidance_scale", "invalid_type"),
    ("/generate", {"seed": -1}, "seed", "invalid_value"),
    ("/generate", {"seed": 2**32}, "seed", "invalid_value"),
    ("/generate", {"seed": 10**30}, "seed", "invalid_value"),
    ("/generate", {"output": "/etc/passwd"}, "output", "unknown_parameter"),
    ("/generate", {"a\u202e\n" * 999: 1}, "a" * 100, "unknown_parameter"),
    ("/generate", {"prompt": "\ud800"}, "prompt", "invalid_value"),
    (IMAGES, {"size": "1024"}, "size", "invalid_value"),
    (IMAGES, {"size": "1024x1000"}, "size", "invalid_value"),
    (IMAGES, {"size": "99999x99999"}, "size", "invalid_value"),
    (IMAGES, {"size": "1024x1024\n"}, "size", "invalid_value"),
    (IMAGES, {"n": 5}, "n", "invalid_value"),
    (IMAGES, {"n": 0}, "n", "invalid_value"),
    (IMAGES, {"response_format": "url"}, "response_format", "unsupported_value"),
    (IMAGES, {"output_format": "webp"}, "output_format", "invalid_type"),
    (IMAGES, {"quality": "hd"}, "quality", "invalid_type"),
    (IMAGES, {"stream": True}, "stream", "invalid_type"),
    (IMAGES, {"style": "vivid"}, "style", "unknown_parameter"),
    (IMAGES, {"seed": -1}, "seed", "invalid_value"),
]


@pytest.mark.parametrize(("path", "fields", "param", "code"), REFUSED)
def test_what_cannot_be_made_is_refused_with_the_name_of_the_field(
    api: httpx.Client, path: str, fields: dict[str, Any], param: str, code: str
) -> None:
    body = json.dumps({"prompt": "a cat", **fields})  # as httpx would not write it: NaN, half of a pair
    answer = api.post(path, content=body, headers={"Content-Type": "application/json"})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, param, code)
    assert error["type"] == "invalid_request_error" and len(error["message"]) < 400


def test_a_prompt_is_needed(api: httpx.Client) -> None:
    for path in ("/generate", IMAGES):
        error = api.post(path, json={}).json()["error"]
        assert (error["param"], error["code"]) == ("prompt", "missing_required_parameter")


def test_another_model_is_not_here(api: httpx.Client) -> None:
    answer = api.post(IMAGES, json={"prompt": "x", "model": "dall-e-3"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert "`pictures-1` is" in answer.json()["error"]["message"]


def test_the_limits_are_settings() -> None:
    limits = Limits(pixels=256 * 256, side=512, steps=2, images=1)
    with pytest.raises(bodies.Refusal, match="from 1 to 2, not 3"):
        bodies.Generate(prompt="x", width=256, height=256, num_inference_steps=3).wanted(limits, lambda: 1)
    with pytest.raises(bodies.Refusal, match="131072 pixels, more than 65536"):
        bodies.Generate(prompt="x", width=512, height=256).wanted(limits, lambda: 1)
    with pytest.raises(bodies.Refusal, match="a multiple of 16 from 256 to 512, not 528"):
        bodies.Generate(prompt="x", width=256, height=528).wanted(limits, lambda: 1)


def test_the_contract_s_defaults() -> None:
    wanted = bodies.Generate(prompt="x").wanted(Limits(), lambda: 7)
    assert (wanted.width, wanted.height, wanted.steps, wanted.guidance_scale) == (1024, 1024, 28, 7.0)
    assert (wanted.count, wanted.seed, wanted.negative_prompt) == (1, 7, "")


# -- answers -----------------------------------------------------------------------------------------------------------


def test_a_picture_is_made_and_lies_under_outputs(shared: tuple[httpx.Client, Path]) -> None:
    api, folder = shared
    answer = api.post("/generate", json={"prompt": "a cat", "width": 512, "height": 256, "seed": 1})
    assert answer.json()["status"] in ("pending", "processing")
    found = ended(api, answer.json()["job_id"])
    [path] = found["images"]
    assert Path(path).parent == folder / "outputs" and pixels(Path(path).read_bytes()) == (512, 256)
    assert found == {
        "job_id": answer.json()["job_id"],
        "status": "completed",
        "position": None,
        "step": 28,
        "steps": 28,
        "seed": 1,
        "images": [path],
        "error": None,
    }


def test_a_seed_makes_the_same_picture_again_and_0_is_one(api: httpx.Client) -> None:
    zero, again, other = (made(api, "a cat", seed=seed) for seed in (0, 0, 1))
    assert zero == again != other
    assert ended(api, start(api, "a cat", seed=0))["seed"] == 0


def test_without_a_seed_one_is_chosen_and_said(api: httpx.Client) -> None:
    found = [ended(api, start(api, "a cat")) for _ in range(3)]
    seeds = {each["seed"] for each in found}
    assert len(seeds) == 3
    for each in found:
        assert made(api, "a cat", seed=each["seed"]) == [Path(path).read_bytes() for path in each["images"]]


def test_each_picture_of_a_job_has_the_next_seed(api: httpx.Client) -> None:
    together = made(api, "a cat", seed=5, num_images=3)
    alone = [made(api, "a cat", seed=seed)[0] for seed in (5, 6, 7)]
    assert together == alone and len(set(alone)) == 3


def test_what_is_asked_for_reaches_the_model(api: httpx.Client) -> None:
    plain = made(api, "a cat", seed=1)
    for field in ({"negative_prompt": "dog"}, {"guidance_scale": 3}, {"num_inference_steps": 3}):
        assert made(api, "a cat", seed=1, **field) != plain, field


@pytest.mark.parametrize(("n", "model"), [(1, None), (2, "pictures-1"), (None, REPO)])
def test_openai_s_clients_get_their_pictures_in_the_answer(
    shared: tuple[httpx.Client, Path], n: int | None, model: str | None
) -> None:
    api, folder = shared
    before = sorted((folder / "outputs").iterdir())
    body = {"prompt": "a cat", "size": "512x256", "n": n, "model": model, "seed": 3, "user": "somebody"}
    answer = api.post(IMAGES, json=body)
    assert answer.status_code == 200, answer.text
    pictures = [base64.b64decode(each["b64_json"]) for each in answer.json()["data"]]
    assert pictures == made(api, "a cat", width=512, height=256, seed=3, num_images=n or 1)
    assert answer.json()["seed"] == 3 and answer.json()["size"] == "512x256"
    assert len(sorted((folder / "outputs").iterdir())) == len(before) + (n or 1)  # those of `made` alone


def test_the_models(api: httpx.Client) -> None:
    [model] = api.get("/v1/models").json()["data"]
    assert (model["id"], model["object"], model["owned_by"]) == ("pictures-1", "model", "owner")


@pytest.mark.parametrize("job", ["x", "0" * 32, "..%2F..%2Fetc", "%00", "é"])
def test_no_such_job(api: httpx.Client, job: str) -> None:
    assert api.get(f"/status/{job}").status_code == 404
    assert api.post(f"/cancel/{job}").status_code == 404


def test_metrics(tmp_path: Path, cache: Cache, fifo: Fifo) -> None:
    with serving(settings(tmp_path, device="cpu"), lambda: gpu_memory(used_mib=700)) as api:
        made(api, "a cat")
        ended(api, start(api, "fail"))
        holding, waiting = start(api, f"hold {fifo}"), start(api, "a dog")
        until(lambda: status(api, holding)["status"] == "processing")
        text = api.get("/metrics").text
        fifo.let(28)
        ended(api, waiting)
    assert 'gpuhost_sd35_jobs_total{result="completed"} 1.0' in text
    assert 'gpuhost_sd35_jobs_total{result="generation_failed"} 1.0' in text
    assert "gpuhost_sd35_job_seconds_count 1.0" in text
    assert "gpuhost_sd35_jobs_waiting 1.0" in text
    assert "gpuhost_sd35_model_ready 1.0" in text
    assert "gpuhost_sd35_gpu_memory_used_bytes 7.340032e+08" in text


# -- health ------------------------------------------------------------------------------------------------------------


def test_health_needs_no_token_and_says_what_it_sees(tmp_path: Path, cache: Cache) -> None:
    with serving(settings(tmp_path)) as api:
        answer = httpx.get(f"{api.base_url}/health", trust_env=False)
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "ok",
        "model": REPO,
        "model_state": "unloaded",
        "cause": None,
        "gpu_available": True,
        "gpu_memory": {"total_mib": 24576, "used_mib": 500, "free_mib": 24076},
        "jobs_waiting": 0,
    }


def test_a_gpu_that_is_lost_is_no_health(tmp_path: Path, cache: Cache) -> None:
    with serving(settings(tmp_path), lambda: None) as api:
        answer = api.get("/health")
        assert answer.status_code == 503
        assert (answer.json()["status"], answer.json()["gpu_available"]) == ("no GPU", False)


OK = {"state": "ready", "was_ready": True, "load": "start", "device": "cuda", "gpu": True, "stopping": False}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "ok"),
        ({"stopping": True}, "stopping"),
        ({"gpu": False}, "no GPU"),
        ({"gpu": False, "device": "cpu"}, "ok"),
        ({"state": "missing"}, "model missing"),
        ({"state": "failed"}, "model failed"),
        ({"state": "loading", "was_ready": False}, "loading"),
        ({"state": "unloaded", "was_ready": False}, "loading"),
        ({"state": "loading"}, "ok"),  # again, after it was unloaded
        ({"state": "unloaded"}, "ok"),
        ({"state": "loading", "was_ready": False, "load": "first-request"}, "ok"),
        ({"state": "unloaded", "was_ready": False, "load": "first-request"}, "ok"),
    ],
)
def test_what_health_says(changed: dict[str, Any], said: str) -> None:
    assert health.status(**{**OK, **changed}) == said


def test_connections_are_limited_as_the_orchestrator_s() -> None:
    """Each image has a build context of its own, so the file lies in both."""
    other = ROOT.parent / "orchestrator" / "orchestrator" / "connections.py"
    assert (ROOT / "sd35" / "connections.py").read_bytes() == other.read_bytes()
