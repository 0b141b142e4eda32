"""Files that somebody else may have made: only plain ones are read, and not without end."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostside.models import manifest, store
from hostside.models.hub_errors import FetchError
from hostside.protocol.models import Manifest, ModelFile
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
def test_what_lies_in_the_place_of_half_a_file_keeps_nobody_busy(tmp_path: Path, kind: str) -> None:
    planted = tmp_path / "models--o--m/blobs/x.gpuhost.incomplete"
    planted.parent.mkdir(parents=True)
    make(planted, kind)
    store.Store(tmp_path, tmp_path / "models").remove_partials(but=[])
    assert os.path.lexists(planted) == (kind == "folder")


def a_file(size: int) -> ModelFile:
    return ModelFile("m", "o/m", "a" * 40, "f", size, "0" * 64, None, [], "verify", False)


@pytest.mark.parametrize("kind", ["fifo", "zero", "folder", "socket"])
def test_what_is_no_file_is_not_hashed(tmp_path: Path, kind: str) -> None:
    make(tmp_path / "blob", kind)
    with pytest.raises(FetchError, match="is not a regular file"):
        store.digest(tmp_path / "blob", a_file(5))


def test_a_file_that_grows_is_hashed_as_long_as_it_should_be(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"12345")
    expected, read = store.digest(tmp_path / "blob", a_file(5)), [0]
    with (tmp_path / "blob").open("ab") as more:
        more.write(b"6" * 10**6)
    assert store.digest(tmp_path / "blob", a_file(5), read.append) == expected and read == [0, 5]
