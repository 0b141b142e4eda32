"""Models as the file system of a host has them: the script runs here, under a plain sh."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from gpuhost.catalog.lock import EMPTY, Lock, LockedFile, LockedModel, text
from gpuhost.models.facts import FileStat, ModelsReading, ModelsState
from hostside.protocol.models import Manifest, ManifestEntry, manifest_key
from tests.unit.hostile import make

ENTRY = ManifestEntry(
    *("vae", "o/m", "c" * 40, "a b.bin", "/x", 7, 1, 2, "0" * 64, None, ["vae/a b.bin"], 5, "hub"),
)
FORMER = {"models": {"vae": {"repo": "o/m", "revision": "main", "file": "f", "dest": "d", "commit": "c" * 40}}}


def script(folder: Path) -> str:
    return ModelsState().command(
        str(folder / "manifest.json"),
        str(folder / "revisions.json"),
        str(folder / "speed"),
        str(folder / "hub"),
        str(folder / "models"),
    )


def read(folder: Path) -> ModelsReading:
    done = subprocess.run(["sh"], input=script(folder), capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    return ModelsState().process(done.stdout.splitlines())


def a_file(path: Path) -> FileStat:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"weights")
    os.utime(path, ns=(0, 1_700_000_000_023_456_789))
    return FileStat(7, 1_700_000_000_023_456_789, path.stat().st_ino)


def test_a_bare_host(tmp_path: Path) -> None:
    assert read(tmp_path) == ModelsReading()


def test_files_and_links(tmp_path: Path) -> None:
    plain, symbolic = tmp_path / "models/vae/a $b größe.bin", tmp_path / "models/vae/symbolic"
    stat = a_file(plain)
    symbolic.symlink_to(plain)
    assert read(tmp_path).links == {str(plain): stat, str(symbolic): None}


def test_the_cache_in_every_commit(tmp_path: Path) -> None:
    repo = tmp_path / "hub/models--o--m"
    blob = a_file(repo / "blobs/etag")
    for commit in ("one", "two"):
        link = repo / "snapshots" / commit / "split/a b*.bin"
        link.parent.mkdir(parents=True)
        link.symlink_to(repo / "blobs" / ("etag" if commit == "one" else "gone"))
    (repo / "snapshots/one/elsewhere").symlink_to(tmp_path)  # a folder that a link leads to is not looked through
    copy = a_file(repo / "snapshots/one/a copy.bin")
    (repo / "refs/pr").mkdir(parents=True)
    (repo / "refs/main").write_text("a" * 40)
    (repo / "refs/pr/1").write_text("b" * 40 + "\n")
    os.mkfifo(repo / "refs/fifo")
    found = read(tmp_path)
    assert found.cached == {
        str(repo / "snapshots/one/split/a b*.bin"): blob,
        str(repo / "snapshots/one/a copy.bin"): copy,
    }
    assert found.blobs == {str(repo / "blobs/etag"): blob}
    (repo / "blobs/etag").chmod(0o640)
    seen = read(tmp_path).cached[str(repo / "snapshots/one/split/a b*.bin")]
    assert (seen.uid, seen.mode) == (os.geteuid(), 0o640)
    assert found.refs == {str(repo / "refs/main"): "a" * 40, str(repo / "refs/pr/1"): "b" * 40}


def test_a_name_that_forges_lines_is_nobodys(tmp_path: Path) -> None:
    forged = "x\ncache\tregular file\t1\t1.0\t1\t/p"
    a_file(tmp_path / "hub/models--o--m/snapshots/one" / forged)
    a_file(tmp_path / "models" / forged)
    found = read(tmp_path)
    assert (found.cached, found.links) == ({}, {})


def test_the_manifest_and_what_was_noted(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    made = Manifest({manifest_key("o/m", "c" * 40, "a b.bin"): ENTRY})
    path.write_text(json.dumps(asdict(made), indent=1))
    noted = LockedModel(commit="c" * 40, files={"f": LockedFile(size=1, sha256=None, git_sha1="d" * 40)})
    lock = Lock(version=1, models={"o/m": {"main": noted}})
    (tmp_path / "revisions.json").write_text(text(lock))
    (tmp_path / "speed").write_text("123456\n")
    found = read(tmp_path)
    assert (found.manifest, found.revisions, found.bytes_per_s) == (made, lock, 123456)
    path.rename(tmp_path / "another")
    path.symlink_to(tmp_path / "another")
    assert read(tmp_path).manifest == Manifest()  # root follows no link out of the account's folder


@pytest.mark.parametrize("kind", ["fifo", "sparse", "zero"])
def test_a_manifest_made_to_keep_root_busy(tmp_path: Path, kind: str) -> None:
    make(tmp_path / "manifest.json", kind)
    assert read(tmp_path).manifest == Manifest()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"other": 1}', '{"version": 3, "files": {}}', json.dumps(FORMER)])
def test_what_cannot_be_read_or_is_of_an_earlier_gpuhost_is_none(content: str) -> None:
    encoded = base64.b64encode(content.encode()).decode()
    found = ModelsState().process([f"manifest\t{encoded}", f"revisions\t{encoded}", "speed\t", "end"])
    assert found == ModelsReading(Manifest(), EMPTY)


@pytest.mark.parametrize("line", ["cache\tregular file\tx\t1.0\t1\t/p", "model\tregular file", "ref\tabc"])
def test_a_line_that_cannot_be_read_fails_its_own_host(line: str) -> None:
    with pytest.raises(ValueError):
        ModelsState().read([line])


def test_a_thousand_files_of_300_gb_are_looked_at_and_not_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blobs, snapshot = tmp_path / "hub/models--o--m/blobs", tmp_path / f"hub/models--o--m/snapshots/{'c' * 40}"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number in range(1000):
        with (blobs / f"{number:064x}").open("wb") as blob:
            blob.truncate(300 * 10**6)
        (snapshot / f"{number:04}.bin").symlink_to(f"../../blobs/{number:064x}")
    began = time.perf_counter()
    found = read(tmp_path)
    seconds = time.perf_counter() - began
    with capsys.disabled():
        print(f"\nthe fact over 1,000 files of 300 GB: {seconds:.2f} s")
    assert len(found.cached) == 1000 and sum(stat.size for stat in found.cached.values()) == 300 * 10**9
