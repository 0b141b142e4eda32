"""`vllm/vllm-openai` as the stand-in registry serves it: our stand-in of vLLM on the Python image, in each release."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

REPOSITORY = "vllm/vllm-openai"
PROGRAM = Path(__file__).resolve().parent / "trees" / "vllm" / "vllm_standin.py"
# What each release's own `vllm serve` takes; its first key says where that is from.
ARGUMENTS = Path(__file__).resolve().parent / "vllm_arguments.json"
_FOLDER = "opt/vllm"
_START = f'#!/bin/sh\nexec python3 /{_FOLDER}/vllm_standin.py "$@"\n'
# The entrypoints of the real images.
_ENTRYPOINTS = {"v0.9.2": ["python3", "-m", "vllm.entrypoints.openai.api_server"], "v0.32.0": ["vllm", "serve"]}


def releases() -> list[str]:
    """The releases that there are images of."""
    return list(_ENTRYPOINTS)


def files(release: str) -> dict[str, bytes | tuple[bytes, int]]:
    """path -> content, or content and mode, of what lies on top of the Python image."""
    return {
        "usr/local/bin/vllm": (_START.encode(), 0o755),
        f"{_FOLDER}/vllm_standin.py": PROGRAM.read_bytes(),
        f"{_FOLDER}/arguments.json": ARGUMENTS.read_bytes(),
        f"{_FOLDER}/release": release.encode(),
    }


def config(release: str) -> dict[str, Any]:
    """The image's run configuration."""
    assert release in json.loads(ARGUMENTS.read_text())
    return {"Entrypoint": _ENTRYPOINTS[release], "Cmd": None, "Env": []}
