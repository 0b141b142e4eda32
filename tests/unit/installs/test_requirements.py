"""What pip would install, resolved from a package index, wheels and git repositories on this machine."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from gpuhost.errors import Problem, UserError
from gpuhost.installs import requirements
from gpuhost.installs.requirements import resolve
from gpuhost.installs.rules import Sources

PYTHON = "3.12.11"


class Indexes:
    """Package indexes at http://127.0.0.1: `public`, which counts as PyPI, and `own`."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.url = folder, f"http://127.0.0.1:{port}"
        for name in ("public", "own"):
            (folder / name).mkdir()

    def add(self, index: str, name: str, version: str, *needs: str, tag: str = "py3-none-any", note: str = "") -> str:
        """A wheel; its sha256."""
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        metadata += "".join(f"Requires-Dist: {each}\n" for each in needs)
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as wheel:
            for file, text in {
                "METADATA": metadata,
                "WHEEL": f"Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: {tag}\n",
                "RECORD": note,
            }.items():
                wheel.writestr(zipfile.ZipInfo(f"{name}-{version}.dist-info/{file}", (1980, 1, 1, 0, 0, 0)), text)
        return self._put(index, name, f"{name}-{version}-{tag}.whl", packed.getvalue())

    def add_source(self, index: str, name: str, version: str, mark: Path) -> str:
        """A source package whose setup would leave a mark; its sha256."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as tar:
            code = f"open({str(mark)!r}, 'w')\n".encode()
            entry = tarfile.TarInfo(f"{name}-{version}/setup.py")
            entry.size = len(code)
            tar.addfile(entry, io.BytesIO(code))
        return self._put(index, name, f"{name}-{version}.tar.gz", packed.getvalue())

    def _put(self, index: str, name: str, file: str, content: bytes) -> str:
        folder = self.folder / index / name
        folder.mkdir(exist_ok=True)
        (folder / file).write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        with (folder / "index.html").open("a") as page:
            page.write(f'<a href="{file.replace("+", "%2B")}#sha256={sha256}">{file}</a><br/>\n')
        return sha256


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def indexes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Indexes]:
    folder = tmp_path / "indexes"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    made = Indexes(folder, server.server_port)
    for name in ("UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("UV_DEFAULT_INDEX", f"{made.url}/public")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    yield made
    server.shutdown()
    server.server_close()


def repository(folder: Path, files: dict[str, str], link: str = "") -> str:
    """A git repository with one commit; its name. `link`: where its requirements.txt leads."""
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    if link:
        (folder / "requirements.txt").symlink_to(link)
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@example.invalid"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "--allow-empty", "-m", "a"]):
        subprocess.run([*git, *words], check=True)
    return subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()


def refused(wanted: Sources) -> Problem:
    with pytest.raises(UserError) as caught:
        resolve(wanted, PYTHON)
    [problem] = caught.value.problems
    return problem


def test_every_package_in_one_version_with_the_hashes_of_its_files(indexes: Indexes, tmp_path: Path) -> None:
    """From the lines, from a repository at its commit, and what those need; ranges at what is newest today."""
    one = indexes.add("public", "one", "1.0")
    one_more = indexes.add("public", "one", "1.0", tag="py2-none-any")
    indexes.add("public", "two", "1.0")
    two, three = indexes.add("public", "two", "1.5", "three"), indexes.add("public", "three", "3.0")
    indexes.add("public", "two", "2.0", "three")
    commit = repository(tmp_path / "tree", {"requirements.txt": "# a comment\none\ntwo >=1,<2 ; python_version>'3'\n"})
    found = resolve(Sources(repositories=[(str(tmp_path / "tree"), commit)], lines=["two !=1.4"]), PYTHON)
    assert found == [
        "one==1.0 " + " ".join(f"--hash=sha256:{each}" for each in sorted((one, one_more))),
        f"three==3.0 --hash=sha256:{three}",
        f"two==1.5 --hash=sha256:{two}",
    ]


def test_what_comes_from_an_index_of_its_own_comes_from_nowhere_else(indexes: Indexes) -> None:
    """And nothing else comes from there: a newer version of the same name somewhere is no way in."""
    torch = indexes.add("own", "torch", "2.8.0+cu128", "needed")
    needed = indexes.add("public", "needed", "1.0")
    indexes.add("own", "needed", "9.0")
    indexes.add("public", "torch", "2.8.0+zz")
    wanted = Sources(indexes=[(f"{indexes.url}/own", ["torch==2.8.0"])], lines=["torch", "needed"])
    assert resolve(wanted, PYTHON) == [
        f"needed==1.0 --hash=sha256:{needed}",
        f"torch==2.8.0+cu128 --hash=sha256:{torch}",
    ]


def test_a_wheel_is_for_the_python_and_the_system_of_the_image(indexes: Indexes) -> None:
    """Not for those of this machine."""
    for tag in ("cp311-cp311-manylinux_2_28_x86_64", "cp312-cp312-manylinux_2_28_aarch64"):
        indexes.add("public", "one", "1.0", tag=tag)
    assert refused(Sources(lines=["one"])).what == "a package has no wheel for this Python"
    indexes.add("public", "one", "1.0", tag="cp312-cp312-manylinux_2_28_x86_64")
    assert resolve(Sources(lines=["one"]), PYTHON)[0].startswith("one==1.0 --hash=")


def test_no_code_of_a_package_runs_here(indexes: Indexes, tmp_path: Path) -> None:
    indexes.add_source("public", "one", "1.0", tmp_path / "ran")
    assert refused(Sources(lines=["one"])).what == "a package has no wheel for this Python"
    setup = f"open({str(tmp_path / 'ran')!r}, 'w')\n"
    repository(tmp_path / "package", {"setup.py": setup, "setup.cfg": "[metadata]\nname = two\nversion = 1\n"})
    assert refused(Sources(lines=[f"two @ git+file://{tmp_path}/package"]))
    assert not (tmp_path / "ran").exists()


def test_what_no_index_has_is_not_locked(indexes: Indexes) -> None:
    indexes.add("public", "one", "1.0")
    problem = refused(Sources(lines=[f"one @ {indexes.url}/public/one/one-1.0-py3-none-any.whl"]))
    assert problem.what.startswith("`one @ http://127.0.0.1") and problem.what.endswith(
        "it comes from no package index"
    )


def test_versions_that_contradict_each_other(indexes: Indexes) -> None:
    indexes.add("public", "one", "1.0")
    problem = refused(Sources(lines=["one==1.0", "one==2.0"]))
    assert problem.what == "the versions asked for do not go together"
    assert any("one==2.0" in line for line in problem.detail)


def test_an_index_that_does_not_answer() -> None:
    url = "http://user:secret@127.0.0.1:1/own"
    problem = refused(Sources(indexes=[(url, ["one==1.0"])]))
    assert problem.what.startswith("the package index cannot be read: http://") and "CA" in problem.hint
    assert "secret" not in repr(problem)


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("/nonexistent/tree", "there is no readable git repository at /nonexistent/tree"),
        ("http://user:secret@127.0.0.1:1/tree", "the repository http://***@127.0.0.1:1/tree cannot be reached"),
        ("--upload-pack=touch /tmp/gpuhost-ran", "git failed on --upload-pack="),
    ],
)
def test_a_repository_that_is_not_there(url: str, what: str) -> None:
    problem = refused(Sources(repositories=[(url, "0" * 40)]))
    assert problem.what.startswith(what) and "secret" not in repr(problem)
    assert not Path("/tmp/gpuhost-ran").exists()


def test_a_commit_that_is_none_of_the_repository(tmp_path: Path) -> None:
    repository(tmp_path / "tree", {})
    problem = refused(Sources(repositories=[(str(tmp_path / "tree"), "0" * 40)]))
    assert problem.what == f"{'0' * 40} is not a commit of {tmp_path / 'tree'}"


def test_a_repository_without_requirements_has_none(indexes: Indexes, tmp_path: Path) -> None:
    indexes.add("public", "one", "1.0")
    commit = repository(tmp_path / "tree", {"readme": "x"})
    assert len(resolve(Sources(repositories=[(str(tmp_path / "tree"), commit)], lines=["one"]), PYTHON)) == 1


def test_a_link_in_the_place_of_requirements_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "private.txt").write_text("private==1\n")
    commit = repository(tmp_path / "tree", {}, link=str(tmp_path / "private.txt"))
    problem = refused(Sources(repositories=[(str(tmp_path / "tree"), commit)]))
    assert problem.what.startswith("requirements.txt of ") and "is no plain file" in problem.what


# -- the folder that it works in ---------------------------------------------------------------------------------------

WORKS = """
import sys
from gpuhost.installs.requirements import _folder
with _folder() as folder:
    (folder / "0.git").mkdir()
    (folder / "0.git/pack").write_text("much")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary ones."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def test_what_a_killed_run_leaves_the_next_one_removes(temporary: Path) -> None:
    """That of a run which still works stays."""
    begin = partial(
        subprocess.Popen, [sys.executable, "-c", WORKS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with begin() as killed, begin() as works:
        assert killed.stdout and works.stdout
        folders = [Path(each.readline().strip()) for each in (killed.stdout, works.stdout)]
        killed.kill()
        killed.wait()
        assert sorted(temporary.iterdir()) == sorted(folders)
        with requirements._folder() as mine:
            assert {*temporary.iterdir()} == {mine, folders[1]} and mine.stat().st_mode & 0o777 == 0o700
        assert [*temporary.iterdir()] == [folders[1]]
        works.communicate("")
        assert works.returncode == 0 and [*temporary.iterdir()] == []


def test_what_is_not_ours_stays(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = temporary / "mine"
    outside.mkdir()
    (temporary / "gpuhost-lock-link").symlink_to(outside)
    (temporary / "gpuhost-lock-file").touch()
    (temporary / "other-lock-x").mkdir()
    before = sorted(temporary.iterdir())
    with requirements._folder():
        pass
    assert sorted(temporary.iterdir()) == before
    theirs = temporary / "gpuhost-lock-theirs"
    theirs.mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert requirements._held(theirs) is None


def test_a_folder_that_is_taken_for_a_left_one_is_made_again(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its making and its lock; one whose lock cannot be had is used without it."""
    makes, made = tempfile.mkdtemp, list[str]()

    def makes_and_loses(**named: str) -> str:
        made.append(makes(**named))
        if len(made) == 1:
            Path(made[0]).rmdir()
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", makes_and_loses)
    with requirements._folder() as folder:
        assert str(folder) == made[1] and folder.is_dir()
    monkeypatch.setattr(requirements, "_held", lambda *_, **__: None)
    with requirements._folder() as folder:
        assert str(folder) == made[2] and len(made) == 3
    assert [*temporary.iterdir()] == []


def test_all_of_a_resolution_lies_in_that_folder(
    indexes: Indexes, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What uv keeps meanwhile, too, should both be killed."""
    indexes.add("public", "one", "1.0")
    given: list[dict[str, str]] = []
    run = subprocess.run

    def seen(words: list[str], **named: Any) -> Any:
        given.append({**named["env"], "cwd": str(named["cwd"])})
        assert [str(each) for each in temporary.iterdir()] == [named["env"]["TMPDIR"]]
        return run(words, **named)

    monkeypatch.setattr(requirements.subprocess, "run", seen)
    assert len(resolve(Sources(lines=["one"]), PYTHON)) == 1
    assert [each["TMPDIR"] for each in given] == [each["cwd"] for each in given] and len(given) == 1
    assert [*temporary.iterdir()] == []
