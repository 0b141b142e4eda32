"""A small catalogue of its own, so that these tests say nothing about what group_data/ happens to hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gpuhost.catalog.types import Catalog, load
from gpuhost.errors import Problem, UserError
from gpuhost.host.facts import Gpu, HostReading
from gpuhost.run.host_run import HostRun
from gpuhost.secrets.store import SecretStore
from gpuhost.services.placement import place

ABSENT = object()  # given as a value: the field is taken out

_HEALTH_TIMES = {"interval_s": 10, "timeout_s": 5, "retries": 3, "start_budget_s": 60}
_HEALTH = {**_HEALTH_TIMES, "command": ["true"]}
_REPOSITORY = {"url": "https://apt.example/{os}", "suites": "{suite}", "key_url": "https://apt.example/key"}
_DATA: dict[str, Any] = {
    "engine_source": "docker",
    "engine_packages": {"docker": ["docker-ce"], "debian": ["docker.io"], "ubuntu": ["docker.io"]},
    "engine_config": {"features": {"cdi": True}},
    "apt_repositories": {"docker": _REPOSITORY, "nvidia": _REPOSITORY},
    "apt_key_fingerprints": {"docker": "A" * 40, "nvidia": "B" * 40},
    "nvidia_toolkit_version": "1.20.0-1",
    "base_packages": ["curl"],
    "data_root": "/data",
    "tools_root": "/opt/tools",
    "state_root": "/var/lib/state",
    "disk_min_free_gib": 5.0,
    "memory_min_gib": 2.0,
    "account": {"name": "svc", "uid": 10001, "gid": 10001},
    "networks": {"inner": {"subnet": "172.20.0.0/16"}},
    "secrets_dir": "secrets",
    "secrets": {
        "GIVEN": {"aliases": ["GIVEN_TOO"]},
        "LABEL_HMAC_KEY": {"generate": "token"},
        "API_TOKEN": {"generate": "token"},
        "LOGIN_USER": {"generate": "username"},
        "LOGIN_PASSWORD": {"generate": "password"},
        "LOGIN_HASH": {"generate": "bcrypt", "derive_from": "LOGIN_PASSWORD"},
    },
    "images": {
        "api": {"build": "orchestrator", "args": {"BASE_IMAGE": "docker.io/library/python:3.12.11"}},
        "painter": {"build": "comfyui"},
        "pulled": {"pull": "docker.io/acme/server:v1.2.3"},
    },
    "models": {
        "vae": {
            "repo": "Acme/Models",
            "allow": ["split/vae/one.safetensors"],
            "links": {"split/vae/one.safetensors": "vae/one.safetensors"},
        }
    },
    "installs": {
        "tree": {
            "version": "v0.3.64",
            "script": "install_comfyui.sh",
            "image": "painter",
            "environment": {"SOURCE_URL": "https://git.example/tree.git", "SOURCE_REF": "c" * 40},
        }
    },
    "services": {
        "api": {
            "stack": "front",
            "image": "api",
            "template": "orchestrator.yml.j2",
            "account": {"name": "svc-api", "uid": 10002, "gid": 10002},
            "port": 9001,
            "container_port": 8193,
            "network": "inner",
            "memory": "2g",
            "cpus": 2,
            "all_gpus": True,
            "controls_services": True,
            "secrets": ["API_TOKEN"],
            "auth": {"token": "API_TOKEN", "locked_paths": ["/services"], "open_paths": ["/health"]},
            "health": _HEALTH,
            "probes": [{"name": "works", "path": "/health", "json_has": {"status": "ok"}}],
            "start_order": 10,
        },
        "painter": {
            "stack": "paint",
            "image": "painter",
            "template": "comfyui.yml.j2",
            "account": {"name": "svc-painter", "uid": 10003, "gid": 10003},
            "port": 9002,
            "container_port": 8188,
            "network": "inner",
            "memory": "28g",
            "cpus": 4,
            "shm": "16g",
            "gpu": {"count": 1},
            "install": "tree",
            "folders": ["nodes"],
            "seeds": {"session-key.txt": {"text": "{random_key},{now}", "renew_with": "LOGIN_HASH"}},
            "config_files": {"extra_model_paths.yaml": "extra_model_paths.yaml.j2"},
            "models": ["vae"],
            "auth": {
                "token": "LOGIN_HASH",
                "token_parameter": "token",
                "locked_paths": ["/system_stats"],
                "open_paths": ["/login"],
            },
            "secret_files": {"PASSWORD": "{LOGIN_HASH}\n{LOGIN_USER}\n"},
            "health": {**_HEALTH_TIMES, "path": "/system_stats"},
            "probes": [{"name": "draws", "path": "/system_stats", "contains": "version"}],
            "start_order": 50,
        },
    },
    "enabled_services": ["painter", "api"],
    "verify_window_s": 5.0,
}

GPU = Gpu("GPU-00000000-1111-2222-3333-444444444444", "NVIDIA H200", 143771, 143156, "580.159.04")
SMALL_GPU = Gpu("GPU-99999999-1111-2222-3333-444444444444", "NVIDIA L4", 23034, 22000, "580.159.04")


def data(changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """A valid host's data; `changes`: dotted path -> another value, or ABSENT."""
    made: dict[str, Any] = json.loads(json.dumps(_DATA))  # no dict shared between two entries
    for path, value in (changes or {}).items():
        *folders, last = path.split(".")
        inner: Any = made
        for folder in folders:
            inner = inner[int(folder)] if isinstance(inner, list) else inner[folder]
        if value is ABSENT:
            del inner[last]
        else:
            inner[last] = value
    return made


def catalog(changes: dict[str, Any] | None = None) -> Catalog:
    """The same, validated."""
    return load(data(changes))


def problems(changes: dict[str, Any]) -> list[Problem]:
    """What a changed catalogue is refused for."""
    try:
        catalog(changes)
    except UserError as error:
        return list(error.problems)
    return []


def reading(**over: Any) -> HostReading:
    """A host with nothing wrong."""
    found = HostReading(
        os={"ID": "debian", "VERSION_ID": "13", "VERSION_CODENAME": "trixie", "PRETTY_NAME": "Debian GNU/Linux 13"},
        arch="x86_64",
        init="systemd",
        cpus=8,
        memory_kib=64 * 1024 * 1024,
        disk_kib={"/data": 500 * 1024 * 1024},
        mounts={"/", "/data"},
        nvidia_pci=1,
        gpus=[GPU],
    )
    for name, value in over.items():
        setattr(found, name, value)
    return found


def run(changes: dict[str, Any] | None = None, secrets: dict[str, str] | None = None, **over: Any) -> HostRun:
    """A host's run; `secrets`: what the environment holds."""
    wanted, seen = catalog(changes), reading(**over)
    return HostRun(wanted, seen, place(wanted.enabled(), seen.gpus), SecretStore(wanted, "host", secrets or {}))


def write_group_data(folder: Path, values: dict[str, Any]) -> None:
    """Write `<folder>/group_data/<group>.py` for each group -> names of `values`."""
    for group, names in values.items():
        path = folder / "group_data" / f"{group}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{name} = {value!r}\n" for name, value in names.items()))
