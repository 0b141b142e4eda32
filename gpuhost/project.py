"""The project's own files: what is shipped to hosts as it is, and what is rendered for them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
_LEFTOVERS = {"__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache"}


@functools.cache  # one run speaks of one state of the project, whatever an editor does meanwhile
def folder(path: Path) -> Mapping[str, str]:
    """relative path -> text of every file below a folder of the project, in order; what tools leave is left out."""
    files = (file for file in path.rglob("*") if file.is_file() and not _LEFTOVERS & set(file.parts))
    return {str(file.relative_to(path)): file.read_text() for file in sorted(files)}


@functools.cache
def project_file(path: str) -> str:
    """The text of a file of the project."""
    return (PROJECT / path).read_text()


def context(image: str) -> Mapping[str, str]:
    """The build context of an image: `files/<image>/`."""
    return folder(PROJECT / "files" / image)
