# ruff: noqa: PTH100, PTH103, PTH118, PTH119, PTH120
# Paths are str here, as in the real one.
"""Which folders hold what; `--base-directory` moves all of them, the tree's own custom_nodes included."""

import contextlib
import os

from comfy.cli_args import args

base_path = os.path.abspath(args.base_directory or os.path.dirname(os.path.realpath(__file__)))
models_dir = os.path.join(base_path, "models")
KINDS = [
    *("checkpoints", "configs", "loras", "vae", "text_encoders", "diffusion_models", "clip_vision"),
    *("style_models", "embeddings", "controlnet", "upscale_models", "vae_approx"),
]
LEGACY = {"unet": "diffusion_models", "clip": "text_encoders"}
folder_names_and_paths: dict[str, list[str]] = {kind: [os.path.join(models_dir, kind)] for kind in KINDS}
folder_names_and_paths["custom_nodes"] = [os.path.join(base_path, "custom_nodes")]

output_directory = os.path.abspath(args.output_directory or os.path.join(base_path, "output"))
input_directory = os.path.abspath(args.input_directory or os.path.join(base_path, "input"))
temp_directory = os.path.join(args.temp_directory or base_path, "temp")
user_directory = os.path.abspath(args.user_directory or os.path.join(base_path, "user"))

with contextlib.suppress(OSError):
    os.makedirs(input_directory, exist_ok=True)


def add_model_folder_path(kind: str, path: str, is_default: bool = False) -> None:
    """Add a search path, first when `is_default`."""
    paths = folder_names_and_paths.setdefault(LEGACY.get(kind, kind), [])
    if path not in paths:
        paths.insert(0 if is_default else len(paths), path)


def get_filename_list(kind: str) -> list[str]:
    """The files of a kind, relative to their folders."""
    found = set()
    for folder in folder_names_and_paths[LEGACY.get(kind, kind)]:
        for where, _, files in os.walk(folder, followlinks=True):
            found.update(os.path.relpath(os.path.join(where, name), folder) for name in files)
    return sorted(name for name in found if not os.path.basename(name).startswith("."))
