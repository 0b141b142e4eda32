"""A folder against the manifest of what was made in it: every kind of damage is seen, nothing large is read."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpuhost.files.trees import look_command
from hostside.protocol.trees import TreeRequest, TreeSeen
from hostside.trees import look, record
from hostside.wire import from_host, to_json


@pytest.fixture
def request_(tmp_path: Path) -> TreeRequest:
    """A folder of a few things, recorded."""
    tree = tmp_path / "a tree"
    (tree / "code/inner").mkdir(parents=True)
    (tree / "code/server.py").write_text("print('serve')\n")
    (tree / "code/inner/it's.py").write_text("x = 1\n")
    (tree / "code/empty").touch()
    (tree / "code/link").symlink_to("server.py")
    os.mkfifo(tree / "code/pipe")
    (tree / os.fsdecode(b"no-utf8-\xff\nend")).write_text("any name\n")
    for path in (tree, tree / "code", tree / "code/inner"):
        path.chmod(0o755)
    made = TreeRequest(str(tree), str(tmp_path / "manifests/a.json"))
    record.begin(made)
    record.record(made)
    return made


def tree(request: TreeRequest) -> Path:
    return Path(request.folder)


def seen(request: TreeRequest) -> TreeSeen:
    """What is answered, as the control side reads it."""
    return from_host(TreeSeen, json.dumps(look.look(request.folder, request.manifest)))


def differing(request: TreeRequest) -> list[str]:
    return [each.path for each in seen(request).first]


def rewrite(path: Path, text: str) -> None:
    """Other bytes, with the time that the file had."""
    before = path.stat()
    with path.open("r+") as file:  # the same inode
        file.truncate()
        file.write(text)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace_folder(tree: Path) -> None:
    shutil.rmtree(tree / "code/inner")
    (tree / "code/inner").symlink_to("/etc")


def on_disk(folder: Path) -> int:
    return sum(path.lstat().st_blocks for path in folder.rglob("*")) * 512  # POSIX: st_blocks counts these


def test_what_was_recorded_is_found_again_and_no_file_is_read(
    request_: TreeRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(look, "sha256", None)
    found = seen(request_)
    assert (found.state, found.differing, found.first, found.touched) == ("recorded", 0, [], 0)
    assert found.disk_bytes == on_disk(tree(request_)) > 0


def test_the_shell_command_needs_nothing_of_ours_and_answers_in_one_line(request_: TreeRequest) -> None:
    (tree(request_) / "code/it's\n'new'").touch()
    (tree(request_) / "code/server.py").write_text("")
    (tree(request_) / "code/empty").touch()
    command = look_command(request_.folder, request_.manifest)
    assert " python3 -I -B -c " in command  # nothing of the working folder is imported, nothing compiled is written
    environ = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
    done = subprocess.run(["sh", "-c", command], capture_output=True, check=True, timeout=30, env=environ, cwd="/")
    assert done.stdout.count(b"\n") == 1 and done.stderr == b""
    answer = from_host(TreeSeen, done.stdout)
    assert (answer, answer.differing, answer.touched) == (seen(request_), 2, 1)


DAMAGES: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "truncated": (lambda tree: os.truncate(tree / "code/server.py", 3), ["code/server.py"]),
    "one byte, size and time kept": (
        lambda tree: rewrite(tree / "code/server.py", "print('swerv')\n"[:14] + "\n"),
        ["code/server.py"],
    ),
    "gone": (lambda tree: (tree / "code/empty").unlink(), ["code/empty"]),
    "added": (lambda tree: (tree / "code/more.py").write_text(""), ["code/more.py"]),
    "added folder": (lambda tree: (tree / "code/__pycache__").mkdir(), ["code/__pycache__"]),
    "mode": (lambda tree: (tree / "code/server.py").chmod(0o666), ["code/server.py"]),
    "mode of a folder": (lambda tree: (tree / "code/inner").chmod(0o777), ["code/inner"]),
    "link elsewhere": (
        lambda tree: ((tree / "code/link").unlink(), (tree / "code/link").symlink_to("/etc/passwd")),
        ["code/link"],
    ),
    "a link in the place of a folder": (replace_folder, ["code/inner", "code/inner/it's.py"]),
    "renamed": (
        lambda tree: (tree / "code/empty").rename(tree / "code/full"),
        ["code/empty", "code/full"],
    ),
    "a file where a FIFO was": (
        lambda tree: ((tree / "code/pipe").unlink(), (tree / "code/pipe").touch()),
        ["code/pipe"],
    ),
    "a FIFO where a file was": (
        lambda tree: ((tree / "code/server.py").unlink(), os.mkfifo(tree / "code/server.py")),
        ["code/server.py"],
    ),
}


@pytest.mark.parametrize(("damage", "paths"), DAMAGES.values(), ids=DAMAGES)
def test_every_damage_is_seen(request_: TreeRequest, damage: Callable[[Path], object], paths: list[str]) -> None:
    damage(tree(request_))
    assert differing(request_) == paths
    assert seen(request_).differing == len(paths)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_another_owner_is_seen(request_: TreeRequest) -> None:
    os.chown(tree(request_) / "code/server.py", 12345, 12345)
    [found] = seen(request_).first
    assert found.found and (found.found.uid, found.found.gid) == (12345, 12345)


def test_a_touched_file_and_a_copy_are_no_damage_and_are_recorded_again(request_: TreeRequest) -> None:
    (tree(request_) / "code/server.py").touch()
    shutil.copy2(tree(request_) / "code/empty", tree(request_) / "new")
    (tree(request_) / "new").rename(tree(request_) / "code/empty")
    found = seen(request_)
    assert (found.differing, found.touched, found.first_touched) == (0, 2, "code/empty")
    record.record(request_)
    assert seen(request_).touched == 0


def test_a_record_is_not_made_anew_of_what_changed(request_: TreeRequest) -> None:
    rewrite(tree(request_) / "code/server.py", "print('swerve'"[:14] + ")")
    with pytest.raises(record.Refusal, match=r"code/server\.py changes"):
        record.record(request_)
    assert differing(request_) == ["code/server.py"]


def test_a_file_that_changes_while_it_is_read_is_neither_recorded_nor_right(
    request_: TreeRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, read = tree(request_) / "code/new.py", os.read

    def reads(file: int, count: int) -> bytes:
        with path.open("a") as stream:
            stream.write("x")
        return read(file, count)

    path.write_text("y = 1\n")
    record.begin(request_)
    monkeypatch.setattr(look.os, "read", reads)
    with pytest.raises(record.Refusal, match=r"code/new\.py changes while it is read"):
        record.record(request_)
    monkeypatch.undo()
    record.record(request_)
    path.touch()  # so that it is read again
    monkeypatch.setattr(look.os, "read", reads)
    assert differing(request_) == ["code/new.py"]


def test_a_folder_below_another_filesystem_is_not_entered(request_: TreeRequest) -> None:
    top = os.open(request_.folder, os.O_RDONLY)
    device = os.fstat(top).st_dev
    found = list(look._walk(top, device + 1, "", 1))
    os.close(top)
    assert {each.path: each.entry.kind for each in found if each.path == "code"} == {"code": "mount"}
    assert not [each for each in found if each.path.startswith("code/")]


def test_a_huge_file_with_holes_is_not_read(request_: TreeRequest) -> None:
    """It would take the better part of an hour; the test's time limit says whether it did."""
    os.truncate(tree(request_) / "code/server.py", 2 * 2**40)
    with (tree(request_) / "more").open("wb") as file:
        file.truncate(2 * 2**40)
    assert differing(request_) == ["code/server.py", "more"]
    assert seen(request_).disk_bytes < 2**20
    Path(request_.manifest).unlink()
    with pytest.raises(record.Refusal, match="has 2199023255552 bytes, of which"):
        record.record(request_)


def test_a_large_file_that_is_on_the_disk_is_recorded(request_: TreeRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "HOLE_BYTES", 2**20)
    (tree(request_) / "large").write_bytes(os.urandom(2**21))
    Path(request_.manifest).unlink()
    record.record(request_)
    assert seen(request_).state == "recorded" and differing(request_) == []


def test_a_difference_is_told_with_what_was_and_what_is(request_: TreeRequest) -> None:
    path = tree(request_) / "code/server.py"
    was = hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_text("print('Serve')\n")
    path.chmod(0o640)
    [told] = seen(request_).first
    assert told.recorded and told.found and told.path == "code/server.py"
    assert (told.recorded.kind, told.recorded.text, told.recorded.size) == ("file", was, 15)
    assert (told.found.kind, told.found.mode, told.found.size) == ("file", 0o640, 15)
    path.chmod(told.recorded.mode)
    [told] = seen(request_).first
    assert told.found and told.found.text == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_flood_of_files_is_counted_to_an_end(request_: TreeRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look, "ADDED_MAX", 50)
    for number in range(2000):  # in whatever order: most of what was recorded is not reached
        (tree(request_) / f"flood-{number}").touch()
    told = look.look(request_.folder, request_.manifest)
    assert 40 <= told["differing"] <= 60 and len(told["first"]) == look.SHOWN
    assert not [each for each in told["first"] if each["found"] is None]  # nobody looked for them


@pytest.mark.parametrize("what", ["entry", "folder"])
def test_what_goes_while_it_is_looked_at_hides_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """In whatever order the others come."""
    names = {"one", "two", "three"}
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "in").touch()
    opened, entry = os.open, look._entry
    for gone in names:

        def open_(path: str, *rest: Any, gone: str = gone, **more: Any) -> int:
            if path == gone and what == "folder":
                raise FileNotFoundError
            return opened(path, *rest, **more)

        def entry_(parent: int, name: str, *rest: Any, gone: str = gone) -> look.Entry:
            if name == gone and what == "entry":
                raise FileNotFoundError
            return entry(parent, name, *rest)

        monkeypatch.setattr(look.os, "open", open_)
        monkeypatch.setattr(look, "_entry", entry_)
        top = opened(tmp_path, os.O_RDONLY)
        found = {each.path for each in look.walk(top)}
        os.close(top)
        missing = {gone, f"{gone}/in"} if what == "entry" else {f"{gone}/in"}
        assert found == (names | {f"{name}/in" for name in names}) - missing


def test_a_nest_of_folders_is_walked_to_an_end(request_: TreeRequest) -> None:
    deep = os.open(request_.folder, os.O_RDONLY)
    for _ in range(300):
        os.mkdir("d", dir_fd=deep)
        deeper = os.open("d", os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = deeper
    os.close(deep)
    assert seen(request_).differing == look.DEPTH_MAX
    subprocess.run(["rm", "-rf", f"{request_.folder}/d"], check=True)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", "null", '{"version": 1}', '{"version": 2, "folder": "@", "state": "recorded", "entries": {}}'],
)
def test_a_manifest_that_cannot_be_read_is_none(request_: TreeRequest, text: str) -> None:
    Path(request_.manifest).write_text(text.replace("@", request_.folder))
    assert seen(request_).state == "unknown"


@pytest.mark.parametrize("entries", [[], {"a": 1}, {"a": []}, {"a": [1] * 20}, {"a": None}])
def test_nor_is_one_whose_entries_are_none(request_: TreeRequest, entries: object) -> None:
    written = {"version": 1, "folder": request_.folder, "state": "recorded", "entries": entries}
    Path(request_.manifest).write_text(json.dumps(written))
    assert seen(request_).state in ("unknown", "recorded")
    assert seen(request_).state == "unknown" or seen(request_).differing


def test_the_manifest_of_another_folder_says_nothing(request_: TreeRequest) -> None:
    moved = Path(request_.folder).rename(Path(request_.folder).with_name("moved"))
    assert seen(TreeRequest(str(moved), request_.manifest)).state == "unknown"


def test_a_record_of_an_earlier_version_counts(tmp_path: Path) -> None:
    """Folders that were installed once are looked at for ever."""
    top = tmp_path / "made"
    (top / "in").mkdir(parents=True)
    (top / "in/file").write_text("text")
    (top / "link").symlink_to("in/file")
    os.mkfifo(top / "pipe")

    def row(name: str, kind: str, text: str, *more: int) -> list[object]:
        seen = (top / name).lstat()
        return [kind, seen.st_mode & 0o7777, seen.st_uid, seen.st_gid, text, *more]

    seen_ = (top / "in/file").stat()
    times = (seen_.st_size, seen_.st_mtime_ns, seen_.st_ctime_ns, seen_.st_ino)
    entries = {
        "in": row("in", "folder", "", 0, 0, 0, 0),
        "in/file": row("in/file", "file", hashlib.sha256(b"text").hexdigest(), *times),
        "link": row("link", "link", "in/file", 0, 0, 0, 0),
        "pipe": row("pipe", "other", "", 0, 0, 0, 0),
    }
    manifest = {"version": 1, "folder": str(top), "state": "recorded", "entries": entries}
    (tmp_path / "a.json").write_text(json.dumps(manifest))
    told = seen(TreeRequest(str(top), str(tmp_path / "a.json")))
    assert (told.state, told.differing, told.first, told.touched, told.first_touched) == ("recorded", 0, [], 0, "")
    (top / "added").touch()
    (top / "pipe").chmod(0o600 if entries["pipe"][1] != 0o600 else 0o640)
    told = seen(TreeRequest(str(top), str(tmp_path / "a.json")))
    assert [each.path for each in told.first] == ["pipe", "added"]  # what changed says more than what was added


def test_an_empty_folder_in_the_place_of_another_is_nobodys_meanwhile(
    request_: TreeRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[int] = []
    monkeypatch.setattr(record.os, "chown", lambda path, *_: modes.append(Path(path).stat().st_mode & 0o777))
    record.set_aside(request_)
    assert modes == [0o700] and tree(request_).stat().st_mode & 0o777 == 0o755


def test_a_folder_that_is_being_made_is_not_compared(request_: TreeRequest) -> None:
    record.begin(request_)
    assert (seen(request_).state, seen(request_).differing) == ("unfinished", 0)
    assert seen(request_).disk_bytes == on_disk(tree(request_))
    assert [path.name for path in Path(request_.manifest).parent.iterdir()] == ["a.json"]


def test_what_is_set_aside_is_whole_and_an_empty_folder_takes_its_place(
    request_: TreeRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tree(request_)
    folder.chmod(0o750)
    (folder / "code/server.py").write_text("mine\n")
    (folder / "large").write_bytes(bytes(3_000_000))
    record.set_aside(request_)
    [aside] = folder.parent.glob("a tree.replaced-*")
    assert re.fullmatch(r"a tree\.replaced-\d{8}T\d{6}Z", aside.name)
    assert (aside / "code/server.py").read_text() == "mine\n"
    assert list(folder.iterdir()) == [] and folder.stat().st_mode & 0o7777 == 0o750
    assert f"is kept as {aside} (3 MB)" in capsys.readouterr().out
    assert seen(request_).state == "unknown"
    record.set_aside(request_)  # twice in a second
    assert len(list(folder.parent.glob("a tree.replaced-*"))) == 2


@pytest.mark.parametrize("there", ["link", "file"])
def test_a_folder_that_is_none_is_not_recorded(request_: TreeRequest, tmp_path: Path, there: str) -> None:
    """What is in its place leads elsewhere."""
    path = tmp_path / "other"
    if there == "link":
        path.symlink_to(request_.folder)
    else:
        path.touch()
    with pytest.raises(OSError, match=str(path)):
        record._opened(TreeRequest(str(path), request_.manifest))
    os.close(record._opened(request_))


def test_what_cannot_be_set_aside_stays_and_says_why(
    request_: TreeRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mv").write_text("#!/bin/sh\necho mv: no room >&2; exit 1\n")
    (tmp_path / "mv").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(record.Refusal, match="cannot be set aside: mv: no room"):
        record.set_aside(request_)
    assert (tree(request_) / "code/server.py").exists() and seen(request_).state == "unknown"


def test_killed_while_it_is_set_aside_it_does_not_count_as_recorded(
    request_: TreeRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    (tree(request_) / "code/server.py").write_text("mine\n")

    def killed(*_: object, **__: object) -> None:
        raise Killed

    monkeypatch.setattr(subprocess, "run", killed)
    with pytest.raises(Killed):
        record.set_aside(request_)
    assert seen(request_).state == "unknown"


def program(request: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-B", "-m", "hostside.trees", *arguments]
    return subprocess.run(command, input=request, capture_output=True, text=True, check=False, timeout=30)


def test_the_program_takes_its_request_from_stdin_and_explains_a_failure(request_: TreeRequest) -> None:
    assert program(to_json(request_), "record").returncode == 0
    shutil.rmtree(request_.folder)
    done = program(to_json(request_), "record")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {request_.folder}: No such file") and "\nhint: " in done.stderr
    tree(request_).mkdir()
    for action in ("begin", "record", "set-aside"):
        done = program(to_json(request_), action)
        assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"note: what was in {request_.folder} is kept as ")
    done = program("{}", "begin")
    assert done.returncode == 1 and done.stderr.startswith("error: the request cannot be read")
