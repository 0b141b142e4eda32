"""What the product's own data names, as content of the stand-ins: repositories, wheels, model files.

The product's `group_data/all.py` is used as it is. Only what a stand-in cannot have is written over it: commits.
"""

from __future__ import annotations

import copy
import runpy
from typing import Any

from ..standins import vllm
from ..standins.comfyui import build_torch_wheels, make_comfyui_repo, make_login_repo
from .machine import PROJECT
from .world import World

COMFYUI_REPO = "comfyanonymous/ComfyUI"
LOGIN_REPO = "liusida/ComfyUI-Login"


def group_data() -> dict[str, Any]:
    """The product's own data for every host."""
    return {
        key: copy.deepcopy(value)
        for key, value in runpy.run_path(str(PROJECT / "group_data" / "all.py")).items()
        if not key.startswith("_")
    }


def furnish(world: World) -> None:
    """Fill the stand-ins so that the product's default catalogue can be deployed."""
    data = group_data()
    installs = data["installs"]
    commit = make_comfyui_repo(world.git_root / f"{COMFYUI_REPO}.git")
    login = make_login_repo(world.git_root / f"{LOGIN_REPO}.git")
    for install in installs.values():
        # The stand-in does not import transformers.
        install["environment"] |= {"COMFYUI_REF": commit, "LOGIN_REF": login, "EXTRA_REQUIREMENTS": ""}
    world.data_overrides["installs"] = installs
    build_torch_wheels(world.torch_wheels)
    files: dict[str, dict[str, bytes]] = {}
    for name, model in data["models"].items():
        # What a whole repository holds, nobody here knows: two files, one of them in a folder.
        named = [*model.get("links", {})] or ["config.json", "folder of weights/model.safetensors"]
        for file in named:
            files.setdefault(model["repo"], {})[file] = f"weights of {name}\n".encode() * 4096
    for repo, content in files.items():
        world.hub_add(repo, dict(content))
    for release in vllm.releases():
        world.registry_add_on_python(f"{vllm.REPOSITORY}:{release}", vllm.files(release), vllm.config(release))
