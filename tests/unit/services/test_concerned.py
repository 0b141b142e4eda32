"""Which services a change concerns: of those that we ship these are made anew, and no other."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyinfra.api.state import State

from gpuhost import project
from gpuhost.catalog.inventory import Request, read
from gpuhost.host.facts import Gpu
from gpuhost.project import PROJECT, ProjectFile
from gpuhost.run.host_run import HostRun
from gpuhost.secrets.store import SecretStore
from gpuhost.services.placement import place
from gpuhost.services.stacks import Stacks
from tests.unit import sample

COMFYUI = {"comfyui-qwen", "flux-1-dev", "comfyui-workflows"}
VLLM = {"qwen3-micro", "qwen3-mini", "qwen3-medium"}
Specs = dict[str, dict[str, Any]]


@pytest.fixture(autouse=True)
def _project(monkeypatch: pytest.MonkeyPatch, pyinfra_state: State) -> Iterator[None]:
    """The run's working directory; what it keeps of the project's files is read again by the next test."""
    monkeypatch.chdir(PROJECT)
    forget()
    yield
    forget()


def forget() -> None:
    project.folder.cache_clear()
    project.project_file.cache_clear()


def specs(data: dict[str, Any] | None = None, secrets: dict[str, str] | None = None) -> Specs:
    """service -> its spec, of all that we ship, on a host with a GPU for each that wants one."""
    [catalog] = read(Request("inventory.py", data=data or {})).catalogs.values()
    cards = [Gpu(f"GPU-{number}", "NVIDIA H200", 143771, 143156, "580") for number in range(8)]
    reading = sample.reading(gpus=cards)
    values = {name: f"value of {name}" for name in catalog.secrets} | (secrets or {})
    store = SecretStore(catalog, "host", values)
    found = dict(Stacks(HostRun(catalog, reading, place(catalog.enabled(), cards), store)).specs)
    assert len(found) == 8
    return found


@functools.cache
def as_shipped() -> Specs:
    """Without a change."""
    return specs()


def concerned(after: Specs) -> set[str]:
    """Those whose containers are made anew."""
    before = as_shipped()
    assert before.keys() == after.keys()
    return {name for name in before if before[name] != after[name]}


DATA: dict[str, tuple[dict[str, Any], set[str]]] = {
    "a port": ({"services": {"comfyui-qwen": {"port": 8288}}}, {"comfyui-qwen"}),
    "a limit": ({"services": {"qwen3-mini": {"memory": "30g"}}}, {"qwen3-mini"}),
    "an argument": ({"services": {"comfyui-workflows": {"arguments": ["--fast"]}}}, {"comfyui-workflows"}),
    "an option of one server's command line": (
        {"services": {"qwen3-micro": {"options": {"context": 32768}}}},
        {"qwen3-micro"},
    ),
    "the release of all servers": ({"images": {"vllm": {"pull": "docker.io/vllm/vllm-openai:v0.9.2"}}}, VLLM),
    "a variable": (
        {"services": {"stable-diffusion-35": {"environment": {"SD35_OFFLOAD": "none"}}}},
        {"stable-diffusion-35"},
    ),
    "the pin of what three share": ({"installs": {"comfyui": {"environment": {"COMFYUI_REF": "d" * 40}}}}, COMFYUI),
    "who starts first": ({"services": {"orchestrator": {"start_order": 99}}}, set()),
    "a network's addresses": ({"networks": {"flux-1-dev": {"subnet": "172.20.99.0/24"}}}, set()),
}


@pytest.mark.parametrize(("data", "services"), DATA.values(), ids=DATA)
def test_of_a_value_in_the_data(data: dict[str, Any], services: set[str]) -> None:
    assert concerned(specs(data)) == services


SECRETS = {
    "ORCHESTRATOR_TOKEN": {"orchestrator"},
    "VLLM_API_KEY_MINI": {"qwen3-mini"},
    "SD35_API_KEY": {"stable-diffusion-35"},
    "COMFYUI_PASSWORD_HASH": COMFYUI,
    "HF_TOKEN": set[str](),  # the fetch alone has it
}


@pytest.mark.parametrize(("secret", "services"), SECRETS.items(), ids=SECRETS)
def test_of_a_secret(secret: str, services: set[str]) -> None:
    assert concerned(specs(secrets={secret: "another"})) == services


FILES = {
    "workflows/flux-1-dev.json": {"flux-1-dev"},
    "workflows/comfyui-qwen.json": {"comfyui-qwen"},
    "install_comfyui.sh": COMFYUI,
    "comfyui/Dockerfile": COMFYUI,
    "sd35/sd35/jobs.py": {"stable-diffusion-35"},
    "orchestrator/requirements.lock": {"orchestrator"},
    "host/start_services.sh": set[str](),
}


@pytest.mark.parametrize(("file", "services"), FILES.items(), ids=FILES)
def test_of_a_shipped_file(monkeypatch: pytest.MonkeyPatch, file: str, services: set[str]) -> None:
    as_it_is, changed = project._read, PROJECT / "files" / file
    assert changed.is_file() and as_shipped()

    def edited(path: Path) -> ProjectFile:
        found = as_it_is(path)
        return ProjectFile(f"{found.text}\n", found.mode) if path == changed else found

    monkeypatch.setattr(project, "_read", edited)
    forget()
    assert concerned(specs()) == services
