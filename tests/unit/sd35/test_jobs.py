"""What becomes of jobs: the queue, progress, cancelling, failures, the model's coming and going."""

from __future__ import annotations

import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from sd35 import jobs, model
from sd35.gpu import GpuMemory
from sd35.settings import Limits
from tests.unit.sd35.serving import (
    Cache,
    Fifo,
    alive,
    ended,
    gpu_memory,
    made,
    serving,
    settings,
    start,
    status,
    until,
)

IMAGES = "/v1/images/generations"


def processing(api: httpx.Client, job: str) -> None:
    """Waits until it is that job's turn."""
    until(lambda: status(api, job)["status"] == "processing")


# -- the queue ---------------------------------------------------------------------------------------------------------


def test_one_job_at_a_time_and_each_step_is_told(tmp_path: Path, cache: Cache, fifo: Fifo) -> None:
    with serving(settings(tmp_path)) as api:
        first = start(api, f"hold {fifo}", num_inference_steps=2, num_images=2)
        second, third = start(api, "a cat"), start(api, "a dog")
        processing(api, first)
        for done in range(4):
            until(lambda done=done: status(api, first)["step"] == done)  # type: ignore[misc]
            assert status(api, first)["steps"] == 4
            assert [status(api, each)["status"] for each in (second, third)] == ["pending", "pending"]
            assert [status(api, each)["position"] for each in (first, second, third)] == [None, 1, 2]
            fifo.let()
        assert [ended(api, each)["status"] for each in (first, second, third)] == ["completed"] * 3
    assert len(cache.processes()) == 1


def test_a_full_queue_says_when_to_come_again(tmp_path: Path, cache: Cache, fifo: Fifo) -> None:
    with serving(settings(tmp_path, Limits(queue=2))) as api:
        running = start(api, f"hold {fifo}")
        processing(api, running)
        waiting = [start(api, "a cat") for _ in range(2)]
        for path in ("/generate", IMAGES):
            answer = api.post(path, json={"prompt": "a cat"})
            assert (answer.status_code, answer.json()["error"]["code"]) == (429, "queue_full")
            assert 1 <= int(answer.headers["Retry-After"]) <= jobs.RETRY_AFTER_MAX_S
        fifo.let(28)
        for job in waiting:
            ended(api, job)
        assert made(api, "a cat")
        # Now it is known how long a job takes, and a guess is no longer said.
        running = start(api, f"hold {fifo}")
        processing(api, running)
        waiting = [start(api, "a cat") for _ in range(2)]
        assert int(api.post("/generate", json={"prompt": "a cat"}).headers["Retry-After"]) < jobs.FIRST_GUESS_S
        fifo.let(28)
        ended(api, waiting[1])


def test_what_ended_long_ago_is_forgotten(tmp_path: Path, cache: Cache) -> None:
    with serving(settings(tmp_path, Limits(history=2))) as api:
        found = [start(api, "a cat") for _ in range(4)]
        ended(api, found[3])
        assert [api.get(f"/status/{job}").status_code for job in found] == [404, 404, 200, 200]
    assert len(list((tmp_path / "outputs").iterdir())) == 4  # the pictures stay


# -- cancelling --------------------------------------------------------------------------------------------------------


def test_a_job_that_waits_is_cancelled_at_once(tmp_path: Path, cache: Cache, fifo: Fifo) -> None:
    with serving(settings(tmp_path)) as api:
        running, waiting = start(api, f"hold {fifo}"), start(api, "a cat")
        processing(api, running)
        answer = api.post(f"/cancel/{waiting}")
        assert (answer.status_code, answer.json()["status"]) == (200, "failed")
        assert answer.json()["error"]["code"] == "cancelled"
        fifo.let(28)
        assert ended(api, running)["status"] == "completed"
        for job, what in ((waiting, "failed"), (running, "completed")):
            answer = api.post(f"/cancel/{job}")
            assert (answer.status_code, answer.json()["error"]["code"]) == (409, "job_ended")
            assert what in answer.json()["error"]["message"]


def test_a_running_job_is_cancelled_at_its_next_step(tmp_path: Path, cache: Cache, fifo: Fifo) -> None:
    with serving(settings(tmp_path)) as api, ThreadPoolExecutor() as pool:
        running, waiting = start(api, f"hold {fifo}"), start(api, "a cat")
        fifo.let(3)
        until(lambda: status(api, running)["step"] == 3)
        cancelling = pool.submit(api.post, f"/cancel/{running}")
        # The next step may end before the process has heard of it, the one after not.
        until(lambda: bool(fifo.let() or cancelling.done()))
        answer = cancelling.result().json()
        assert (answer["status"], answer["error"]["code"], answer["images"]) == ("failed", "cancelled", [])
        assert answer["step"] < 28
        assert ended(api, waiting)["status"] == "completed"
    assert len(cache.processes()) == 1  # the model stayed


def test_a_job_that_does_not_listen_ends_with_its_process(
    tmp_path: Path, cache: Cache, fifo: Fifo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "CANCEL_S", 0.05)
    with serving(settings(tmp_path)) as api:
        running, waiting = start(api, f"deaf {fifo}"), start(api, "a cat")
        processing(api, running)
        answer = api.post(f"/cancel/{running}").json()
        assert (answer["status"], answer["error"]["code"]) == ("failed", "cancelled")
        assert ended(api, waiting)["status"] == "completed"
    [first, _] = cache.processes()
    assert not alive(first)


def test_a_client_that_goes_takes_its_job_along(tmp_path: Path, cache: Cache, fifo: Fifo) -> None:
    """Else nobody's pictures would hold up the others'."""
    with serving(settings(tmp_path)) as api:
        for held in (f"hold {fifo}", "a cat"):  # one that runs, one that waits
            with (
                httpx.Client(base_url=api.base_url, headers=api.headers, trust_env=False, timeout=0.3) as client,
                pytest.raises(httpx.ReadTimeout),
            ):
                blocker = start(api, f"hold {fifo}") if held == "a cat" else None
                if blocker:
                    processing(api, blocker)
                client.post(IMAGES, json={"prompt": held})
            if blocker is None:
                until(lambda: bool(fifo.let() or 'result="cancelled"} 1.0' in api.get("/metrics").text))
            else:
                until(lambda: 'result="cancelled"} 2.0' in api.get("/metrics").text)
                assert status(api, blocker)["status"] == "processing"
                fifo.let(28)
                ended(api, blocker)


# -- failures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "cause"),
    [
        ("fail", "the picture was not made: RuntimeError: CUDA out of memory"),
        ("die", "the model's process ended by signal 9"),
    ],
)
def test_a_failure_says_its_cause_and_the_next_job_has_a_new_process(
    tmp_path: Path, cache: Cache, prompt: str, cause: str
) -> None:
    with serving(settings(tmp_path)) as api:
        found = ended(api, start(api, prompt))
        assert (found["status"], found["images"]) == ("failed", [])
        assert found["error"] == {"code": "generation_failed", "message": cause}
        answer = api.post(IMAGES, json={"prompt": prompt})
        assert (answer.status_code, answer.json()["error"]["message"]) == (500, cause)
        assert answer.json()["error"]["type"] == "server_error"
        assert made(api, "a cat")
    assert len(set(cache.processes())) == 3


def test_a_process_that_stands_still_is_ended(
    tmp_path: Path, cache: Cache, fifo: Fifo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "STILL_S", 0.2)
    monkeypatch.setattr(model, "END_S", 0.05)
    with serving(settings(tmp_path)) as api:
        found = ended(api, start(api, f"deaf {fifo}"))
        assert found["error"]["message"] == "the model's process said nothing for 0.2 s, and was ended"
    assert not alive(cache.processes()[0])


def test_pictures_that_cannot_be_written_are_a_failure(tmp_path: Path, cache: Cache) -> None:
    with serving(settings(tmp_path, outputs=tmp_path / "outputs" / "gone")) as api:
        found = ended(api, start(api, "a cat", num_images=2))
        assert (found["status"], found["images"]) == ("failed", [])
        assert found["error"]["code"] == "not_written" and "No such file" in found["error"]["message"]
        (tmp_path / "outputs" / "gone").mkdir()
        assert made(api, "a cat")


def test_of_pictures_that_were_written_in_part_none_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    renamed = Path.rename

    def fails_at_the_second(path: Path, target: Path) -> Path:
        if "-1.png" in path.name:
            raise OSError(28, "No space left on device")
        return renamed(path, target)

    monkeypatch.setattr(Path, "rename", fails_at_the_second)
    (tmp_path / "mine.png").write_bytes(b"mine")
    with pytest.raises(OSError, match="No space"):
        jobs.outputs.write(tmp_path, "job", [b"a", b"b", b"c"])
    assert [path.name for path in tmp_path.iterdir()] == ["mine.png"]


def test_a_fault_of_the_server_ends_one_job_and_no_other(
    tmp_path: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = jobs.outputs.write
    monkeypatch.setattr(jobs.outputs, "write", lambda *_: [][0])
    with serving(settings(tmp_path)) as api:
        found = ended(api, start(api, "a cat"))
        assert (found["status"], found["error"]["code"]) == ("failed", "internal_error")
        monkeypatch.setattr(jobs.outputs, "write", written)
        assert made(api, "a cat")


@pytest.mark.parametrize("said", ["{}", "[]", "nonsense", '{"said": "step", "bytes": 99999999999}'])
def test_a_process_that_says_what_is_no_answer_is_ended(tmp_path: Path, cache: Cache, said: str) -> None:
    program = tmp_path / "worker.py"
    program.write_text(f"import sys, time\nprint({said!r}, flush=True)\ntime.sleep(60)\n")
    with serving(settings(tmp_path), worker=(sys.executable, str(program))) as api:
        assert ended(api, start(api, "a cat"))["error"]["message"] == "the model's process ended by signal 9"


def test_what_libraries_print_is_not_taken_for_an_answer(tmp_path: Path, cache: Cache) -> None:
    with serving(settings(tmp_path)) as api:
        assert made(api, "print")


def test_the_process_of_the_model_has_not_the_token(
    tmp_path: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SD35_API_KEY", "x" * 40)
    monkeypatch.setenv("SD35_OTHER", "x")
    with serving(settings(tmp_path)) as api:
        assert ended(api, start(api, "environment"))["error"]["message"].endswith("RuntimeError: SD35_OTHER")


# -- the model ---------------------------------------------------------------------------------------------------------


def test_a_model_that_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    with serving(settings(tmp_path)) as api:
        for path in ("/generate", IMAGES):
            answer = api.post(path, json={"prompt": "a cat"})
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_missing")
        answer = api.get("/health")
        assert (answer.status_code, answer.json()["status"]) == (503, "model missing")
        cache.put()
        assert api.get("/health").status_code == 200
        assert made(api, "a cat")


def test_of_a_revision_that_is_not_there(tmp_path: Path, cache: Cache) -> None:
    with serving(settings(tmp_path, revision="d" * 40)) as api:
        assert api.get("/health").json()["model_state"] == "missing"
    with serving(settings(tmp_path, revision="c" * 40)) as api:
        assert made(api, "a cat")


def test_a_model_that_does_not_load_is_no_health_until_it_does(tmp_path: Path, cache: Cache) -> None:
    cache.put(load="fail")
    cause = "the model was not loaded: ValueError: a weight is missing"
    with serving(settings(tmp_path)) as api:
        found = ended(api, start(api, "a cat"))
        assert found["error"] == {"code": "model_failed", "message": cause}
        answer = api.get("/health")
        assert (answer.status_code, answer.json()["status"], answer.json()["cause"]) == (503, "model failed", cause)
        assert api.post(IMAGES, json={"prompt": "a cat"}).status_code == 503
        cache.put()
        assert made(api, "a cat")
        answer = api.get("/health")
        assert (answer.status_code, answer.json()["cause"], answer.json()["model_state"]) == (200, None, "ready")


def test_a_model_that_is_loaded_at_start_is_waited_for(tmp_path: Path, cache: Cache, fifo: Fifo) -> None:
    cache.put(load="hold", fifo=str(fifo))
    with serving(settings(tmp_path, load="start")) as api:
        until(lambda: bool(cache.processes()))
        answer = api.get("/health")
        assert (answer.status_code, answer.json()["status"]) == (503, "loading")
        waiting = start(api, "a cat")
        assert status(api, waiting)["status"] == "pending"
        assert api.post(f"/cancel/{waiting}").json()["error"]["code"] == "cancelled"
        assert api.post("/unload").json()["error"]["code"] == "busy"
        fifo.let()
        until(lambda: api.get("/health").status_code == 200)
        assert made(api, "a cat")
    assert len(cache.processes()) == 1


def test_a_server_that_stops_while_it_loads_ends(tmp_path: Path, cache: Cache, fifo: Fifo) -> None:
    cache.put(load="hold", fifo=str(fifo))
    with serving(settings(tmp_path, load="start")):
        until(lambda: bool(cache.processes()))
    assert not alive(cache.processes()[0])


def test_unloading_ends_the_process_and_says_what_was_measured(tmp_path: Path, cache: Cache, fifo: Fifo) -> None:
    def read_gpu() -> GpuMemory:
        return gpu_memory(18000 if any(map(alive, cache.processes())) else 500)

    with serving(settings(tmp_path), read_gpu) as api:
        before = api.post("/unload").json()  # of what is not loaded: no fault
        assert (before["model_state"], before["gpu_memory"]["used_mib"]) == ("unloaded", 500)
        picture = made(api, "a cat", seed=1)
        until(lambda: api.get("/health").json()["gpu_memory"]["used_mib"] == 18000)
        answer = api.post("/unload")
        assert answer.status_code == 200 and answer.json()["model_state"] == "unloaded"
        assert answer.json()["gpu_memory_before"]["used_mib"] == 18000
        assert answer.json()["gpu_memory"]["used_mib"] == 500
        assert made(api, "a cat", seed=1) == picture
        running = start(api, f"hold {fifo}")
        processing(api, running)
        answer = api.post("/unload")
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "busy")
        fifo.let(28)
        assert ended(api, running)["status"] == "completed"
    assert len(cache.processes()) == 2


def test_a_process_that_ended_while_nothing_was_to_do_is_started_again(tmp_path: Path, cache: Cache) -> None:
    """Out of memory, say: the kernel ends the largest."""
    with serving(settings(tmp_path)) as api:
        made(api, "a cat")
        [pid] = cache.processes()
        model.os.kill(pid, 9)
        until(lambda: api.get("/health").json()["model_state"] == "unloaded")
        assert made(api, "a cat")


# -- the event loop ----------------------------------------------------------------------------------------------------


def test_nothing_waits_for_a_picture_or_for_a_driver(tmp_path: Path, cache: Cache, fifo: Fifo) -> None:
    may_end, asked = threading.Event(), threading.Event()

    def hangs() -> None:
        asked.set()
        may_end.wait(30)

    with serving(settings(tmp_path), hangs) as api, ThreadPoolExecutor(10) as pool:
        running = start(api, f"hold {fifo}")
        processing(api, running)
        held = [pool.submit(api.get, path) for path in ("/health", "/metrics") for _ in range(3)]
        held += [pool.submit(api.post, IMAGES, json={"prompt": "a cat"}) for _ in range(3)]
        assert asked.wait(30)
        for _ in range(20):
            assert api.get("/v1/models").status_code == 200
            assert status(api, running)["status"] == "processing"
        assert not [each for each in held if each.done()]
        may_end.set()
        fifo.let(28)
        assert {each.result().status_code for each in held} == {200, 503}  # 503: no GPU was seen


def test_a_driver_that_does_not_answer_is_no_gpu(tmp_path: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sd35.gpu.TIMEOUT_S", 0.05)
    may_end, asked = threading.Event(), []

    def hangs() -> None:
        asked.append(1)
        may_end.wait(30)

    with serving(settings(tmp_path), hangs) as api:
        for _ in range(3):
            assert json.loads(api.get("/health").text)["status"] == "no GPU"
        assert len(asked) == 1  # each question would hold a thread
        may_end.set()
