"""The workflows that we ship: core nodes of ComfyUI alone, joined rightly, with the files of their service's models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import pytest
import yaml
from pyinfra.api.state import State

from gpuhost.catalog.inventory import Request, read
from gpuhost.catalog.types import Catalog
from gpuhost.project import PROJECT
from gpuhost.services.stacks import Stacks
from tests.unit import sample

SHIPPED = {path.stem: json.loads(path.read_text()) for path in sorted((PROJECT / "files" / "workflows").glob("*.json"))}

# class -> (input -> the type that a link to it has, "" for a value; `?`: may be left out), the types of its outputs.
# From ComfyUI 0.3.64 (nodes.py, comfy_extras).
NODES: dict[str, tuple[dict[str, str], list[str]]] = {
    "UNETLoader": ({"unet_name": "", "weight_dtype": ""}, ["MODEL"]),
    "CLIPLoader": ({"clip_name": "", "type": "", "device": "?"}, ["CLIP"]),
    "DualCLIPLoader": ({"clip_name1": "", "clip_name2": "", "type": "", "device": "?"}, ["CLIP"]),
    "VAELoader": ({"vae_name": ""}, ["VAE"]),
    "CLIPTextEncode": ({"text": "", "clip": "CLIP"}, ["CONDITIONING"]),
    "FluxGuidance": ({"conditioning": "CONDITIONING", "guidance": ""}, ["CONDITIONING"]),
    "ConditioningZeroOut": ({"conditioning": "CONDITIONING"}, ["CONDITIONING"]),
    "EmptySD3LatentImage": ({"width": "", "height": "", "batch_size": ""}, ["LATENT"]),
    "LoadImage": ({"image": ""}, ["IMAGE", "MASK"]),
    "ImageScaleToTotalPixels": ({"image": "IMAGE", "upscale_method": "", "megapixels": ""}, ["IMAGE"]),
    "TextEncodeQwenImageEditPlus": (
        {"clip": "CLIP", "prompt": "", "vae": "VAE?", "image1": "IMAGE?", "image2": "IMAGE?", "image3": "IMAGE?"},
        ["CONDITIONING"],
    ),
    "ModelSamplingAuraFlow": ({"model": "MODEL", "shift": ""}, ["MODEL"]),
    "CFGNorm": ({"model": "MODEL", "strength": ""}, ["MODEL"]),
    "VAEEncode": ({"pixels": "IMAGE", "vae": "VAE"}, ["LATENT"]),
    "VAEDecode": ({"samples": "LATENT", "vae": "VAE"}, ["IMAGE"]),
    "KSampler": (
        {
            **dict.fromkeys(("seed", "steps", "cfg", "sampler_name", "scheduler", "denoise"), ""),
            **{"model": "MODEL", "positive": "CONDITIONING", "negative": "CONDITIONING", "latent_image": "LATENT"},
        },
        ["LATENT"],
    ),
    "SaveImage": ({"images": "IMAGE", "filename_prefix": ""}, []),
}
# The input of a loader -> the folder of models that its choices are.
FOLDERS = {
    "unet_name": "diffusion_models",
    "vae_name": "vae",
    **dict.fromkeys(("clip_name", "clip_name1", "clip_name2"), "text_encoders"),
}


@pytest.fixture
def catalog(monkeypatch: pytest.MonkeyPatch, pyinfra_state: State) -> Catalog:
    monkeypatch.chdir(PROJECT)
    [shipped] = read(Request("inventory.py")).catalogs.values()
    return shipped


def faults(workflow: dict[str, Any]) -> Iterator[str]:
    """What ComfyUI would refuse of an API-format workflow."""
    for name, node in workflow.items():
        if node["class_type"] not in NODES:
            yield f"{name} is no core node"
            continue
        wanted, _ = NODES[node["class_type"]]
        needed = {key for key, kind in wanted.items() if not kind.endswith("?")}
        if not needed <= node["inputs"].keys() <= wanted.keys():
            yield f"{name} has other inputs"
        for key, value in node["inputs"].items():
            kind = wanted.get(key, "").rstrip("?")
            if isinstance(value, list) != bool(kind):
                yield f"{name}.{key} is no {kind or 'value'}"
            elif kind:
                source, output = value
                made = NODES.get(workflow.get(source, {}).get("class_type"), ({}, []))[1]
                if made[output : output + 1] != [kind]:
                    yield f"{name}.{key} is linked to no {kind}"


def files(workflow: dict[str, Any]) -> set[str]:
    """The model files that it names, as they lie below models/."""
    nodes = [node["inputs"] for node in workflow.values()]
    return {f"{folder}/{node[key]}" for node in nodes for key, folder in FOLDERS.items() if key in node}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_workflow_is_of_core_nodes_that_are_joined_rightly_and_ends_in_a_picture(name: str) -> None:
    assert list(faults(SHIPPED[name])) == []
    assert [node for node in SHIPPED[name].values() if node["class_type"] == "SaveImage"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"10": {"class_type": "SaveImage", "inputs": {"filename_prefix": "a", "images": ["8", 0]}}}, "no IMAGE"),
        ({"10": {"class_type": "SaveImage", "inputs": {"filename_prefix": "a", "images": ["99", 0]}}}, "no IMAGE"),
        ({"10": {"class_type": "SaveImage", "inputs": {"filename_prefix": "a"}}}, "other inputs"),
        ({"11": {"class_type": "SomebodysNode", "inputs": {}}}, "no core node"),
    ],
)
def test_a_wrong_link_a_lacking_input_and_a_foreign_node_are_seen(change: dict[str, Any], said: str) -> None:
    assert any(said in fault for fault in faults({**SHIPPED["flux-1-dev"], **change}))


def test_each_service_ships_its_own_workflow_with_exactly_the_files_of_its_models(catalog: Catalog) -> None:
    shipping = {name: entry for name, entry in catalog.services.items() if entry.shipped_files}
    assert set(shipping) == set(SHIPPED) == {"flux-1-dev", "comfyui-qwen"}
    for name, entry in shipping.items():
        assert entry.shipped_files == {f"{name}.json": f"workflows/{name}.json"}
        links = [path for model in entry.models for path in catalog.models[model].links.values()]
        assert files(SHIPPED[name]) == set(links), name


def test_a_workflow_is_given_to_its_service_and_is_part_of_its_spec() -> None:
    """Read-only, beside its configuration; another workflow is another spec, so the container is made anew."""
    shipped = {"services.painter.shipped_files": {"mine.json": "workflows/flux-1-dev.json"}}
    stacks, bare = Stacks(sample.run(shipped)), Stacks(sample.run())
    path = f"{stacks.contexts['painter'].paths['config']}/mine.json"
    assert stacks.specs["painter"]["volumes"]["/config/workflows/mine.json"] == f"{path}:ro"
    [file] = [file for file in stacks.read_at_start("painter") if file.path == path]
    assert json.loads(file.content()) == SHIPPED["flux-1-dev"] and file.mode == "644"
    assert path in json.dumps(stacks.specs["painter"]) and path not in json.dumps(bare.specs["painter"])
    other = Stacks(sample.run({"services.painter.shipped_files": {"mine.json": "workflows/comfyui-qwen.json"}}))
    assert stacks.specs["painter"] != other.specs["painter"]


def test_every_folder_that_a_workflow_takes_models_from_is_named_to_comfyui() -> None:
    context = Stacks(sample.run()).contexts["painter"]
    known = yaml.safe_load(context.config_file("extra_model_paths.yaml.j2"))["gpuhost"]
    for workflow in SHIPPED.values():
        assert {PurePosixPath(path).parts[0] for path in files(workflow)} <= set(known.values())
