"""Small repositories and wheels in the place of ComfyUI, ComfyUI-Login and PyTorch, for the installer.

The repositories keep the real protocol (see the sources below trees/); the same options always give the same
commits. What breaks on demand is part of a repository's content, so it has a commit of its own.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Literal

from ..world.run import run

TREES = Path(__file__).resolve().parent / "trees"
TAG = "v0.3.64"
TORCH_PACKAGES = "torch==2.8.0 torchvision==0.23.0 torchaudio==2.8.0"
CUDA = "12.8"
_EPOCH = (1980, 1, 1, 0, 0, 0)
_GIT_ENV = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_AUTHOR_NAME": "gpuhost rehearsal",
    "GIT_AUTHOR_EMAIL": "rehearsal@rehearsal.invalid",
    "GIT_AUTHOR_DATE": "2025-10-08T05:00:00+0000",
    "GIT_COMMITTER_NAME": "gpuhost rehearsal",
    "GIT_COMMITTER_EMAIL": "rehearsal@rehearsal.invalid",
    "GIT_COMMITTER_DATE": "2025-10-08T05:00:00+0000",
}


def _bare_repository(tree: Path, bare: Path, tag: str | None) -> str:
    """A bare repository with one commit that holds `tree`; returns the commit (40 hex digits)."""
    shutil.rmtree(bare, ignore_errors=True)
    bare.parent.mkdir(parents=True, exist_ok=True)
    git = ["git", "-c", "core.autocrlf=false", f"--git-dir={bare}"]
    run([*git, "init", "-q", "--bare", "-b", "master"], env=_GIT_ENV)
    run([*git, f"--work-tree={tree}", "add", "--all", "."], env=_GIT_ENV, cwd=tree)
    run([*git, f"--work-tree={tree}", "commit", "-q", "-m", "stand-in"], env=_GIT_ENV, cwd=tree)
    if tag:
        run([*git, "tag", tag], env=_GIT_ENV)
    return run([*git, "rev-parse", "HEAD"], env=_GIT_ENV).stdout.strip()


def make_comfyui_repo(bare: Path, *, slow_s: float = 0, broken: bool = False) -> str:
    """Make `bare` a ComfyUI with tag v0.3.64; returns its commit.

    `slow_s`: its start takes so long; `broken`: its start fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(TREES / "ComfyUI", tree, ignore=shutil.ignore_patterns("__pycache__"))
        main = (tree / "main.py").read_text().replace("START_DELAY_S = 0.0", f"START_DELAY_S = {float(slow_s)}")
        (tree / "main.py").write_text("import nothing_of_this_name\n" + main if broken else main)
        return _bare_repository(tree, bare, TAG)


def make_login_repo(bare: Path, *, import_error: Literal["early", "late"] | None = None) -> str:
    """Make `bare` a ComfyUI-Login; returns its commit.

    `import_error`: "early", before anything is registered (a missing dependency); "late", after the routes and
    before the middleware, so that there is a login page and no login.
    """
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(TREES / "ComfyUI-Login", tree, ignore=shutil.ignore_patterns("__pycache__"))
        code = (tree / "password.py").read_text()
        if import_error == "early":
            code = code.replace("import bcrypt\n", "import bcrypt\nimport nothing_of_this_name\n")
        elif import_error == "late":
            code = code.replace("\n@web.middleware\n", '\nraise RuntimeError("late")\n\n@web.middleware\n')
        (tree / "password.py").write_text(code)
        return _bare_repository(tree, bare, None)


def make_node_repo(bare: Path, *, import_error: bool = False) -> str:
    """Make `bare` a custom node with one node class, StandInNode; returns its commit."""
    with tempfile.TemporaryDirectory() as folder:
        code = "import nothing_of_this_name\n" if import_error else ""
        code += (
            "class StandInNode:\n    @classmethod\n    def INPUT_TYPES(cls):\n        return {'required': {}}\n\n\n"
            "NODE_CLASS_MAPPINGS = {'StandInNode': StandInNode}\n"
        )
        (Path(folder) / "__init__.py").write_text(code)
        (Path(folder) / "requirements.txt").write_text("pyyaml\n")
        return _bare_repository(Path(folder), bare, None)


TORCH = '''"""Stand-in for PyTorch: enough to be imported, asked and proved."""

import os

from . import cuda, version

__version__ = version.__version__


def device(name: str) -> str:
    return name
'''
TORCH_CUDA = '''"""A GPU is there when the container got its device, or the stand-in toolkit's file of one."""

import glob
import os


def is_available() -> bool:
    return device_count() > 0


def device_count() -> int:
    return len(glob.glob("/usr/lib/nvidia-standin/*.gpu")) or int(os.path.exists("/dev/nvidiactl"))


def get_device_name(index: int = 0) -> str:
    return "NVIDIA stand-in"
'''


def build_torch_wheels(folder: Path, packages: str = TORCH_PACKAGES, *, cuda: str = CUDA, files: int = 400) -> None:
    """Write wheels for "torch==2.8.0 ..." into `folder`, named and versioned as on PyTorch's index (2.8.0+cu128).

    `files` small files go into torch, so that installing it takes a while, as the real one does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    local = "cu" + cuda.replace(".", "")
    pins = dict(pin.split("==") for pin in packages.split())
    for name, version in pins.items():
        full = f"{version}+{local}"
        content = {f"{name}/__init__.py": f'__version__ = "{full}"\nimport torch\n'}
        requires = [] if name == "torch" else [f"torch=={pins['torch']}"]
        if name == "torch":
            content = {
                "torch/__init__.py": TORCH,
                "torch/cuda.py": TORCH_CUDA,
                "torch/version.py": f'__version__ = "{full}"\ncuda = "{cuda}"\n',
                **{f"torch/lib/part_{number:04}.py": f"PART = {number}\n" for number in range(files)},
            }
        _wheel(folder, name, full, content, requires)


def _wheel(folder: Path, name: str, version: str, content: dict[str, str], requires: list[str]) -> None:
    info = f"{name}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {requirement}\n" for requirement in requires)
    files = {
        **content,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: rehearsal\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},{_sha256(text)},{len(text.encode())}\n" for path, text in files.items())
    files[f"{info}/RECORD"] = record + f"{info}/RECORD,,\n"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        for path, text in files.items():
            wheel.writestr(zipfile.ZipInfo(path, _EPOCH), text)


def _sha256(text: str) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
