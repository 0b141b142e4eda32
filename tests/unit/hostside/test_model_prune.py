"""What the prune removes, what it leaves, and that it can be killed."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from hostside import model_prune
from hostside.models import manifest
from hostside.protocol.model_prune import PruneFile, PruneRequest
from hostside.protocol.models import Manifest, ManifestEntry, manifest_key

REPO, COMMIT, NEXT = "o/m", "a" * 40, "b" * 40


class Host:
    """A cache and a models folder, as the fetch leaves them."""

    def __init__(self, root: Path) -> None:
        self.cache, self.models, self.manifest = root / "hub", root / "models", root / "state/manifest.json"
        self.repo = self.cache / "models--o--m"
        self.entries: dict[str, ManifestEntry] = {}
        self.models.mkdir()

    def add(self, file: str, commit: str = COMMIT, content: bytes = b"weights", links: tuple[str, ...] = ()) -> Path:
        blob = self.repo / "blobs" / content.hex()
        blob.parent.mkdir(parents=True, exist_ok=True)
        if not blob.exists():
            blob.write_bytes(content)
        pointer = self.repo / "snapshots" / commit / file
        pointer.parent.mkdir(parents=True, exist_ok=True)
        pointer.symlink_to(os.path.relpath(blob, pointer.parent))
        for link in links:
            (self.models / link).parent.mkdir(exist_ok=True)
            os.link(blob, self.models / link)
        there = blob.stat()
        self.entries[manifest_key(REPO, commit, file)] = ManifestEntry(
            *("m", REPO, commit, file, str(pointer), there.st_size, there.st_mtime_ns, there.st_ino, "0" * 64, None),
            *([*links], time.time_ns(), "hub"),
        )
        manifest.save(self.manifest, Manifest(self.entries))
        return blob

    def prune(self, *files: tuple[str, str]) -> int:
        wanted = [PruneFile(REPO, commit, file) for commit, file in files]
        return model_prune.prune(PruneRequest(wanted, str(self.cache), str(self.models), str(self.manifest)))

    def left(self) -> set[str]:
        found = (path for folder in (self.repo, self.models) for path in folder.rglob("*"))
        return {str(path.relative_to(self.cache.parent)) for path in found if not path.is_dir()}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_the_bytes_go_with_all_their_names(host: Host) -> None:
    blob = host.add("deep/er/one.bin", links=("vae/one.bin", "unet/one.bin"))
    (host.repo / "refs/pr").mkdir(parents=True)
    (host.repo / "refs/pr/1").write_text(COMMIT)
    assert host.prune((COMMIT, "deep/er/one.bin")) == len(b"weights")
    assert not blob.exists() and host.left() == set() and not host.repo.exists()
    assert manifest.load(host.manifest).files == {}
    assert host.prune((COMMIT, "deep/er/one.bin")) == 0  # again, and nothing happens


def test_what_another_revision_or_another_file_shows_stays(host: Host) -> None:
    host.add("one.bin", links=("vae/one.bin",))
    host.add("one.bin", NEXT)
    host.add("two.bin", content=b"others")
    (host.repo / "refs").mkdir()
    (host.repo / "refs/main").write_text(NEXT)
    assert host.prune((COMMIT, "one.bin")) == 0
    assert (host.repo / f"snapshots/{NEXT}/one.bin").read_bytes() == b"weights"
    assert (host.models / "vae/one.bin").read_bytes() == b"weights"
    assert (host.repo / f"snapshots/{COMMIT}/two.bin").read_bytes() == b"others"
    assert (host.repo / "refs/main").exists()
    assert set(manifest.load(host.manifest).files) == {
        manifest_key(REPO, NEXT, "one.bin"),
        manifest_key(REPO, COMMIT, "two.bin"),
    }


def test_what_the_manifest_has_not_is_left_alone(host: Host) -> None:
    host.add("one.bin")
    del host.entries[manifest_key(REPO, COMMIT, "one.bin")]
    manifest.save(host.manifest, Manifest(host.entries))
    before = host.left()
    assert host.prune((COMMIT, "one.bin"), (COMMIT, "../../x")) == 0 and host.left() == before


def test_a_file_of_somebody_else_in_the_place_of_a_link_stays(host: Host) -> None:
    host.add("one.bin", links=("vae/one.bin",))
    (host.models / "vae/one.bin").unlink()
    (host.models / "vae/one.bin").write_bytes(b"mine")
    host.prune((COMMIT, "one.bin"))
    assert (host.models / "vae/one.bin").read_bytes() == b"mine"


def test_a_snapshot_that_leads_out_of_the_cache_removes_nothing_there(host: Host, tmp_path: Path) -> None:
    host.add("one.bin")
    pointer, mine = host.repo / f"snapshots/{COMMIT}/one.bin", tmp_path / "mine"
    mine.write_bytes(b"weights")
    pointer.unlink()
    pointer.symlink_to(mine)
    assert host.prune((COMMIT, "one.bin")) == 0 and mine.read_bytes() == b"weights"


def test_bytes_that_have_a_name_elsewhere_are_not_said_to_be_free(
    host: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.link(host.add("one.bin"), tmp_path / "kept")
    assert host.prune((COMMIT, "one.bin")) == 0 and (tmp_path / "kept").read_bytes() == b"weights"
    assert "still have 1 name(s) elsewhere" in capsys.readouterr().err


@pytest.mark.parametrize("moment", range(4))
def test_killed_at_any_moment_the_next_one_finishes(host: Host, monkeypatch: pytest.MonkeyPatch, moment: int) -> None:
    for number in range(2):
        host.add(f"{number}.bin", content=b"%d" % number, links=(f"vae/{number}.bin",))
    left = [moment]
    real = Path.unlink

    def dying(path: Path, missing_ok: bool = False) -> None:
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        real(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", dying)
    with pytest.raises(KeyboardInterrupt):
        host.prune((COMMIT, "0.bin"), (COMMIT, "1.bin"))
    monkeypatch.setattr(Path, "unlink", real)
    host.prune((COMMIT, "0.bin"), (COMMIT, "1.bin"))
    assert host.left() == set() and manifest.load(host.manifest).files == {}


def test_a_name_of_a_commit_that_is_none_and_of_any_size_is_left_alone(host: Host) -> None:
    host.add("one.bin")
    (host.repo / "refs").mkdir()
    with (host.repo / "refs/huge").open("wb") as file:
        file.truncate(2**41)
    (host.repo / "refs/link").symlink_to("huge")
    assert host.prune((COMMIT, "one.bin")) == len(b"weights")
    assert {path.name for path in (host.repo / "refs").iterdir()} == {"huge", "link"}


def test_another_model_of_the_same_repository_keeps_its_commit(host: Host) -> None:
    host.add("one.bin")
    host.entries["x"] = replace(host.entries[manifest_key(REPO, COMMIT, "one.bin")], file="x")
    assert host.prune((COMMIT, "one.bin")) == len(b"weights")
