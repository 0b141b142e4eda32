"""Files of secrets on the control side: what is edited, what stays as it was, and who can see what in between."""

from __future__ import annotations

import io
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from dotenv import dotenv_values
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuhost.errors import Problem, UserError
from gpuhost.secrets import envfile

NEW = "new-value_1$2b$12$./"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.env"


def values(text: str) -> dict[str, str | None]:
    return dotenv_values(stream=io.StringIO(text), interpolate=False)


def refusal(path: Path) -> list[str]:
    """What a person reads: one sentence, one hint, and nothing of what the file holds."""
    with pytest.raises(UserError) as caught:
        envfile.read(path)
    [problem] = caught.value.problems
    lines = problem.lines()
    assert len(lines) == 2 and "hunter2" not in "".join(lines)
    return lines


# --- One value of many ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "K='new'\n"),
        ("# mine", "# mine\nK='new'\n"),
        ("K=old\n", "K='new'\n"),
        ("K=old", "K='new'"),
        ("K=\n", "K='new'\n"),
        ("A=1\r\n\r\nK=old\r\n# end\r\n", "A=1\r\n\r\nK='new'\r\n# end\r\n"),
        ("A=1\r\n", "A=1\r\nK='new'\n"),
        ("export K=old # why it is\n", "export K='new' # why it is\n"),
        ("  K \t=  'old' # it's \"so\"\n", "  K \t=  'new' # it's \"so\"\n"),
        ('K="line\nK=no line of its own\n"  # two\nA=1', "K='new'  # two\nA=1"),
        ("K='a\\'b'\n", "K='new'\n"),
        ("K=a#b #c\n", "K='new' #c\n"),
        ("K=old\nK=older # last\n", "K='new'\nK='new' # last\n"),
        ("K\n", "K\nK='new'\n"),
        ("# K=old\nKK=1\nA=K=2\n", "# K=old\nKK=1\nA=K=2\nK='new'\n"),
    ],
)
def test_its_own_line_and_no_other(before: str, after: str) -> None:
    assert envfile.with_values(before, {"K": "new"}) == after


@pytest.mark.parametrize(("before", "rest"), [("K= # why\n", "K= # why\n"), ('K="old"#why\n', "K=#why\n")])
def test_a_comment_stays_whatever_stands_before_it(before: str, rest: str) -> None:
    after = envfile.with_values(before, {"K": "new"})
    assert after.replace("'new'", "", 1) == rest and values(after)["K"] == "new"


def test_a_name_without_a_value_behind_it_does_not_take_it_away() -> None:
    after = envfile.with_values("K=old\nK\n", {"K": "new"})
    assert after.startswith("K='new'\nK\n") and values(after)["K"] == "new"


def test_a_byte_order_mark_stays() -> None:
    assert envfile.with_values("\ufeffA=1\nK=old\n", {"K": "new"}) == "\ufeffA=1\nK='new'\n"


def test_several_at_once() -> None:
    after = envfile.with_values("B=2\nA=1\n", {"A": "x", "C": "y", "B": "z"})
    assert after == "B='z'\nA='x'\nC='y'\n"


@dataclass(frozen=True)
class Piece:
    """A part of an env file: as it is, and as it is without the value of `NAME`."""

    text: str
    rest: str
    gives: bool | None = None  # of NAME: True a value, False none; None: it is about another name


def piece(text: str) -> Piece:
    return Piece(text, text)


SPACE = st.sampled_from(["", " ", "\t "])
COMMENT = st.sampled_from(["# mine", "#", "  # NAME=no", '# it\'s "so"', "#é"])
EMPTY = st.sampled_from(["", "   ", "\t"])
QUOTED = st.sampled_from(
    ["''", "'old'", '"old"', "'it is \\'so\\''", '"say \\"so\\""', '"$x \\\\"', '"two\nlines"', "'# a\n\r\nNAME=no\n'"]
)
PLAIN = st.sampled_from(["old", "o#d", "o'd", 'o"d', "$old", "o\\", "a b", "é=1", "NAME=1"])
OTHER = st.builds(
    lambda export, name, value: piece(f"{export}{name}={value}"),
    st.sampled_from(["", "export "]),
    st.sampled_from(["A", "NAMES", "A_NAME", "b"]),
    st.one_of(QUOTED, PLAIN, st.just("")),
)


@st.composite
def mentions(draw: st.DrawFn) -> Piece:
    """A line that gives NAME a value."""
    head = f"{draw(SPACE)}{draw(st.sampled_from(['', 'export ']))}NAME{draw(SPACE)}={draw(SPACE)}"
    quoted = draw(st.booleans())
    value = draw(QUOTED if quoted else st.one_of(PLAIN, st.just("")))
    spaces = ["", " ", "\t"] if quoted else [" ", "\t "]  # behind a quote a comment needs no space
    tail = draw(
        st.one_of(st.just(""), st.builds("{}{}".format, st.sampled_from(spaces), st.sampled_from(["#", "# c"])))
    )
    return Piece(head + value + tail, head + tail, gives=True)


BARE = st.builds(lambda export: Piece(f"{export}NAME", f"{export}NAME", gives=False), st.sampled_from(["", "export "]))
PIECES = st.lists(
    st.tuples(
        st.one_of(COMMENT.map(piece), EMPTY.map(piece), OTHER, mentions(), BARE), st.sampled_from(["\n", "\r\n"])
    ),
    max_size=8,
)


@given(PIECES, st.booleans())
@settings(max_examples=300)
def test_every_other_byte_stays_and_the_new_value_is_read_back(pieces: list[tuple[Piece, str]], whole: bool) -> None:
    ends = [end for _, end in pieces]
    if ends and not whole:
        ends[-1] = ""
    before = "".join(piece.text + end for (piece, _), end in zip(pieces, ends, strict=True))
    rest = "".join(piece.rest + end for (piece, _), end in zip(pieces, ends, strict=True))
    gives = [piece.gives for piece, _ in pieces if piece.gives is not None]
    after = envfile.with_values(before, {"NAME": NEW})
    assert values(after) == {**values(before), "NAME": NEW}
    if not gives or not gives[-1]:  # none that counts: a line of its own, behind all others
        rest += "NAME=\n" if rest.endswith("\n") or not rest else "\nNAME=\n"
    assert after.replace(f"'{NEW}'", "") == rest


# --- Replaced ---------------------------------------------------------------------------------------------------------


def test_a_reader_sees_a_whole_file_that_others_cannot_open(path: Path) -> None:
    """Not for a moment: the old one, then the new one, and whatever stands beside it is the owner's alone."""
    contents = [letter * 100_000 for letter in "ab"]
    envfile.replace(path, contents[0])
    torn, open_to_others, looks, done = [], [], [], threading.Event()

    def look() -> None:
        while not done.is_set():
            text = path.read_text()
            if text not in contents:
                torn.append(len(text))
            for entry in os.scandir(path.parent):
                try:
                    mode = entry.stat(follow_symlinks=False).st_mode & 0o077
                except FileNotFoundError:
                    continue
                open_to_others.extend([entry.name] if mode else [])
            looks.append(1)

    umask = os.umask(0)  # whose files others may write
    reader = threading.Thread(target=look)
    reader.start()
    try:
        for number in range(200):
            envfile.replace(path, contents[number % 2])
    finally:
        done.set()
        reader.join()
        os.umask(umask)
    assert looks and torn == [] and open_to_others == []
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("content", ["ä\n", b"\xff\x00", "", b""], ids=repr)
def test_what_is_written_is_what_is_there(path: Path, content: str | bytes) -> None:
    path.write_text("before")
    path.chmod(0o644)
    envfile.replace(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert path.stat().st_mode & 0o777 == 0o600


def killed_in(call: str, action: Callable[[], None]) -> None:
    """Run it in a process of its own, which SIGKILL ends when it comes to a call of `os`."""
    child = os.fork()
    if child == 0:
        setattr(os, call, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        try:
            action()
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL


@pytest.mark.parametrize("left", ["as it was", "open to others", "a link"])
def test_what_a_killed_run_left_is_no_obstacle(path: Path, left: str) -> None:
    envfile.replace(path, "old")
    killed_in("fsync", lambda: envfile.replace(path, "half"))
    [leftover] = [entry for entry in path.parent.iterdir() if entry != path]
    assert path.read_text() == "old" and leftover.stat().st_mode & 0o777 == 0o600
    elsewhere = path.parent / "elsewhere"
    elsewhere.write_text("mine")
    if left == "open to others":
        leftover.chmod(0o666)
    if left == "a link":
        leftover.unlink()
        leftover.symlink_to(elsewhere)
    envfile.replace(path, "new")
    assert path.read_text() == "new" and not path.is_symlink() and path.stat().st_mode & 0o777 == 0o600
    assert not leftover.is_symlink() and not leftover.exists() and elsewhere.read_text() == "mine"


def test_a_write_that_fails_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    envfile.replace(path, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(os, "fsync", full)
        envfile.replace(path, "new")
    assert path.read_text() == "old"
    envfile.replace(path, "new")
    assert path.read_text() == "new"


def test_a_link_to_a_file_elsewhere_stays_a_link(tmp_path: Path, path: Path) -> None:
    """Such as to an encrypted disk: a value that is written beside it would lie in the open."""
    (tmp_path / "vault").mkdir()
    real = tmp_path / "vault" / "real.env"
    envfile.replace(real, "old")
    path.symlink_to(real)
    envfile.replace(path, "new")
    assert path.is_symlink() and real.read_text() == "new"


def test_removed(path: Path) -> None:
    envfile.replace(path, "x")
    envfile.remove(path)
    assert not path.exists()
    envfile.remove(path)


# --- Read -------------------------------------------------------------------------------------------------------------


def test_nothing_there_is_nothing(path: Path) -> None:
    assert envfile.read(path) == {} and envfile.read_private(path) is None


def test_line_ends_are_kept(path: Path) -> None:
    envfile.replace(path, b"A=1\r\nB='2\r\n3'\r\n")
    assert envfile.read_private(path) == "A=1\r\nB='2\r\n3'\r\n"
    assert envfile.read(path) == {"A": "1", "B": "2\r\n3"}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_whatever_others_may_do_with_it_is_refused(path: Path, mode: int) -> None:
    path.write_text("A=hunter2\n")
    path.chmod(mode)
    assert refusal(path) == [f"error: {path} can be read by others on this machine", f"hint: chmod 600 {path}"]


def no_text(path: Path) -> None:
    envfile.replace(path, b"A=hunter2\xff\n")


UNREADABLE: dict[str, tuple[Callable[[Path], None], str]] = {
    "no text": (no_text, "it is not UTF-8 text"),
    "a folder": (lambda path: path.mkdir(mode=0o700), "Is a directory"),
    "a link in a circle": (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
    "a file in a folder's place": (lambda path: no_text(path.parent), "Not a directory"),
}


@pytest.mark.parametrize(("make", "why"), UNREADABLE.values(), ids=UNREADABLE)
def test_what_cannot_be_read_is_one_sentence(tmp_path: Path, make: Callable[[Path], None], why: str) -> None:
    path = tmp_path / ("folder/x.env" if why == "Not a directory" else "x.env")
    make(path)
    assert refusal(path) == [f"error: {path} cannot be read: {why}", "hint: mend it, or move it away"]


@pytest.mark.parametrize("line", ["B='hunter2", 'B="hunter2', "B='hunter2' x", "=hunter2", "B='hunter\\'2\nC=3"])
def test_a_line_that_says_nothing_is_told(path: Path, line: str) -> None:
    """Read past, an open quote takes other lines with it: their secrets would be made anew, and lost."""
    envfile.replace(path, f"A=1\n{line}\nD='4'\n")
    assert f"line 2 of {path}" in refusal(path)[0]


# --- One writer -------------------------------------------------------------------------------------------------------


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_the_folder_is_made_for_the_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    with envfile.locked(folder):
        assert folder.stat().st_mode & 0o777 == 0o700
        assert [path.stat().st_mode & 0o777 for path in folder.iterdir()] == [0o600]


def test_what_takes_a_files_place_is_on_the_disk_before_and_after(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss of power then leaves the old file or the new one."""
    done: list[object] = []
    rename = Path.replace

    def fsync(descriptor: int) -> None:
        done.append(Path(f"/proc/self/fd/{descriptor}").resolve().name)

    def replaced(old: Path, new: Path) -> Path:
        done.append("renamed")
        return rename(old, new)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replaced)
    envfile.replace(path, "A=1\n")
    assert done == [f".{path.name}.new", "renamed", path.parent.name]
    done.clear()
    envfile.remove(path)
    assert done == [path.parent.name] and not path.exists()


def waiters_for(path: Path) -> int:
    """How many wait for a file's lock; the kernel lists them behind its holder with an arrow."""
    number = path.stat().st_ino
    waiting = re.compile(rf"^\d+: +-> FLOCK\s+ADVISORY\s+WRITE \d+ [0-9a-f]+:[0-9a-f]+:{number} ", re.MULTILINE)
    return len(waiting.findall(Path("/proc/locks").read_text()))


def test_writers_wait_for_each_other(tmp_path: Path) -> None:
    folder = tmp_path / "not yet" / "secrets"
    order: list[str] = []

    def write(name: str) -> None:
        with envfile.locked(folder):
            order.append(name)

    writers = [threading.Thread(target=write, args=(name,)) for name in ("second", "third")]
    with envfile.locked(folder):
        assert folder.stat().st_mode & 0o777 == 0o700 and (folder / ".lock").stat().st_mode & 0o777 == 0o600
        for writer in writers:
            writer.start()
        while not order and waiters_for(folder / ".lock") < 2:
            time.sleep(0.001)
        order.append("first")
    for writer in writers:
        writer.join()
    assert order[0] == "first" and sorted(order[1:]) == ["second", "third"]


def test_the_lock_of_a_killed_run_is_free(tmp_path: Path) -> None:
    def hold() -> None:
        with envfile.locked(tmp_path):
            os.fsync(0)

    killed_in("fsync", hold)
    with envfile.locked(tmp_path):
        pass


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("blank", [0, 1, 3])
def test_the_line_that_says_nothing_is_named(blank: int, ends: str) -> None:
    """Not the blank ones before it."""
    text = "A=1\n" + ends * blank + "no name = here\nB=2\n"
    with pytest.raises(UserError) as caught:
        envfile.bindings("x.env", text, "look at it")
    assert list(caught.value.problems) == [Problem(f"line {2 + blank} of x.env is no `NAME=value`", "look at it")]
