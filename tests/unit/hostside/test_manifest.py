"""What is known of models on a host: read as far as it can be, written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hostside.models import manifest
from hostside.protocol.models import Manifest


def test_it_is_written_for_all_to_read_in_a_folder_that_is_made(tmp_path: Path) -> None:
    path = tmp_path / "models/of/one/manifest.json"
    before = os.umask(0o077)
    try:
        manifest.save(path, Manifest())
        manifest.save(path, Manifest())
    finally:
        os.umask(before)
    assert manifest.load(path) == Manifest() and path.read_text().endswith("}\n")
    assert path.stat().st_mode & 0o777 == 0o644 and [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("text", [None, "", "[]", "{", '{"files": 3}'])
def test_one_that_cannot_be_read_says_nothing(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "manifest.json"
    if text is not None:
        path.write_text(text)
    assert manifest.load(path) == Manifest()


def test_nor_does_what_is_no_plain_file(tmp_path: Path) -> None:
    (tmp_path / "kept.json").write_text("{}")
    (tmp_path / "manifest.json").symlink_to("kept.json")
    assert manifest.load(tmp_path / "manifest.json") == Manifest()


def test_where_it_cannot_be_replaced_nothing_is_left_behind(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(OSError):
        manifest.save(tmp_path / "manifest.json", Manifest())
    assert [each.name for each in tmp_path.iterdir()] == ["manifest.json"]
