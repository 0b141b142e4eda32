# ruff: noqa: PTH100, PTH103, PTH113, PTH118, PTH119, PTH122, PTH123, PTH208
# Paths are str here, as in the real one.
"""The few built-in nodes, and custom nodes: one whose import fails is logged and skipped, and ComfyUI serves on."""

import importlib.util
import logging
import os
import struct
import sys
import traceback
import zlib
from typing import Any

import folder_paths

LOADED_MODULE_DIRS: dict[str, str] = {}
NODE_CLASS_MAPPINGS: dict[str, Any] = {}


def png(width: int, height: int, rgb: int) -> bytes:
    """A picture of one colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    line = b"\0" + rgb.to_bytes(3, "big") * width
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(line * height)) + chunk(b"IEND", b"")
    )


class EmptyImage:
    """A picture of one colour."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        size = ["INT", {"default": 512, "min": 1, "max": 16384}]
        colour = ["INT", {"default": 0, "min": 0, "max": 0xFFFFFF}]
        return {"required": {"width": size, "height": size, "batch_size": ["INT", {"default": 1}], "color": colour}}

    def run(self, width: int, height: int, batch_size: int, color: int) -> list[bytes]:
        return [png(width, height, color)] * batch_size


class SaveImage:
    """Writes PNG files into the output folder."""

    OUTPUT_NODE = True
    FOLDER, TYPE = folder_paths.output_directory, "output"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"images": ["IMAGE"], "filename_prefix": ["STRING", {"default": "ComfyUI"}]}}

    def run(self, images: list[bytes], filename_prefix: str = "ComfyUI") -> list[dict[str, str]]:
        os.makedirs(self.FOLDER, exist_ok=True)
        saved = []
        for picture in images:
            number = 1 + sum(name.startswith(filename_prefix + "_") for name in os.listdir(self.FOLDER))
            name = f"{filename_prefix}_{number:05}_.png"
            with open(os.path.join(self.FOLDER, name), "wb") as file:
                file.write(picture)
            saved.append({"filename": name, "subfolder": "", "type": self.TYPE})
        return saved


class PreviewImage(SaveImage):
    """The same into the temp folder."""

    FOLDER, TYPE = folder_paths.temp_directory, "temp"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"images": ["IMAGE"]}}


def loader(**inputs: str) -> type:
    """A node that names model files: its choices are what lies in the folders, as with the real loaders."""

    class Loader:
        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            return {"required": {name: [folder_paths.get_filename_list(kind)] for name, kind in inputs.items()}}

        def run(self, **names: str) -> tuple[str, ...]:
            return tuple(names.values())

    return Loader


NODE_CLASS_MAPPINGS.update(
    EmptyImage=EmptyImage,
    SaveImage=SaveImage,
    PreviewImage=PreviewImage,
    CheckpointLoaderSimple=loader(ckpt_name="checkpoints"),
    UNETLoader=loader(unet_name="diffusion_models"),
    VAELoader=loader(vae_name="vae"),
    CLIPLoader=loader(clip_name="text_encoders"),
    DualCLIPLoader=loader(clip_name1="text_encoders", clip_name2="text_encoders"),
)


def load_custom_node(module_path: str) -> bool:
    """Import one custom node; False, and a warning in the log, when that fails."""
    file = module_path if os.path.isfile(module_path) else os.path.join(module_path, "__init__.py")
    name = os.path.splitext(module_path)[0] if file == module_path else module_path.replace(".", "_x_")
    try:
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        LOADED_MODULE_DIRS[os.path.basename(module_path)] = os.path.abspath(module_path)
        NODE_CLASS_MAPPINGS.update(module.NODE_CLASS_MAPPINGS)
        return True
    except Exception as error:
        logging.warning(traceback.format_exc())
        logging.warning("Cannot import %s module for custom nodes: %s", module_path, error)
        return False


def init_external_custom_nodes() -> None:
    """Load every custom node of every custom_nodes folder, in the order of the directory."""
    logging.info("\nImport times for custom nodes:")
    for folder in folder_paths.folder_names_and_paths["custom_nodes"]:
        for name in os.listdir(os.path.realpath(folder)):
            path = os.path.join(folder, name)
            if name == "__pycache__" or name.endswith(".disabled"):
                continue
            if os.path.isfile(path) and not name.endswith(".py"):
                continue
            failed = "" if load_custom_node(path) else " (IMPORT FAILED)"
            logging.info("   0.0 seconds%s: %s", failed, path)
