"""The server as a program: what it refuses to start with, and how it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from sd35.gpu import read_nvml
from sd35.settings import SettingsError, read
from tests.unit.sd35.serving import (
    AUTH,
    REPO,
    ROOT,
    STANDIN,
    TOKEN,
    Cache,
    Fifo,
    alive,
    gpu_memory,
    made,
    start,
    status,
    until,
)

GOOD = {"SD35_API_KEY": TOKEN}


@pytest.mark.parametrize(
    ("environ", "cause"),
    [
        ({}, "`SD35_API_KEY` is not set"),
        ({"SD35_API_KEY": " \n"}, "`SD35_API_KEY` is not set"),
        ({"SD35_API_KEY": "x" * 31}, "31 characters"),
        ({**GOOD, "SD35_MODEL": "../etc"}, "`SD35_MODEL` is `../etc`"),
        ({**GOOD, "SD35_MODEL": "alone"}, "`SD35_MODEL` is `alone`"),
        ({**GOOD, "SD35_REVISION": "../main"}, "`SD35_REVISION` is"),
        ({**GOOD, "SD35_REVISION": ""}, "`SD35_REVISION` is"),
        ({**GOOD, "SD35_LOAD": "later"}, "`SD35_LOAD` is `later`"),
        ({**GOOD, "SD35_OFFLOAD": "all"}, "`SD35_OFFLOAD` is `all`"),
        ({**GOOD, "SD35_DEVICE": "tpu"}, "`SD35_DEVICE` is `tpu`"),
        ({**GOOD, "SD35_QUEUE": "0"}, "`SD35_QUEUE` is `0`"),
        ({**GOOD, "SD35_MAX_STEPS": "-1"}, "`SD35_MAX_STEPS` is `-1`"),
        ({**GOOD, "SD35_MAX_SIDE": "1e3"}, "`SD35_MAX_SIDE` is `1e3`"),
    ],
)
def test_refuses_to_start_with(environ: dict[str, str], cause: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(cause)) as refused:
        read(environ)
    assert refused.value.hint


def test_what_is_set_counts() -> None:
    made = read({**GOOD, "HF_HOME": "/hf", "SD35_MODEL": REPO, "SD35_LOAD": "start", "SD35_HISTORY": "7"})
    assert (str(made.cache), made.model, made.load, made.limits.history) == ("/hf/hub", REPO, "start", 7)
    assert TOKEN not in repr(made)


def test_the_refusal_is_two_lines_and_exit_1() -> None:
    environ = {key: value for key, value in os.environ.items() if not key.startswith("SD35")}
    done = subprocess.run(
        [sys.executable, "-m", "sd35"], cwd=ROOT, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and done.stdout == ""
    error, hint = done.stderr.splitlines()
    assert error.startswith("error: `SD35_API_KEY`") and hint.startswith("hint: ")


class Program:
    """A server that runs as a program of its own."""

    def __init__(self, process: subprocess.Popen[str], api: httpx.Client) -> None:
        self.process = process
        self.api = api

    def ends(self) -> list[str]:
        """What it still logs until it ends by itself, as it should."""
        assert self.process.stderr is not None
        lines = self.process.stderr.read().splitlines()
        # Not pid 1 here, so the signal ends it after the shutdown; as pid 1 it exits 0.
        assert self.process.wait(timeout=60) in (0, -signal.SIGTERM)
        return lines


@contextmanager
def running(folder: Path, finish_s: float = 15.0, cancel_s: float = 5.0) -> Iterator[Program]:
    """`python -m sd35`, with the stand-in, on a port that is free, and with less patience where a test says so."""
    (folder / "outputs").mkdir(exist_ok=True)
    before = (
        "import sys; from sd35 import jobs, __main__ as program; "
        f"jobs.FINISH_S, jobs.CANCEL_S = {finish_s}, {cancel_s}; "
        f"program.HOST, program.PORT, program.WORKER = '127.0.0.1', 0, (sys.executable, {STANDIN!r}); "
        "sys.exit(program.main())"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", before],
        cwd=ROOT,
        env={
            **os.environ,
            "SD35_API_KEY": f" {TOKEN}\n",
            "SD35_MODEL": REPO,
            "SD35_DEVICE": "cpu",
            "SD35_OUTPUTS": str(folder / "outputs"),
            "HF_HOME": str(folder),
        },
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        lines = iter(process.stderr.readline, "")
        told = next(found for line in lines if (found := re.search(r"running on (http://127\.0\.0\.1:\d+)", line)))
        with httpx.Client(base_url=told[1], headers=AUTH, trust_env=False, timeout=60) as api:
            yield Program(process, api)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_it_serves_until_sigterm(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.put()
    with running(tmp_path) as program:
        assert program.api.get("/v1/models", headers={"Authorization": ""}).status_code == 401
        assert made(program.api, "a cat")
        [model] = cache.processes()
        program.process.send_signal(signal.SIGTERM)
        assert any("Application shutdown complete" in line for line in program.ends())
    until(lambda: not alive(model))


def test_at_sigterm_the_running_job_may_finish_and_the_others_are_given_up(tmp_path: Path, fifo: Fifo) -> None:
    Cache(tmp_path).put()
    with running(tmp_path) as program, ThreadPoolExecutor() as pool:
        api = program.api
        first = start(api, f"hold {fifo}")
        until(lambda: status(api, first)["status"] == "processing")
        second = pool.submit(api.post, "/v1/images/generations", json={"prompt": "a cat"})
        until(lambda: api.get("/health").json()["jobs_waiting"] == 1)
        program.process.send_signal(signal.SIGTERM)
        answer = second.result(timeout=60)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "stopping")
        assert program.process.poll() is None and not list((tmp_path / "outputs").glob("*.png"))
        fifo.let(28)
        program.ends()
        assert len(list((tmp_path / "outputs").glob("*.png"))) == 1


def test_at_sigterm_a_job_that_goes_on_is_ended(tmp_path: Path, fifo: Fifo) -> None:
    cache = Cache(tmp_path)
    cache.put()
    with running(tmp_path, finish_s=0.1, cancel_s=0.1) as program:
        job = start(program.api, f"deaf {fifo}")
        until(lambda: status(program.api, job)["status"] == "processing")
        program.process.send_signal(signal.SIGTERM)
        program.ends()
    until(lambda: not alive(cache.processes()[0]))


def test_memory_as_nvml_tells_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class NVMLError(Exception):
        pass

    def lost() -> None:
        raise NVMLError("Failed to initialize NVML: Unknown Error")

    memory = SimpleNamespace(total=24576 << 20, used=500 << 20, free=24076 << 20)
    nvml = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: {0: "handle"}[index],
        nvmlDeviceGetMemoryInfo=lambda handle: {"handle": memory}[handle],
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert read_nvml() == gpu_memory(500)
    nvml.nvmlInit = lost
    assert read_nvml() is None


def test_the_model_does_not_outlive_a_server_that_was_killed(tmp_path: Path, fifo: Fifo) -> None:
    cache = Cache(tmp_path)
    cache.put()
    with running(tmp_path) as program:
        job = start(program.api, f"deaf {fifo}")
        until(lambda: status(program.api, job)["status"] == "processing")
        program.process.kill()
    until(lambda: not alive(cache.processes()[0]))
