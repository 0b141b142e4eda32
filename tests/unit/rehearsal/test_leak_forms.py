"""The instruments of the leak scan, as far as they need no host: each finds what is planted, and shows no value."""

from __future__ import annotations

import base64
import gzip
import io
import json
import random
import shlex
import shutil
import struct
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostside.envfile import quote as env_quote
from tests.rehearsal.instruments.leaks import (
    SHORTEST_SECRET,
    Canaries,
    Processes,
    forms,
    in_folder,
    in_git,
    in_saved,
    in_text,
    journal_entries,
)

NASTY = "Zq8'\"$& é\\%n/漢-_+tail"
TEXTS = st.text(st.sampled_from("'\"\\$ %&\n/+?é") | st.characters(exclude_categories=["Cs"]), max_size=40)
SECRETS = TEXTS.filter(lambda text: len(text.encode()) >= SHORTEST_SECRET)
ENCODERS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "shlex": shlex.quote,
    "shlex twice": lambda text: shlex.quote(shlex.quote(text)),
    "single quotes with backslashes": lambda text: "'" + text.replace("'", "'\\''") + "'",
    "json": json.dumps,
    "json in UTF-8": lambda text: json.dumps(text, ensure_ascii=False),
    "json in a compose file": lambda text: json.dumps(text).replace("$", "$$"),
    "repr": repr,
    "repr of bytes": lambda text: repr(text.encode()),
    "env file": env_quote,
    "compose": lambda text: text.replace("$", "$$"),
    "URL": lambda text: quote(text, safe=""),
    "URL path": quote,
    "URL query": quote_plus,
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "URL-safe base64": lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
}


@pytest.mark.parametrize("encode", ENCODERS.values(), ids=ENCODERS)
@settings(max_examples=50, deadline=None)
@given(before=TEXTS, secret=SECRETS, after=TEXTS)
def test_a_secret_is_found_in_whatever_it_was_encoded_with(
    encode: Callable[[str], str], before: str, secret: str, after: str
) -> None:
    assert Canaries({"A": secret}).find(encode(before + secret + after).encode())


OUTER = ("shlex", "json", "json in UTF-8", "compose", "base64", "URL-safe base64")


@pytest.mark.parametrize("outer", OUTER)
@pytest.mark.parametrize("inner", ["shlex", "json", "json in UTF-8", "env file", "compose"])
@settings(max_examples=20, deadline=None)
@given(before=TEXTS, secret=SECRETS, after=TEXTS)
def test_a_secret_is_found_two_encodings_deep(outer: str, inner: str, before: str, secret: str, after: str) -> None:
    inside = ENCODERS[inner](before + secret + after)
    assert Canaries({"A": secret}).find(ENCODERS[outer](f"X={inside}\n").encode())


@pytest.mark.parametrize("size", [20, 33, 57])
def test_base64_in_lines_is_found_wherever_a_line_breaks(size: int) -> None:
    secret = random.Random(size).randbytes(size).hex()[:size]
    canaries = Canaries({"A": secret})
    assert all(canaries.find(base64.encodebytes(b"x" * before + secret.encode() + b"y" * 99)) for before in range(58))


def test_go_writes_json_in_its_own_way() -> None:
    assert forms("ten&letters<>")["Go JSON"] == rb"ten\u0026letters\u003c\u003e"


def test_how_repr_writes_a_quote_depends_on_what_stands_beside() -> None:
    canaries = Canaries({"A": "it's né here"})
    for text in ("it's né here", "it's né here\""):
        assert canaries.find(repr(text).encode()) and canaries.find(repr(text.encode()).encode())


def test_a_form_is_listed_once_and_never_short() -> None:
    patterns = list(forms(NASTY).values())
    assert len(patterns) == len(set(patterns)) and min(map(len, patterns)) >= SHORTEST_SECRET
    plain = forms("plainletters")
    assert [name for name in plain if "base64" not in name] == ["raw"]


def planted(count: int = 12) -> Canaries:
    chance = random.Random(8193)
    return Canaries({f"N{number}": f"{chance.randbytes(9).hex()}{NASTY}" for number in range(count)})


@settings(deadline=None)
@given(
    st.lists(st.text("ab'", min_size=SHORTEST_SECRET, max_size=14), max_size=4),
    st.lists(st.text("ab'\\\"", max_size=30), max_size=8),
)
def test_the_quick_search_finds_what_a_slow_one_finds(values: list[str], texts: list[str]) -> None:
    canaries = Canaries({str(number): value for number, value in enumerate(values)})
    data = "".join([*texts, *values[:1], *texts]).encode()
    slow = {
        f"{name} as {form.partition(',')[0]}"
        for name in canaries.names
        for form, pattern in canaries.forms(name).items()
        if pattern in data
    }
    assert canaries.find(data) == sorted(slow)


@pytest.mark.parametrize("form", ["raw", "Go JSON", "URL", "raw in base64 at 2", "JSON in base64 at 1, first half"])
def test_nothing_hides_at_a_border(form: str) -> None:
    """At every alignment, around the borders of the search's own slices and of a stream's chunks."""
    canaries = Canaries({"A": NASTY})
    pattern = forms(NASTY)[form]
    slice_size = 256 << 10
    starts = [*range(9), *range(slice_size - len(pattern) - 8, slice_size + 9)]
    for start in starts:
        data = b"x" * start + pattern + b"y" * (start % 5)
        assert f"A as {form.partition(',')[0]}" in canaries.find(data)
    for size in range(1, 2 * len(pattern)):
        data = b"xyz" + pattern + b"z"
        assert canaries.find_in(data[at : at + size] for at in range(0, len(data), size)) == canaries.find(data)


def test_every_name_that_has_a_value_is_told() -> None:
    canaries = Canaries({"OUTER": "12345abcdefghij6789", "INNER": "abcdefghij", "SAME": "abcdefghij"})
    assert canaries.find(b"-abcdefghij-") == ["INNER as raw", "SAME as raw"]
    assert canaries.find(b"-12345abcdefghij6789-") == ["INNER as raw", "OUTER as raw", "SAME as raw"]
    assert canaries.find(b"-12345abcdefghi") == [] == canaries.find(b"")
    assert Canaries({}).find(b"anything") == [] == Canaries({}).find_in([b"anything"])


def test_no_value_is_shown() -> None:
    canaries = Canaries({"A": NASTY})
    assert repr(canaries) == str(canaries) == "Canaries(A)"
    for encode in ENCODERS.values():
        masked = canaries.masked(f"begin {encode(NASTY)} end")
        assert masked.startswith("begin ") and "<A>" in masked and not canaries.find(masked.encode())
        told = in_text(canaries, "of a test", encode(NASTY))
        assert told and not canaries.find("\n".join(told).encode())
        assert all(line.startswith("output of a test: A as ") for line in told)
    with pytest.raises(ValueError, match=r"innocent text: \['SHORT'\]") as refused:
        Canaries({"SHORT": "pass", "A": NASTY})
    assert "'pass'" not in str(refused.value) and not canaries.find(str(refused.value).encode())


def test_grep_gets_a_line_of_every_form() -> None:
    canaries = Canaries({"KEY": "-----begin\n\nabcdefgh ijkl\n-----end\n", "B": NASTY})
    lines = canaries.grep_patterns().split(b"\n")
    assert lines.pop() == b"" and all(len(line) >= SHORTEST_SECRET for line in lines)
    for name in canaries.names:
        assert all(any(line in pattern for line in lines) for pattern in canaries.forms(name).values())


# -- folders and checkouts ----------------------------------------------------------------------------------------


def in_names() -> Canaries:
    """Four whose values can be the name of a file."""
    return Canaries({name: planted().value(name).replace("/", "|") for name in ("N0", "N1", "N2", "N3")})


def test_a_folder_is_searched_by_content_name_and_link(tmp_path: Path) -> None:
    canaries = in_names()
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/clean").write_text("nothing")
    (tmp_path / "a/gone").symlink_to("nowhere")
    assert in_folder(canaries, tmp_path) == []
    (tmp_path / "a/b/.hidden").write_bytes(b"\xff\0" * 700_000 + json.dumps(canaries.value("N0")).encode())
    (tmp_path / "a/wanted.env").write_text(canaries.value("N1"))
    (tmp_path / "a" / canaries.value("N2")).mkdir()
    (tmp_path / "a" / canaries.value("N2") / "below").touch()
    (tmp_path / "a/link").symlink_to(canaries.value("N3"))
    leaks = ["folder a/b/.hidden: N0 as JSON", "folder name a/<N2>: N2 as raw", "folder name a/link: N3 as raw"]
    assert sorted(in_folder(canaries, tmp_path, intended=["*/a/wanted.env"])) == leaks
    assert sorted(in_folder(canaries, tmp_path)) == sorted([*leaks, "folder a/wanted.env: N1 as raw"])
    with pytest.raises(ValueError, match="nothing was looked at"):
        in_folder(canaries, tmp_path / "missing")


@pytest.fixture
def checkout(tmp_path: Path) -> Callable[..., None]:
    """git in a new checkout at tmp_path with the files `kept`, `renamed` and an ignored name."""

    def git(*words: str) -> None:
        identity = ("-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "commit.gpgsign=false")
        subprocess.run(["git", "-C", tmp_path, *identity, *words], check=True, capture_output=True)

    git("init", "-q")
    for name, text in {
        "kept": "old\n",
        "moved": "long enough to be known again\n" * 9,
        ".gitignore": "*.env\n",
    }.items():
        (tmp_path / name).write_text(text)
    git("add", ".")
    git("commit", "-qm", "first")
    return git


def test_a_checkout_is_searched_by_what_could_be_committed(tmp_path: Path, checkout: Callable[..., None]) -> None:
    canaries = in_names()
    (tmp_path / "ignored.env").write_text(canaries.value("N0"))
    assert in_git(canaries, tmp_path) == []

    def found() -> list[str]:
        told = in_git(canaries, tmp_path)
        for words in (("reset", "-q", "--hard"), ("clean", "-qfd")):
            checkout(*words)
        assert in_git(canaries, tmp_path) == []
        return told

    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/new").write_text(repr(canaries.value("N0")))
    assert found() == ["git sub/new: N0 as repr"]
    (tmp_path / "kept").write_text(canaries.value("N1"))
    assert found() == ["git kept: N1 as raw", "git diff: N1 as raw"]
    (tmp_path / "kept").write_text(f"{canaries.value('N1')}\nstaged only\n")
    checkout("add", "kept")
    (tmp_path / "kept").unlink()
    told = found()
    assert {"git staged kept: N1 as raw", "git diff --cached: N1 as raw"} <= {*told} and "git kept" not in str(told)
    checkout("mv", "moved", canaries.value("N2"))
    assert "git name <N2>: N2 as raw" in found()
    (tmp_path / "link").symlink_to(canaries.value("N3"))
    assert found() == ["git name link: N3 as raw"]


# -- what docker saves, what journald exports ---------------------------------------------------------------------


def tar_of(files: dict[str, bytes | str], xattr: str = "") -> bytes:
    """A tar; text as content is the target of a link."""
    blob = io.BytesIO()
    with tarfile.open(fileobj=blob, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                tar.addfile(info)
            else:
                info.size = len(content)
                info.pax_headers = {"SCHILY.xattr.user.note": xattr} if xattr else {}
                tar.addfile(info, io.BytesIO(content))
    return blob.getvalue()


def zstd(data: bytes) -> bytes:
    if not shutil.which("zstd"):
        pytest.skip("no zstd here")
    return subprocess.run(["zstd", "-qc"], input=data, capture_output=True, check=True).stdout


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstd])
def test_layers_are_searched_whatever_they_are_packed_with(pack: Callable[[bytes], bytes]) -> None:
    canaries = planted()
    value = canaries.value
    clean: dict[str, bytes | str] = {"etc/motd": b"welcome", "big": b"\0" * (3 << 20), "empty": b""}

    def saved(layer: bytes, config: str = "{}") -> list[str]:
        files: dict[str, bytes | str] = {
            "blobs/sha256/" + "ab" * 32: pack(layer),
            "config.json": pack(config.encode()),
            "oci-layout": b"{}",
        }
        return in_saved(canaries, io.BytesIO(tar_of(files)))

    assert saved(tar_of(clean)) == []
    assert saved(tar_of({})) == []
    in_file = {**clean, "a/b": b"\xff" * ((1 << 20) - 5) + value("N0").encode() + b"\xff", "last": b""}
    assert saved(tar_of(in_file)) == ["image blobs/sha256/abababababab a/b: N0 as raw"]
    as_name = {**clean, f"{'long/' * 30}{value('N1')}": b""}
    [told] = saved(tar_of(as_name))
    assert told.startswith("image blobs/sha256/abababababab long/") and told.endswith("/<N1>: N1 as raw")
    assert saved(tar_of({**clean, "l": value("N2")})) == ["image blobs/sha256/abababababab l: N2 as raw"]
    told_of_all = saved(tar_of({"x": b""}, xattr=value("N3")))
    assert told_of_all == ["image blobs/sha256/abababababab x: N3 as raw"]
    history = json.dumps({"history": [{"created_by": f"RUN echo {shlex.quote(value('N4'))}"}]})
    assert saved(tar_of(clean), history) == ["image config.json: N4 as shell in JSON"]


def test_an_export_of_the_journal_is_read_in_both_of_its_notations() -> None:
    binary = b"line\n\nMESSAGE=not a field\0"
    export = b"MESSAGE=one\n_PID=1\n\nA=\nMESSAGE\n" + struct.pack("<Q", len(binary)) + binary + b"\n_PID=2\n\n"
    assert list(journal_entries(export)) == [
        [("MESSAGE", b"one"), ("_PID", b"1")],
        [("A", b""), ("MESSAGE", binary), ("_PID", b"2")],
    ]


# -- processes ----------------------------------------------------------------------------------------------------


def test_a_process_is_seen_with_all_its_arguments_while_the_block_runs() -> None:
    canaries = planted(3)
    wait = [sys.executable, "-c", "import time; time.sleep(0.3)"]
    subprocess.run([*wait, canaries.value("N0")], check=True)
    with Processes() as processes:
        subprocess.run([*wait, "x" * 100_000, f"--token={canaries.value('N1')}"], check=True)
    subprocess.run([*wait, canaries.value("N2")], check=True)
    assert processes.samples > 1 and processes.seen > 1
    [told] = processes.findings(canaries)
    assert told.startswith("process ") and told.endswith(": N1 as raw")
