"""What the product's own data names, as content of the stand-ins: repositories, wheels, model files.

The product's `group_data/all.py` is used as it is. Only what a stand-in cannot have is written over it: commits.
"""

from __future__ import annotations

import copy
import runpy
from typing import Any

from ..standins import sd35, vllm
from ..standins.comfyui import build_torch_wheels, make_comfyui_repo, make_login_repo
from .machine import PROJECT
from .world import World

# What a rehearsal's site enables where it does not say otherwise: little, for each service costs seconds.
ENABLED = ["orchestrator", "comfyui-qwen"]
COMFYUI_REPO = "comfyanonymous/ComfyUI"
LOGIN_REPO = "liusida/ComfyUI-Login"


def group_data() -> dict[str, Any]:
    """The product's own data for every host."""
    return {
        key: copy.deepcopy(value)
        for key, value in runpy.run_path(str(PROJECT / "group_data" / "all.py")).items()
        if not key.startswith("_")
    }


def names_of(model: dict[str, Any]) -> list[str]:
    """The files of a model's repository, as far as a service needs them: those that are linked, or of a pipeline's
    folders one; of any other repository nobody here knows: two files, one of them in a folder."""
    if linked := [*model.get("links", {})]:
        return linked
    if "model_index.json" in model.get("allow", ()):
        return ["model_index.json", "transformer/model.safetensors"]
    return ["config.json", "folder of weights/model.safetensors"]


def weights(name: str) -> bytes:
    """What every file of a model holds."""
    return f"weights of {name}\n".encode() * 4096


def furnish(world: World) -> None:
    """Fill the stand-ins so that the product's default catalogue can be deployed."""
    data = group_data()
    installs = data["installs"]
    commit = make_comfyui_repo(world.git_root / f"{COMFYUI_REPO}.git")
    login = make_login_repo(world.git_root / f"{LOGIN_REPO}.git")
    for install in installs.values():
        # The stand-in does not import transformers.
        install["environment"] |= {"COMFYUI_REF": commit, "LOGIN_REF": login, "EXTRA_REQUIREMENTS": ""}
    world.data_overrides |= {"installs": installs, "enabled_services": ENABLED}
    build_torch_wheels(world.torch_wheels)
    files: dict[str, dict[str, bytes]] = {}
    for name, model in data["models"].items():
        for file in names_of(model):
            files.setdefault(model["repo"], {})[file] = weights(name)
    for repo, content in files.items():
        world.hub_add(repo, dict(content))
    world.registry_add_on_python(f"{sd35.REPOSITORY}:{sd35.TAG}", sd35.files())
    for release in vllm.releases():
        world.registry_add_on_python(f"{vllm.REPOSITORY}:{release}", vllm.files(release), vllm.config(release))
