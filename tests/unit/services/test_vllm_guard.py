"""The guard before vLLM's API, alone and with the rehearsals' stand-in of vLLM, which has the real one's holes."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gpuhost.services.render import text
from tests.rehearsal.standins import vllm
from tests.rehearsal.world.freshhost import free_port
from tests.rehearsal.world.run import wait_for

KEY = "the-right-key-of-the-service"
Ask = Callable[..., tuple[int, bool]]


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Ask:
    """A request to the guard: (status, whether it got through)."""
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    module: dict[str, Any] = {}
    exec(text("vllm_guard.py.j2"), module)

    def asked(method: str, path: str, *headers: tuple[bytes, bytes], kind: str = "http") -> tuple[int, bool]:
        reached, sent = [], []

        async def behind(scope: Any, receive: Any, send: Any) -> None:
            reached.append(scope)

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        scope = {"type": kind, "method": method, "path": path, "headers": list(headers)}
        if kind == "websocket":
            del scope["method"]
        asyncio.run(module["Guard"](behind)(scope, None, send))
        return (sent[0].get("status") or sent[0]["code"]) if sent else 0, bool(reached)

    return asked


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("GET", "/v1/models"), ("OPTIONS", "/v1/models"), ("POST", "/invocations"), ("POST", "/tokenize")),
        *(("GET", "/health/"), ("GET", "//health"), ("POST", "/health"), ("HEAD", "/health"), ("GET", "/healthz")),
        *(("GET", "/"), ("GET", ""), ("GET", "/openapi.json"), ("POST", "/sleep"), ("GET", "/metrics/x")),
    ],
)
def test_a_stranger_reaches_nothing_but_health_and_metrics(ask: Ask, method: str, path: str) -> None:
    assert ask(method, path) == (401, False)
    assert ask(method, path, (b"authorization", f"Bearer {KEY}".encode())) == (0, True)


@pytest.mark.parametrize("path", ["/health", "/metrics"])
def test_what_is_open(ask: Ask, path: str) -> None:
    assert ask("GET", path) == (0, True)


@pytest.mark.parametrize(
    "headers",
    [
        [b"Bearer"],
        [b"Bearer "],
        [b"Bearer x"],
        [b"Basic " + KEY.encode()],
        [KEY.encode()],
        [b"Bearer  " + KEY.encode()],
        [b"Bearer " + KEY.encode() + b"\xff"],
        [b"Bearer x", b"Bearer " + KEY.encode()],  # which of the two the one behind it reads nobody knows
    ],
)
def test_another_key_is_none(ask: Ask, headers: list[bytes]) -> None:
    assert ask("GET", "/v1/models", *((b"authorization", value) for value in headers)) == (401, False)


def test_a_websocket_wants_the_key_too(ask: Ask) -> None:
    assert ask("", "/v1/realtime", kind="websocket") == (1008, False)
    assert ask("", "/health", kind="websocket") == (1008, False)
    assert ask("", "/v1/realtime", (b"authorization", f"bearer {KEY}".encode()), kind="websocket") == (0, True)


def test_its_own_start_passes(ask: Ask) -> None:
    assert ask("", "", kind="lifespan") == (0, True)


@pytest.mark.parametrize("value", [None, ""])
def test_without_a_key_it_does_not_start(ask: Ask, monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("VLLM_API_KEY")
    if value is not None:
        monkeypatch.setenv("VLLM_API_KEY", value)
    with pytest.raises((KeyError, RuntimeError)):
        ask("GET", "/health")


# -- the stand-in ------------------------------------------------------------------------------------------------------

Server = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Server]:
    """Start the stand-in of a release with arguments; it is ended with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(release: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        folder = tmp_path / "opt"
        shutil.rmtree(folder, ignore_errors=True)
        for path, content in vllm.files(release).items():
            (folder / Path(path).name).parent.mkdir(exist_ok=True)
            (folder / Path(path).name).write_bytes(content if isinstance(content, bytes) else content[0])
        (tmp_path / "config").mkdir(exist_ok=True)
        (tmp_path / "config/gpuhost_guard.py").write_text(text("vllm_guard.py.j2"))
        snapshot = tmp_path / "hub/models--Acme--Small/snapshots" / ("a" * 40)
        snapshot.mkdir(parents=True, exist_ok=True)
        (snapshot / "config.json").touch()
        (snapshot.parents[1] / "refs").mkdir(exist_ok=True)
        (snapshot.parents[1] / "refs/main").write_text("a" * 40)
        hub = {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1", "VLLM_API_KEY": KEY}
        process = subprocess.Popen(
            [sys.executable, folder / "vllm_standin.py", "serve", *arguments],
            env={**os.environ, **hub, "PYTHONPATH": str(tmp_path / "config"), **environment},
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def client(serve: Server, release: str, *arguments: str, **environment: str) -> httpx.Client:
    port = free_port()
    serve(
        release,
        "Acme/Small",
        "--tensor-parallel-size=0",
        f"--port={port}",
        "--host=127.0.0.1",
        *arguments,
        **environment,
    )
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            return httpx.get(f"{url}/health", trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    wait_for(answers, "the stand-in", 20)
    return httpx.Client(base_url=url, trust_env=False)


RIGHT = {"Authorization": f"Bearer {KEY}"}
COMPLETION = {"model": "small", "prompt": "1", "max_tokens": 3}


@pytest.mark.parametrize("release", vllm.releases())
def test_the_stand_in_has_the_holes_of_the_real_one_and_the_guard_closes_them(serve: Server, release: str) -> None:
    """The real v0.32.0 was asked the same by hand: without the guard `/invocations` completed a text for a stranger."""
    name = "--served-model-name=small"
    with client(serve, release, name) as open_:
        assert open_.get("/v1/models").status_code == 401
        assert open_.post("/invocations", json=COMPLETION).json()["usage"]["completion_tokens"] == 3
        assert open_.get("/version").status_code == 200
    with client(serve, release, name, "--middleware=gpuhost_guard.Guard") as guarded:
        for path in ("/v1/completions", "/invocations"):
            assert guarded.post(path, json=COMPLETION).status_code == 401
            assert guarded.post(path, json=COMPLETION, headers=RIGHT).status_code == 200
        assert [guarded.get(path).status_code for path in ("/health", "/metrics", "/version")] == [200, 200, 401]


@pytest.mark.parametrize("release", vllm.releases())
def test_a_tool_call_and_the_reasoning_apart(serve: Server, release: str) -> None:
    with client(serve, release, "--served-model-name=small") as api:
        asked = {"model": "small", "messages": [{"role": "user", "content": "?"}]}
        tools = [{"type": "function", "function": {"name": "get_time"}}]
        answer = api.post("/v1/chat/completions", json={**asked, "tools": tools}, headers=RIGHT).json()["choices"][0]
        assert answer["finish_reason"] == "tool_calls" and answer["message"]["content"] is None
        assert answer["message"]["tool_calls"][0]["function"]["name"] == "get_time"
        plain = api.post("/v1/chat/completions", json=asked, headers=RIGHT).json()["choices"][0]["message"]
        reasoning = {"v0.9.2": "reasoning_content", "v0.32.0": "reasoning"}[release]
        assert plain["content"] and plain[reasoning] and plain[reasoning] not in plain["content"]
        assert api.post("/v1/chat/completions", json={**asked, "model": "x"}, headers=RIGHT).status_code == 404


def test_broken_it_is_healthy_and_completes_nothing(serve: Server) -> None:
    with client(serve, "v0.32.0", "--served-model-name=small", STANDIN_BROKEN="1") as api:
        assert api.post("/v1/completions", json=COMPLETION, headers=RIGHT).status_code == 500


@pytest.mark.parametrize(
    ("release", "arguments", "code", "said"),
    [
        ("v0.32.0", ["--enable-reasoning"], 2, "unrecognized arguments: --enable-reasoning"),
        ("v0.32.0", ["--rope-scaling={}"], 2, "unrecognized arguments: --rope-scaling={}"),
        ("v0.9.2", ["--reasoning-parser=deepseek"], 2, "argument --reasoning-parser: invalid choice: 'deepseek'"),
        ("v0.9.2", ["--dtype=fp4"], 2, "argument --dtype: invalid choice"),
        ("v0.32.0", ["--revision=dev"], 1, "couldn't find Acme/Small (dev) in the cache"),
        ("v0.32.0", ["--tensor-parallel-size=2"], 1, "World size (2) is larger than the number of available GPUs (0)"),
        ("v0.32.0", ["--middleware=nothing.Guard"], 1, "No module named 'nothing'"),
    ],
)
def test_what_the_stand_in_refuses(serve: Server, release: str, arguments: list[str], code: int, said: str) -> None:
    process = serve(release, "Acme/Small", *arguments)
    _, err = process.communicate(timeout=20)
    assert process.returncode == code and said in err


def test_the_recorded_arguments_name_their_source() -> None:
    recorded = json.loads(vllm.ARGUMENTS.read_text())
    assert "source distributions on PyPI" in recorded.pop("about")
    assert set(recorded) == set(vllm.releases()) and all(len(known) > 150 for known in recorded.values())
