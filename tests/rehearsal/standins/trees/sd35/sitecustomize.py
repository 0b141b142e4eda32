"""When pip is about to install the lock of files/sd35, what is large and has a stand-in here is taken out of it."""

import re
import sys
from pathlib import Path

LARGE = r"(accelerate|cuda-.*|diffusers|mpmath|networkx|numpy|nvidia-.*|pillow|regex|safetensors|sentencepiece|setuptools|sympy|tokenizers|torch|transformers|triton)"  # noqa: E501


def lighter(lock: str) -> str:
    """The lock without the large ones: an entry is a line at the margin and the indented ones behind it."""
    entries = re.split(r"(?m)^(?=[A-Za-z0-9])", lock)
    return "".join(entry for entry in entries if not re.match(rf"{LARGE}==", entry))


if "--require-hashes" in sys.orig_argv:
    file = Path(sys.orig_argv[sys.orig_argv.index("-r") + 1])
    file.write_text(lighter(file.read_text()))
