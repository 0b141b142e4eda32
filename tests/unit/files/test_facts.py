"""Files as the facts' own scripts read them here, also those that somebody made to keep root busy."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from gpuhost.files.facts import BYTES_MAX, FilesState, FileState, Texts, parse, read_script
from tests.unit.hostile import KINDS, make

LIMIT_S = 20


def answered(script: str, stdin: str = "") -> list[str]:
    done = subprocess.run(
        ["sh", "-c", script], input=stdin, capture_output=True, text=True, timeout=LIMIT_S, check=True
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def seen(*paths: Path) -> dict[str, FileState]:
    return FilesState().process(answered(FilesState().command([str(path) for path in paths])))


@pytest.mark.parametrize("content", [b"", b"one\ntwo", b"\0\xff", b"x" * (2**20 + 1)])
def test_a_files_content_is_known_by_its_hash(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "a $b'c"
    file.write_bytes(content)
    assert seen(file, tmp_path / "absent")[str(file)].sha256 == hashlib.sha256(content).hexdigest()
    keyed = parse(answered(read_script([str(file)], keyed=True), "the key\n"))
    assert keyed[str(file)].sha256 == hashlib.sha256(b"the key" + content).hexdigest()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_of_ours_is_told_and_not_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file"
    make(path, kind)
    names = {"fifo": "fifo", "sparse": "regular file", "zero": "symbolic link", "link": "symbolic link"}
    found = seen(path)[str(path)]
    assert found.kind == names.get(kind, kind if kind == "socket" else "directory")
    assert (found.sha256 == "-") == (kind != "sparse")


def test_a_file_that_only_begins_like_ours_has_another_hash(tmp_path: Path) -> None:
    ours = b"x" * BYTES_MAX
    (tmp_path / "file").write_bytes(ours + b"more")
    assert seen(tmp_path / "file")[str(tmp_path / "file")].sha256 != hashlib.sha256(ours).hexdigest()


@pytest.mark.parametrize("kind", ["", *KINDS])
def test_small_texts(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "stamp"
    if kind:
        make(path, kind)
    else:
        path.write_text("a\nb ü")
    lines = answered(Texts().command([str(path), str(tmp_path / "absent")]))
    found = Texts().process(lines)
    assert lines[-1] == "end" and found.keys() <= {str(path)}
    assert len(found.get(str(path), "")) <= 17 * 2**20 and "another" not in found.get(str(path), "")
    assert kind or found == {str(path): "a\nb ü"}
