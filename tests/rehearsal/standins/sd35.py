"""What `files/sd35/Dockerfile` is built on in a rehearsal: the Python image with stand-ins of torch, diffusers,
transformers and NVML. Of the lock everything else is installed, from the index and by its hashes."""

from __future__ import annotations

from pathlib import Path

from .comfyui import TORCH_CUDA

REPOSITORY, TAG = "library/python", "3.12.11-sd35-standin"
BASE_IMAGE = f"docker.io/{REPOSITORY}:{TAG}"
TREE = Path(__file__).resolve().parent / "trees" / "sd35"
# Where every Python of the image finds modules, those of a venv, too.
_LIBRARY = "usr/lib/python3.11"


def files() -> dict[str, bytes | tuple[bytes, int]]:
    """path -> content of what lies on top of the Python image."""
    found: dict[str, bytes | tuple[bytes, int]] = {
        f"{_LIBRARY}/{path.relative_to(TREE)}": path.read_bytes() for path in sorted(TREE.rglob("*.py"))
    }
    return found | {f"{_LIBRARY}/torch/cuda.py": f"{TORCH_CUDA}{_EMPTY_CACHE}".encode()}


_EMPTY_CACHE = "\n\ndef empty_cache() -> None:\n    pass\n"
