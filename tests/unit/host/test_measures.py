"""What took how long: the note of a step on the host, and what is read of it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from gpuhost.host.measures import LINES_MAX, Measure, name_of, noted, parse, parsed, timed


def sh(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh"], input=script, capture_output=True, text=True, check=False, timeout=20)


def test_a_step_is_noted_once_under_its_name(tmp_path: Path) -> None:
    file = tmp_path / "the measures"
    assert sh(timed("sleep 0.3; echo made", noted(str(file), "image", "gpuhost/api:1", "echo 123"))).stdout == "made\n"
    [image] = parsed(file.read_text().splitlines())
    assert (image.kind, image.name, image.disk_bytes) == ("image", "gpuhost/api", 123) and 0.2 <= image.seconds < 10
    sh(timed("true", noted(str(file), "service", "api")))
    sh(timed("true", noted(str(file), "image", "gpuhost/api:2", "echo 124")))
    service, image = parsed(file.read_text().splitlines())
    assert (service.name, service.disk_bytes) == ("api", None)
    assert (image.name, image.disk_bytes) == ("gpuhost/api", 124) and image.seconds < 0.2
    assert file.stat().st_mode & 0o777 == 0o644 and list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("command", ["exit 7", "set -eu; (exit 7); echo 'not reached'"])
def test_one_that_failed_is_not_noted(tmp_path: Path, command: str) -> None:
    done = sh(timed(command, noted(str(tmp_path / "measures"), "service", "api")))
    assert (done.returncode, done.stdout) == (7, "") and not list(tmp_path.iterdir())


def test_what_cannot_be_noted_fails_nothing(tmp_path: Path) -> None:
    done = sh(timed("true", noted(str(tmp_path / "no folder" / "measures"), "service", "api")))
    assert (done.returncode, done.stderr) == (0, "")


def test_the_file_does_not_grow_for_ever(tmp_path: Path) -> None:
    file = tmp_path / "measures"
    file.write_text("".join(f"service\tname-{number}\t1.0\t\n" for number in range(2 * LINES_MAX)))
    sh(timed("true", noted(str(file), "service", "api")))
    lines = file.read_text().splitlines()
    assert len(lines) == LINES_MAX and lines[-1].startswith("service\tapi\t")


@pytest.mark.parametrize(
    ("line", "measure"),
    [
        ("service\tapi\t43.1\t", Measure("service", "api", 43.1)),
        ("image\tgpuhost/api\t0.0\t0", Measure("image", "gpuhost/api", 0.0, 0)),
        ("service\tapi\t-1.0\t", None),  # of a clock that was set
        ("service\tapi\t1e9\t", None),
        ("service\tapi\t12345678\t", None),
        ("service\tapi\t43.1", None),
        ("", None),
    ],
)
def test_a_line(line: str, measure: Measure | None) -> None:
    assert parse(line) == measure


@pytest.mark.parametrize(
    ("kind", "resource", "name"),
    [
        ("service", "api", "api"),
        ("image", "gpuhost/comfyui:0123456789ab", "gpuhost/comfyui"),
        ("image", "docker.io/vllm/vllm-openai:v0.9.2@sha256:00", "docker.io/vllm/vllm-openai"),
        ("image", "registry.example:5000/a/b", "registry.example:5000/a/b"),
        ("install", "/srv/genai/installs/comfyui/v0.3.64-0123", "comfyui"),
    ],
)
def test_under_which_name_the_last_version_is_found(kind: str, resource: str, name: str) -> None:
    assert name_of(kind, resource) == name
