"""A pinned ComfyUI install: its spec, its folder, and whether it is there. Pure, but for the installer's text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from gpuhost.catalog.types import ComfyUI
from gpuhost.plan.change import Change, Resource
from gpuhost.plan.spec import digest, project_file

INSTALLER = "files/install_comfyui.sh"
MODEL_PATHS = "extra_model_paths.yaml.j2"
STAMP = ".gpuhost/installed.json"


def spec_hash(install: ComfyUI, image_hash: str) -> str:
    """Of everything that makes the install what it is: the entry, the image that runs it, the installer."""
    return digest({"install": install.model_dump(), "image": image_hash, "installer": project_file(INSTALLER)})


def folder(install: ComfyUI, spec: str) -> str:
    """The folder's name: installs live side by side, so that a rollback finds its own."""
    return f"{install.version}-{spec[:12]}"


def environment(install: ComfyUI, spec: str) -> dict[str, str]:
    """What the installer reads from its environment; nothing secret."""
    found = {
        "INSTALL_SPEC": spec,
        "COMFYUI_URL": install.source.url,
        "COMFYUI_REF": install.source.ref,
        "TORCH_INDEX_URL": install.torch_index_url,
        "TORCH_PACKAGES": " ".join(install.torch_packages),
        "AUTH": "1" if install.login else "0",
    }
    if install.login:
        found |= {"LOGIN_URL": install.login.url, "LOGIN_REF": install.login.ref}
    if install.extra_requirements:
        found["EXTRA_REQUIREMENTS"] = "\n".join(install.extra_requirements)
    if install.extra_nodes:
        found["EXTRA_NODES"] = "\n".join(f"{name} {node.url} {node.ref}" for name, node in install.extra_nodes.items())
    return found


def installed_spec(stamp: str | None) -> str | None:
    """The spec that a stamp names; None when there is none, or it cannot be read."""
    try:
        value: Mapping[str, Any] = json.loads(stamp or "")
        return str(value["spec"])
    except (ValueError, KeyError, TypeError):
        return None


def reconcile(path: str, spec: str, stamp: str | None) -> list[Change]:
    """Install when the stamp is not the spec's."""
    found = installed_spec(stamp)
    if found == spec:
        return []
    return [
        Change(
            "comfyui",
            Resource("install", path),
            "install",
            "not installed, or not finished" if found is None else "the spec changed",
        )
    ]
