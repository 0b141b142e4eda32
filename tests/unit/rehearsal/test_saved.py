"""When a saved host is another one: whatever decides how a host becomes is part of its key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.rehearsal.world import saved
from tests.rehearsal.world.cache import digest
from tests.rehearsal.world.machine import PROJECT


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout in small."""
    for name in saved.MAKERS:
        path = tmp_path / name / "file" if (PROJECT / name).is_dir() else tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    monkeypatch.setattr(saved, "PROJECT", tmp_path)
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize("maker", saved.MAKERS)
def test_every_maker_counts(tree: Path, maker: str) -> None:
    before = digest(*saved.makers())
    path = tree / maker / "file" if (tree / maker).is_dir() else tree / maker
    path.write_text("another text")
    assert digest(*saved.makers()) != before


CHANGES: dict[str, tuple[Callable[[Path], object], bool]] = {
    "a new file deep inside": (lambda tree: write(tree / "files/host/deep/new", ""), True),
    "a mode": (lambda tree: (tree / "files/file").chmod(0o755), True),
    "another name": (lambda tree: (tree / "tasks/file").rename(tree / "tasks/other"), True),
    "bytecode": (lambda tree: write(tree / "gpuhost/__pycache__/x.pyc", "x"), False),
    "a scenario": (lambda tree: write(tree / "tests/rehearsal/scenarios/test_new.py", "x"), False),
    "a document": (lambda tree: write(tree / "README.md", "x"), False),
}


@pytest.mark.parametrize(("change", "counts"), CHANGES.values(), ids=CHANGES)
def test_what_counts_and_what_does_not(tree: Path, change: Callable[[Path], None], counts: bool) -> None:
    before = digest(*saved.makers())
    change(tree)
    assert (digest(*saved.makers()) != before) is counts


def test_every_maker_is_there() -> None:
    assert [name for name in saved.MAKERS if not (PROJECT / name).exists()] == []
