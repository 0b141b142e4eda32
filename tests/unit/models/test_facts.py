"""Models as the file system of a host has them: the script runs here, under a plain sh."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from dataclasses import asdict
from pathlib import Path

import pytest
from gpuhost.models.former import Manifest, ManifestEntry

from gpuhost.models.facts import FileStat, ModelsReading, ModelsState
from tests.unit.hostile import make

ENTRY = ManifestEntry("o/m", "main", "a b.bin", "vae/a b.bin", "c" * 40, "/x", 7, 1, 2, "0" * 64)


def read(folder: Path, links: list[Path], files: list[tuple[str, str]]) -> ModelsReading:
    script = ModelsState().command(
        str(folder / "manifest.json"), str(folder / "hub"), [str(path) for path in links], files
    )
    done = subprocess.run(["sh"], input=script, capture_output=True, text=True, check=True, timeout=20)
    assert done.stderr == ""
    return ModelsState().process(done.stdout.splitlines())


def a_file(path: Path) -> FileStat:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"weights")
    os.utime(path, ns=(0, 1_700_000_000_123_456_789))
    return FileStat(7, 1_700_000_000_123_456_789, path.stat().st_ino)


def test_files_and_links(tmp_path: Path) -> None:
    plain, symbolic, folder = (tmp_path / "models" / name for name in ("a $b.bin", "symbolic", "folder"))
    stat = a_file(plain)
    symbolic.symlink_to(plain)
    folder.mkdir()
    found = read(tmp_path, [plain, symbolic, folder, tmp_path / "absent"], [])
    assert found.links == {str(plain): stat, str(symbolic): None, str(folder): None}


def test_the_cache_in_every_commit(tmp_path: Path) -> None:
    repo = tmp_path / "hub/models--o--m"
    blob = a_file(repo / "blobs/etag")
    for commit in ("one", "two"):
        link = repo / "snapshots" / commit / "split/a b*.bin"
        link.parent.mkdir(parents=True)
        link.symlink_to(repo / "blobs" / ("etag" if commit == "one" else "gone"))
    a_file(repo / "snapshots/one/split/a bc.bin")  # the file's own star is no pattern
    found = read(tmp_path, [], [("o/m", "split/a b*.bin"), ("o/none", "x")])
    assert found.cached == {str(repo / "snapshots/one/split/a b*.bin"): blob}


def test_the_manifest(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    made = Manifest({"vae": ENTRY})
    path.write_text(json.dumps(asdict(made), indent=1))
    assert read(tmp_path, [], []).manifest == made
    path.rename(tmp_path / "another")
    path.symlink_to(tmp_path / "another")
    assert read(tmp_path, [], []).manifest == Manifest()  # root follows no link out of the account's folder


def test_a_cache_full_of_commits_is_not_looked_through_to_its_end(tmp_path: Path) -> None:
    snapshots = tmp_path / "hub/models--o--m/snapshots"
    for number in range(3000):
        (snapshots / f"{number:040x}").mkdir(parents=True)
        (snapshots / f"{number:040x}" / "x").touch()
    script = ModelsState().command(str(tmp_path / "none"), str(tmp_path / "hub"), [], [("o/m", "x")])
    assert "head -zn 100000" in script
    for limit, found in (("100000", 3000), ("2", 2)):
        less = script.replace("head -zn 100000", f"head -zn {limit}")
        done = subprocess.run(["sh"], input=less, capture_output=True, text=True, check=True, timeout=20)
        assert len(ModelsState().process(done.stdout.splitlines()).cached) == found


@pytest.mark.parametrize("kind", ["fifo", "sparse", "zero"])
def test_a_manifest_made_to_keep_root_busy(tmp_path: Path, kind: str) -> None:
    make(tmp_path / "manifest.json", kind)
    assert read(tmp_path, [], []).manifest == Manifest()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"other": 1}', '{"version": 2, "models": {}}', '{"models": {}}'])
def test_a_manifest_that_cannot_be_read_is_none(text: str) -> None:
    encoded = base64.b64encode(text.encode()).decode()
    assert ModelsState().process([f"manifest\t{encoded}", "end"]) == ModelsReading()


@pytest.mark.parametrize("line", ["cache\tregular file\tx\t1.0\t1\t/p", "model\tregular file"])
def test_a_line_that_cannot_be_read_fails_its_own_host(line: str) -> None:
    with pytest.raises(ValueError):
        ModelsState().read([line])
