"""What the program that looks at the way to the GPUs asks, and what it makes of answers: with an `nvidia-smi`, an
`nvidia-ctk` and a `docker` that play their parts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from hostside.protocol.gpu_proof import GpuChainRequest, GpuChainSeen
from hostside.wire import from_host

PROJECT = Path(__file__).resolve().parents[3]
A = "GPU-aaaaaaaa-1111-2222-3333-444444444444"
REQUEST = GpuChainRequest([A], "cdi", "python:3", "print('the source')", 20)
SAYS = '{"devices": ["/dev/nvidia0"], "driver": true, "gpus": [{"uuid": "%s", "wrong": 0, "error": ""}], "error": ""}'
NOTHING = '{"devices": [], "driver": false, "gpus": [], "error": "no library"}'
INFO = json.dumps({"Runtimes": {"runc": {}, "nvidia": {}}, "CDISpecDirs": ["/etc/cdi"], "DiscoveredDevices": None})
PROGRAMS = {
    "nvidia-smi": f"echo {A}",
    "nvidia-ctk": "echo 'NVIDIA Container Toolkit CLI version 1.20.0'; echo 'commit: x'",
    "docker": f"""
printf '%s\\n' "$*" >> "$HOST/asked"
case "$*" in
  info*) echo '{INFO}';;
  run*nvidia.com*|run*--gpus*)
    cat > "$HOST/source"
    [ ! -e "$HOST/floods" ] || exec yes
    [ ! -e "$HOST/hangs" ] || exec sleep 60; echo noise; echo '{SAYS % A}';;
  run*) cat >/dev/null; [ ! -e "$HOST/fails" ] || {{ echo 'docker: no such image' >&2; exit 125; }}; echo '{NOTHING}';;
  rm*) ;;
esac
""",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in PROGRAMS.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    return tmp_path


def look(folder: Path, request: GpuChainRequest = REQUEST) -> GpuChainSeen:
    done = subprocess.run(
        [sys.executable, "-m", "hostside.gpu_proof"],
        input=json.dumps(asdict(request)),
        env={"PATH": f"{folder}:{os.environ['PATH']}", "HOST": str(folder), "PYTHONPATH": str(PROJECT / "files/host")},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return from_host(GpuChainSeen, done.stdout)


def runs(folder: Path) -> list[str]:
    return [line for line in (folder / "asked").read_text().splitlines() if line.startswith("run")]


def test_every_link_is_looked_at(folder: Path) -> None:
    seen = look(folder)
    assert (seen.uuids, seen.said, seen.toolkit) == ([A], "", "1.20.0")
    assert (seen.engine.runtimes, seen.engine.cdi_folders, seen.engine.devices) == (
        ["nvidia", "runc"],
        ["/etc/cdi"],
        None,
    )
    none, one = seen.containers
    assert (none.device, none.ran, none.driver, none.gpus, none.said) == (None, True, False, [], "no library")
    assert (one.device, one.ran, one.device_files) == (A, True, ["/dev/nvidia0"])
    assert [(gpu.uuid, gpu.wrong) for gpu in one.gpus] == [(A, 0)]
    assert (folder / "source").read_text() == "print('the source')"


def test_containers_of_the_proof_have_neither_network_nor_rights(folder: Path) -> None:
    look(folder)
    none, one = runs(folder)
    assert "nvidia" not in none and f"--device=nvidia.com/gpu={A}" in one
    for line in (none, one):
        for option in (
            "--rm",
            "--network=none",
            "--read-only",
            "--cap-drop=ALL",
            "--pull=never",
            "--user=65534:65534",
            "--memory=4g",
            "--memory-swap=4g",
            "--pids-limit=256",
            "--security-opt=no-new-privileges",
        ):
            assert option in line


def test_by_the_runtime(folder: Path) -> None:
    look(folder, replace(REQUEST, access="runtime"))
    assert f'--runtime=nvidia --gpus="device={A}"' in runs(folder)[1]


def test_a_container_that_hangs_is_ended_and_told(folder: Path) -> None:
    (folder / "hangs").touch()
    seen = look(folder, replace(REQUEST, timeout_s=1))
    assert [(each.ran, each.said) for each in seen.containers] == [
        (True, "no library"),
        (False, "no answer within 1 s"),
    ]
    assert "\nrm --force gpuhost-gpu-check-" in (folder / "asked").read_text()


def test_a_container_that_has_no_end_of_words_is_ended(folder: Path) -> None:
    """What it says goes through the memory of a program of root's."""
    (folder / "floods").touch()
    seen = look(folder, replace(REQUEST, timeout_s=30)).containers[1]
    assert not seen.ran and "y" in seen.said and len(seen.said) < 1000
    assert "\nrm --force gpuhost-gpu-check-" in (folder / "asked").read_text()


def test_an_answer_made_to_exhaust_its_reader(folder: Path) -> None:
    (folder / "docker").write_text("#!/bin/sh\nhead -c 200000 /dev/zero | tr '\\0' '['\n")
    assert {each.said for each in look(folder).containers} == {"its answer cannot be read"}


def test_a_container_that_does_not_run(folder: Path) -> None:
    (folder / "fails").touch()
    assert (look(folder).containers[0].ran, look(folder).containers[0].said) == (False, "docker: no such image")


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_that_is_not_there_is_a_link_that_says_so(folder: Path, program: str) -> None:
    (folder / program).unlink()
    if program == "docker":  # this machine may have one
        (folder / program).write_text("#!/bin/sh\necho 'Cannot connect' >&2; exit 1\n")
        (folder / program).chmod(0o755)
    seen = look(folder)
    told = {"nvidia-smi": seen.said, "nvidia-ctk": seen.toolkit, "docker": seen.engine.said}[program]
    assert told == {"nvidia-smi": "nvidia-smi is not there", "nvidia-ctk": "", "docker": "Cannot connect"}[program]


def test_a_docker_whose_client_alone_answers(folder: Path) -> None:
    """With exit code 0 and an otherwise empty answer, as Docker 26.1 does."""
    why = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?"
    answer = json.dumps({"ID": "", "Runtimes": None, "CDISpecDirs": None, "ServerErrors": [why]})
    (folder / "docker").write_text(f"#!/bin/sh\ncase \"$1\" in info) echo '{answer}';; *) exit 1;; esac\n")
    engine = look(folder).engine
    assert (engine.said, engine.cdi_folders, engine.runtimes) == (why, [], [])
