"""The project's own files: what is shipped to hosts as it is, and what is rendered for them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
_LEFTOVERS = {"__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache"}


@dataclass(frozen=True)
class ProjectFile:
    """A file as it is shipped. `text`: bytes that are no UTF-8 stand in it as surrogates (`surrogateescape`); `mode`:
    755 for what may be executed here, else 644."""

    text: str
    mode: str


@functools.cache  # one run speaks of one state of the project, whatever an editor does meanwhile
def folder(path: Path) -> Mapping[str, ProjectFile]:
    """relative path -> every file below a folder of the project, in order; what tools leave is left out."""
    files = (file for file in path.rglob("*") if file.is_file() and not _LEFTOVERS & set(file.parts))
    return {str(file.relative_to(path)): _read(file) for file in sorted(files)}


@functools.cache
def project_file(path: str) -> str:
    """The text of a file of the project."""
    return _read(PROJECT / path).text


def apt_key(fingerprint: str) -> str | None:
    """The armored key that is shipped under this fingerprint; None where none is: it is fetched then."""
    name = f"files/apt-keys/{fingerprint}.asc"
    return project_file(name) if (PROJECT / name).is_file() else None


def _read(file: Path) -> ProjectFile:
    executable = file.stat().st_mode & 0o100
    return ProjectFile(file.read_bytes().decode("utf-8", "surrogateescape"), "755" if executable else "644")


def context(image: str) -> Mapping[str, ProjectFile]:
    """The build context of an image: `files/<image>/`."""
    return folder(PROJECT / "files" / image)
