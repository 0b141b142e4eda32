"""What is handed to the host, run here under a plain sh with a docker that tells what it was asked."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from gpuhost.catalog.types import BuildImage, PullImage
from gpuhost.engine.facts import DockerReading
from gpuhost.host.paths import Paths
from gpuhost.images import operations, rules
from gpuhost.run.remote import Script
from tests.unit import sample

WANTED: dict[str, BuildImage | PullImage] = {
    "orchestrator": BuildImage(build="orchestrator"),
    "gpu-check": PullImage(pull="docker.io/library/busybox:1"),
}
BUILT = rules.reference("orchestrator", WANTED["orchestrator"])


def scripts(monkeypatch: pytest.MonkeyPatch, paths: Paths) -> list[Script]:
    """Of a host without an image."""
    carried: list[Script] = []
    monkeypatch.setattr(operations, "host", SimpleNamespace(get_fact=lambda *_, **__: DockerReading()))
    monkeypatch.setattr(operations, "carry_out", lambda changes, commands: carried.extend(commands) or ())
    list(operations.images._inner(WANTED, paths, {}))
    return carried


def test_a_build_and_a_pull_say_which_one_is_at_work_and_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "docker").write_text('#!/bin/sh\necho "docker $*"\necho "#5 step" >&2\n')
    (tmp_path / "docker").chmod(0o755)
    environ = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    said = []
    for script in scripts(monkeypatch, sample.run().paths):
        assert script._live
        done = subprocess.run(["sh", "-c", str(script)], capture_output=True, text=True, check=True, env=environ)
        said.append(done.stdout.splitlines())
        assert done.stderr == "#5 step\n"
    assert [first for first, _ in said] == [f"image {BUILT}", "image docker.io/library/busybox:1"]
    [(_, build), (_, pull)] = said
    assert build.startswith("docker build --label=") and f" -t {BUILT} " in build and "-q" not in build.split()
    assert pull == "docker pull docker.io/library/busybox:1"


def test_a_pull_that_fails_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "docker").write_text("#!/bin/sh\nexit 7\n")
    (tmp_path / "docker").chmod(0o755)
    environ = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    codes = [
        subprocess.run(["sh", "-c", str(script)], capture_output=True, check=False, env=environ).returncode
        for script in scripts(monkeypatch, sample.run().paths)
    ]
    assert codes == [7, 7]
