"""Files that somebody else may have made: only plain ones are read, and not without end."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostside.models import manifest, store
from hostside.models.hub_errors import FetchError
from hostside.protocol import Manifest
from hostside.regular import UnusableFile, open_regular, read_regular
from tests.unit.hostile import KINDS, make


@pytest.fixture(autouse=True)
def in_time() -> Iterator[None]:
    """Ends what would wait, or read, for ever."""
    signal.alarm(20)
    yield
    signal.alarm(0)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_plain_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    os.utime(tmp_path / "file", ns=(0, 7))
    assert read_regular(tmp_path / "file", 5) == (b"12345", 7)
    with pytest.raises(UnusableFile, match="is larger than 0 MiB"):
        read_regular(tmp_path / "file", 4)
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "absent", 4)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_none_is_refused(tmp_path: Path, kind: str) -> None:
    make(tmp_path / "file", kind)
    before = open_files()
    with pytest.raises(UnusableFile, match="is larger than 1 MiB" if kind == "sparse" else "is not a regular file"):
        read_regular(tmp_path / "file", 2**20)
    assert open_files() == before
    if kind == "link":
        with open_regular(tmp_path / "file", follow=True) as file:
            assert file.read() == b"another's"


@pytest.mark.parametrize("kind", KINDS)
def test_a_manifest_that_is_none_counts_as_none(tmp_path: Path, kind: str) -> None:
    make(tmp_path / "manifest.json", kind)
    assert manifest.load(tmp_path / "manifest.json") == Manifest()


@pytest.mark.parametrize("kind", KINDS)
def test_a_journal_that_is_none_is_left_alone(tmp_path: Path, kind: str) -> None:
    make(tmp_path / ".gpuhost-inflight.json", kind)
    store.Store(tmp_path, tmp_path / "models").clean_up()
    assert os.path.lexists(tmp_path / ".gpuhost-inflight.json")


@pytest.mark.parametrize("kind", ["fifo", "zero", "folder", "socket"])
def test_what_is_no_file_is_not_hashed(tmp_path: Path, kind: str) -> None:
    make(tmp_path / "blob", kind)
    with pytest.raises(FetchError, match="is not a regular file"):
        store.digest(tmp_path / "blob")


def test_a_file_that_grows_is_hashed_as_long_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "blob").write_bytes(b"12345")
    expected = store.digest(tmp_path / "blob")
    given = store.open_regular

    def opened(path: Path, follow: bool) -> object:
        file = given(path, follow)
        fstat = os.fstat(file.fileno())
        monkeypatch.setattr(store.os, "fstat", lambda _: fstat)
        with path.open("ab") as more:
            more.write(b"6" * 10**6)
        return file

    monkeypatch.setattr(store, "open_regular", opened)
    assert store.digest(tmp_path / "blob") == expected
