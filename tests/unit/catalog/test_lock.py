"""lock.json: read, refused, laid over the shipped one, and written whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gpuhost.catalog import lock
from gpuhost.catalog.lock import Lock, Pins
from gpuhost.errors import UserError

A, B, C = "a" * 64, "b" * 64, "c" * 64
MODEL = {"commit": "d" * 40, "files": {"x y/é.safetensors": {"size": 0, "sha256": None, "git_sha1": "e" * 40}}}


def content(**over: Any) -> dict[str, Any]:
    """A lock.json with one entry a kind."""
    return {
        "version": 1,
        "models": {"Acme/Models": {"main": MODEL}},
        "images": {"acme/server:v1": {"digest": f"sha256:{A}"}},
        "installs": {"tree": {"for": B, "requirements": [f"torch==2.8.0+cu128 --hash=sha256:{C}"]}},
        **over,
    }


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "site").mkdir()
    (tmp_path / "gpuhost").mkdir()
    return tmp_path / "site"


def read(site: Path) -> Pins:
    return lock.read(site, site.parent / "gpuhost", "lab/lock.json")


def test_no_lock_locks_nothing(site: Path) -> None:
    assert read(site) == Pins(shown="lab/lock.json")
    assert (Pins().digest("a:1"), Pins().requirements("tree", B), Pins().model("a/b", "main")) == (None, None, None)


def test_what_is_written_is_read_and_sorted(site: Path) -> None:
    written = Lock.model_validate(content(images={"z:1": {"digest": f"sha256:{A}"}, "a:1": {"digest": f"sha256:{B}"}}))
    lock.write(site, written)
    text = (site / "lock.json").read_text()
    assert read(site).own == written
    assert text.endswith("}\n") and text.index('"a:1"') < text.index('"z:1"') and "é" in text
    assert json.loads(text)["installs"]["tree"]["for"] == B
    assert '\n  "images": {\n    "a:1": {\n' in text  # so that a diff shows what moved
    assert lock.text(written) == text  # nothing in it but what was locked: no time, no name of a machine


def test_the_sites_counts_before_the_shipped_one_entry_by_entry(site: Path) -> None:
    shipped = content(images={"a:1": {"digest": f"sha256:{A}"}, "b:1": {"digest": f"sha256:{A}"}})
    (site.parent / "gpuhost/lock.json").write_text(json.dumps(shipped))
    (site / "lock.json").write_text(json.dumps({"version": 1, "images": {"b:1": {"digest": f"sha256:{B}"}}}))
    pins = read(site)
    assert (pins.digest("a:1"), pins.digest("b:1"), pins.digest("c:1")) == (f"sha256:{A}", f"sha256:{B}", None)
    assert pins.requirements("tree", B) and pins.requirements("tree", A) is None
    assert pins.model("Acme/Models", "main") and pins.model("Acme/Models", "v2") is None
    merged = content(images={"a:1": {"digest": f"sha256:{A}"}, "b:1": {"digest": f"sha256:{B}"}})
    assert pins.merged() == Lock.model_validate(merged)
    assert not pins.stale("tree", A)  # a shipped one of another entry is none; the site may have changed that


def test_what_both_name_is_the_sites(site: Path) -> None:
    (site.parent / "gpuhost/lock.json").write_text(json.dumps(content()))
    model = {**MODEL, "commit": "f" * 40}
    packages = [f"torch==2.9.0 --hash=sha256:{C}"]
    own: dict[str, Any] = {"models": {"Acme/Models": {"v2": MODEL, "main": model}}, "images": {}}
    own |= {"installs": {"tree": {"for": B, "requirements": packages}}}
    (site / "lock.json").write_text(json.dumps({"version": 1, **own}))
    pins = read(site)
    found = pins.model("Acme/Models", "main")
    assert found and found.commit == "f" * 40 and pins.model("Acme/Models", "v2")
    assert pins.requirements("tree", B) == packages
    assert pins.merged() == Lock.model_validate({"version": 1, **own, "images": content()["images"]})


def test_what_a_pull_downloads_is_kept_beside_the_digest_where_it_is_known(site: Path) -> None:
    images = {"a:1": {"digest": f"sha256:{A}", "download_bytes": 7}, "b:1": {"digest": f"sha256:{B}"}}
    lock.write(site, Lock.model_validate(content(images=images)))
    assert json.loads((site / "lock.json").read_text())["images"] == images
    assert [read(site).image_bytes(name) for name in ("a:1", "b:1", "c:1")] == [7, None, None]


def test_a_lock_of_another_entry_is_stale(site: Path) -> None:
    (site / "lock.json").write_text(json.dumps(content()))
    pins = read(site)
    assert (pins.stale("tree", B), pins.stale("tree", A), pins.stale("other", A)) == (False, True, False)
    assert pins.requirements("tree", A) is None


def test_gpuhosts_own_folder_as_the_site(site: Path) -> None:
    (site / "lock.json").write_text(json.dumps(content()))
    pins = lock.read(site, site)
    assert pins.own.installs and pins.shipped == lock.EMPTY


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "is not JSON"),
        ("<<<<<<< HEAD\n{}", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "input should be an object"),
        ("{}", "`version`: field required"),
        ('{"version": 2}', "`version`: input should be 1"),
        ('{"version": 1, "imagez": {}}', "`imagez`: extra inputs are not permitted"),
        ('{"version": 1, "images": {}, "images": {}}', "`images` stands twice"),
        (json.dumps(content(images={"a:1": {"digest": "sha256:1"}})), "`images.a:1.digest`: `sha256:1` is not of"),
        (json.dumps(content(images={"a:1": {"digest": f"sha256:{A}", "x": 1}})), "`images.a:1.x`: extra inputs"),
        (json.dumps(content(installs={"tree": {"for": B, "requirements": []}})), "`installs.tree.requirements`"),
        *(
            (json.dumps(content(installs={"tree": {"for": B, "requirements": [line]}})), "is not of the right form")
            for line in (
                "torch==2.8.0",
                "torch>=2.8.0 --hash=sha256:" + A,
                "-r /etc/shadow --hash=sha256:" + A,
                f"a==1 --hash=sha256:{A}\n--index-url=http://evil.example",
                f"a==1 --index-url=http://evil.example --hash=sha256:{A}",
                f"a @ https://evil.example/a.whl --hash=sha256:{A}",
                f"a==1 --hash=md5:{A}",
            )
        ),
        *(
            (
                json.dumps(content(models={"a/b": {"main": {**MODEL, "files": {path: {}}}}})),
                "is no path in a repository",
            )
            for path in ("/etc/x", "../x", "a/../../x", "", "a\0b")
        ),
        (json.dumps(content(models={"a/b": {"main": {**MODEL, "commit": "main"}}})), "`models.a/b.main.commit`"),
        (json.dumps(content()).replace('"size": 0', '"size": -1'), "input should be greater than or equal to 0"),
    ],
)
def test_what_is_no_lock_is_refused(site: Path, text: str, what: str) -> None:
    """One sentence that names the file and the field, and what to do."""
    (site / "lock.json").write_text(text)
    with pytest.raises(UserError) as caught:
        read(site)
    assert any(what in problem.what for problem in caught.value.problems), caught.value.problems
    assert all(problem.what.startswith("lab/lock.json") for problem in caught.value.problems)
    assert all("gpuhost lock" in problem.hint and len(problem.what) < 200 for problem in caught.value.problems)


def test_the_first_three_faults_are_told(site: Path) -> None:
    (site / "lock.json").write_text(json.dumps({"version": 1, "a": 1, "b": 1, "c": 1, "d": 1}))
    with pytest.raises(UserError) as caught:
        read(site)
    assert [problem.what for problem in caught.value.problems] == [
        f"lab/lock.json: `{name}`: extra inputs are not permitted" for name in "abc"
    ]


@pytest.mark.parametrize("length", [60, 61])
def test_of_a_long_value_the_beginning_is_told(site: Path, length: int) -> None:
    value = ("x" * length)[:-1] + "y"
    (site / "lock.json").write_text(json.dumps(content(images={"a:1": {"digest": value}})))
    with pytest.raises(UserError) as caught:
        read(site)
    shown = value if length == 60 else "x" * 57 + "..."
    [problem] = caught.value.problems
    assert problem.what == f"lab/lock.json: `images.a:1.digest`: `{shown}` is not of the right form"


@pytest.mark.parametrize("more", [0, 1])
def test_a_lock_has_at_most_64_mebibytes(site: Path, more: int) -> None:
    text = b'{"version": 1'
    with (site / "lock.json").open("wb") as file:
        file.write(text.ljust((64 << 20) + more - 1) + b"}")
    if not more:
        assert read(site).own == lock.EMPTY
        return
    with pytest.raises(UserError, match=r"lab/lock\.json is larger than 64 MiB"):
        read(site)


def test_a_fault_of_the_whole_names_no_field(site: Path) -> None:
    (site / "lock.json").write_text("[]")
    with pytest.raises(UserError, match=r"^lab/lock\.json: input should be an object$") as caught:
        read(site)
    assert len(caught.value.problems) == 1


def test_a_shipped_lock_is_named_as_such(site: Path) -> None:
    (site.parent / "gpuhost/lock.json").write_text("{")
    with pytest.raises(UserError, match=r"gpuhost's own lock\.json is not JSON"):
        read(site)


def test_a_lock_that_cannot_be_read(site: Path) -> None:
    (site / "lock.json").mkdir()
    with pytest.raises(UserError, match=r"lab/lock\.json cannot be read: Is a directory"):
        read(site)


def test_a_folder_that_is_not_there_gets_no_lock(site: Path) -> None:
    with pytest.raises(UserError, match="cannot be written: No such file or directory"):
        lock.write(site / "absent", lock.EMPTY)


def test_a_lock_is_changed_by_writing_another(site: Path) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Lock.model_validate(content()).version = 1


def test_a_link_stays_one(site: Path) -> None:
    (site / "lock.json").symlink_to("kept.json")
    lock.write(site, lock.EMPTY)
    assert (site / "lock.json").is_symlink() and json.loads((site / "kept.json").read_text())["version"] == 1


def test_it_is_utf8_whatever_the_locale_is(site: Path) -> None:
    (site / "lock.json").write_text(json.dumps(content(), ensure_ascii=False), encoding="utf-8")
    code = "import sys; from pathlib import Path; from gpuhost.catalog import lock; site = Path(sys.argv[1]); "
    code += "lock.write(site, lock.read(site, site).own)"
    ascii_ = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", code, site], env=ascii_, check=True)
    assert "é" in (site / "lock.json").read_text(encoding="utf-8")


def test_a_full_disk_leaves_the_old_one(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock.write(site, Lock.model_validate(content()))
    before = (site / "lock.json").read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="cannot be written: No space left on device"):
        lock.write(site, lock.EMPTY)
    assert (site / "lock.json").read_bytes() == before and [path.name for path in site.iterdir()] == ["lock.json"]


_hex = st.text("0123456789abcdef", min_size=64, max_size=64)


@given(st.dictionaries(st.text(max_size=20), _hex), st.dictionaries(st.text(max_size=9), st.tuples(_hex, _hex)))
def test_any_lock_reads_back(images: dict[str, str], installs: dict[str, tuple[str, str]]) -> None:
    made = content(
        images={name: {"digest": f"sha256:{digest}"} for name, digest in images.items()},
        installs={
            name: {"for": subject, "requirements": [f"a==1 --hash=sha256:{digest}"]}
            for name, (subject, digest) in installs.items()
        },
    )
    parsed = Lock.model_validate(made)
    assert Lock.model_validate_json(lock.text(parsed)) == parsed
