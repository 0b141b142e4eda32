"""Specs and their hashes: what a thing is made from, so that a stamp tells whether it is still that. Pure, but for
reading the project's own files."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_LEFTOVERS = {"__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache"}
PROJECT = Path(__file__).resolve().parents[2]


def digest(spec: Any) -> str:
    """sha256 (hex) of a JSON-able spec, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(spec, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


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


def image_hash(image: str, args: Mapping[str, str]) -> str:
    """The spec hash of a built image: its context and its build arguments, not its id."""
    return digest({"context": dict(context(image)), "args": dict(args)})
