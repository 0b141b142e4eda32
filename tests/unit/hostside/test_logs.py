"""The log of a container: whole lines, no secret, nothing of a container that is not ours."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuhost.project import PROJECT
from hostside.logs import LINE_BYTES_READ, LINE_CHARS_SENT, Out, lines, show
from hostside.protocol.logs import LogRequest
from hostside.wire import to_json
from tests.unit.fake_docker import FakeDocker, container

MASKED = "s3cret-value-of-api"


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDocker]:
    made = FakeDocker(tmp_path / "docker.sock")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{made.socket_path}")
    made.containers["api"] = [container("api")]
    yield made
    made.close()


def test_lines_are_whole_whatever_the_pieces() -> None:
    assert list(lines([b"a\nb", b"c", b"\r\n\n", b"d\xff"])) == ["a", "bc", "", "d\ufffd"]
    assert [len(line) for line in lines([b"x" * LINE_BYTES_READ, b"y" * 10 + b"\nz\n"])] == [LINE_BYTES_READ, 1]


def test_secrets_are_masked_and_long_lines_cut_behind_that(engine: FakeDocker) -> None:
    at_the_edge = "x" * (LINE_CHARS_SENT - 4) + MASKED
    engine.logs["api"] = f"\x1b[31mtoken {MASKED}\x1b[0m\n{at_the_edge}\n"
    out = io.StringIO()
    show(LogRequest("api", 10, False, [MASKED]), Out(out))
    shown = [json.loads(line)["line"] for line in out.getvalue().splitlines()]
    assert shown[0] == "token [redacted]"
    assert len(shown[1]) == LINE_CHARS_SENT and shown[1].endswith("x[red")
    assert "/containers/id-api/logs" in "".join(engine.requests)


def program(request: LogRequest, engine: FakeDocker) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "DOCKER_HOST": f"unix://{engine.socket_path}", "PYTHONPATH": f"{PROJECT}/files/host"}
    command = [sys.executable, "-m", "hostside.logs"]
    return subprocess.run(command, input=to_json(request), env=environment, capture_output=True, text=True, check=False)


def test_as_a_program(engine: FakeDocker) -> None:
    engine.logs["api"] = "one\n"
    done = program(LogRequest("api", 10, False, []), engine)
    assert (done.returncode, done.stdout, done.stderr) == (0, '{"line": "one"}\n', "")


def test_what_is_not_there_and_what_is_not_ours(engine: FakeDocker) -> None:
    engine.containers["foreign"] = [container("foreign")]
    del engine.containers["foreign"][0]["Config"]["Labels"]["gpuhost.service"]
    for name, what in (("absent", "there is no container"), ("foreign", "is not gpuhost's")):
        done = program(LogRequest(name, 10, False, []), engine)
        assert done.returncode == 3 and what in done.stderr and "hint: " in done.stderr and not done.stdout
    engine.status = 500
    done = program(LogRequest("api", 10, False, [MASKED]), engine)
    assert done.returncode == 3 and "Docker does not answer" in done.stderr
