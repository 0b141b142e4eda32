"""An archive of secret files: what goes in comes out, nobody else reads it, and what is refused is named.

A passphrase costs scrypt's second each time, so what is about the tar inside is tried with a seal that costs nothing.
"""

from __future__ import annotations

import base64
import io
import subprocess
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyrage
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuhost.errors import UserError
from gpuhost.secrets import archive

FILES = {".env": b"HF_TOKEN=hunter2-in-a-shared-file\n", "secrets/gpu1.env": b"API_TOKEN='\xff\x00 of one host'\n" * 40}
PHRASE = "correct horse"

SEGMENT = st.text(st.characters(categories=("L", "N", "P", "S", "Zs")), min_size=1, max_size=70).filter(
    lambda text: "/" not in text and text not in (".", "..") and text.isprintable()
)
NAMES = st.lists(SEGMENT, min_size=1, max_size=4).map("/".join)


@pytest.fixture(scope="module")
def packed() -> bytes:
    return archive.pack(FILES, PHRASE)


@pytest.fixture
def unsealed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pack and unpack without encryption: a header and the tar."""
    header = b"age-encryption.org/v1\n"
    plain = SimpleNamespace(
        encrypt=lambda data, _: header + data,
        decrypt=lambda data, _: data.removeprefix(header),
    )
    monkeypatch.setattr(archive, "sealed", plain)


def sealed(inside: bytes) -> bytes:
    return b"age-encryption.org/v1\n" + inside


def tar(*members: tarfile.TarInfo, content: bytes = b"hunter2") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as made:
        for each in members:
            made.addfile(each, io.BytesIO(content))
    return stream.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, pax: dict[str, str] | None = None) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.size = kind, 7 if kind == tarfile.REGTYPE else 0
    made.linkname, made.pax_headers = "/etc/passwd" if kind != tarfile.REGTYPE else "", pax or {}
    return made


def refusal(data: bytes, passphrase: str = PHRASE) -> list[str]:
    with pytest.raises(UserError) as caught:
        archive.unpack(data, passphrase)
    [problem] = caught.value.problems
    assert "hunter2" not in "\n".join([*problem.lines(), repr(caught.value)])
    return problem.lines()


def test_what_goes_in_comes_out(packed: bytes) -> None:
    assert archive.unpack(packed, PHRASE) == FILES


@pytest.mark.usefixtures("unsealed")
@given(st.dictionaries(NAMES, st.binary(max_size=2000), max_size=5))
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_names_and_any_bytes_come_back(files: dict[str, bytes]) -> None:
    assert archive.unpack(archive.pack(files, PHRASE), PHRASE) == files


def test_it_is_an_age_file_for_a_passphrase(packed: bytes) -> None:
    assert packed.startswith(b"age-encryption.org/v1\n-> scrypt ")


def test_nothing_of_the_files_can_be_read(packed: bytes) -> None:
    for name, content in FILES.items():
        for secret in (name.encode(), content, *content.split()):
            # Base64 without the first and last characters: those depend on what stands around.
            coded = [base64.b64encode(bytes(shift) + secret)[4:-4] for shift in range(3)]
            assert not [each for each in (secret, *coded) if len(each) >= 4 and each in packed]


@pytest.mark.usefixtures("unsealed")
def test_the_tar_tells_nothing_but_names_and_content() -> None:
    made = archive.pack(FILES, PHRASE)
    assert made == archive.pack(dict(reversed(FILES.items())), PHRASE)
    with tarfile.open(fileobj=io.BytesIO(made.removeprefix(sealed(b"")))) as inside:
        for each in inside:
            assert (each.mode, each.mtime, each.uid, each.gid, each.uname, each.gname) == (0o600, 0, 0, 0, "", "")


@pytest.mark.usefixtures("unsealed")
def test_tar_opens_it_without_us(tmp_path: Path) -> None:
    files = {**FILES, "secrets/" + "long" * 40 + ".env": b"x", "secrets/grün.env": b"y"}
    inside = archive.pack(files, PHRASE).removeprefix(sealed(b""))
    subprocess.run(["tar", "-x", "-f", "-", "-C", str(tmp_path)], input=inside, check=True)
    for name, content in files.items():
        assert (tmp_path / name).read_bytes() == content and (tmp_path / name).stat().st_mode & 0o777 == 0o600


def test_another_passphrase(packed: bytes) -> None:
    assert refusal(packed, PHRASE + " ") == [
        "error: the passphrase does not open this archive",
        "hint: type the one that it was packed with; if this is it, the archive is damaged: take another copy",
    ]


@pytest.mark.parametrize("data", [b"", b"hunter2", tar(member(".env")), b" age-encryption.org/v1\n"])
def test_no_age_file(data: bytes) -> None:
    assert refusal(data) == ["error: this is no age file", "hint: give the file that an export wrote"]


@pytest.mark.parametrize("length", [22, 60, 150, -1], ids=["version", "stanza", "header", "all but a byte"])
def test_a_file_that_was_cut(packed: bytes, length: int) -> None:
    assert refusal(packed[:length]) == ["error: this archive is damaged", "hint: take another copy of it"]


@pytest.mark.parametrize("position", [-40, 120], ids=["payload", "header"])
def test_a_bit_that_flipped(packed: bytes, position: int) -> None:
    data = bytearray(packed)
    data[position] ^= 1
    assert refusal(bytes(data)) == ["error: this archive is damaged", "hint: take another copy of it"]


def test_a_file_for_a_key() -> None:
    data = pyrage.encrypt(b"hunter2", [pyrage.x25519.Identity.generate().to_public()])
    assert refusal(data) == [
        "error: this age file was encrypted to a key, not with a passphrase",
        "hint: give the file that an export wrote; `age -d -i KEY FILE` opens this one",
    ]


def test_a_machine_that_was_busy_for_a_moment(packed: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    measured, genuine = iter([False, False, True]), pyrage.passphrase.decrypt

    def decrypt(data: bytes, passphrase: str) -> Any:
        if next(measured):
            return genuine(data, passphrase)
        raise pyrage.DecryptError("Excessive work parameter for passphrase")

    monkeypatch.setattr(archive, "sealed", SimpleNamespace(decrypt=decrypt))
    assert archive.unpack(packed, PHRASE) == FILES


def test_a_passphrase_that_takes_too_long(packed: bytes) -> None:
    start, _, rest = packed.partition(b"\n-> scrypt ")
    salt, _, rest = rest.partition(b" ")
    data = b"".join([start, b"\n-> scrypt ", salt, b" 30\n", rest.partition(b"\n")[2]])
    assert refusal(data)[0] == "error: the passphrase of this archive takes this machine too long to check"


NO_TAR = ["error: what is inside this age file is no tar", "hint: give the file that an export wrote"]


@pytest.mark.usefixtures("unsealed")
@pytest.mark.parametrize(
    "inside",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"API_TOKEN=hunter2\n" * 100, id="text"),
        pytest.param(tar(member(".env"))[:600], id="half a file"),
        pytest.param(tar(member(".env"))[:1024] + b"API_TOKEN=hunter2\n" * 100, id="text behind a file"),
    ],
)
def test_no_tar_inside(inside: bytes) -> None:
    assert refusal(sealed(inside)) == NO_TAR


@pytest.mark.usefixtures("unsealed")
@pytest.mark.parametrize(
    ("members", "name"),
    [
        ([member("/etc/passwd")], "'/etc/passwd'"),
        ([member("../x")], "'../x'"),
        ([member("secrets/../../x")], "'secrets/../../x'"),
        ([member("./.env")], "'./.env'"),
        ([member("a//b")], "'a//b'"),
        ([member("a\x1b[2J")], r"'a\x1b[2J'"),
        ([member(".env"), member(".env")], "'.env'"),
        ([member("a", tarfile.SYMTYPE)], "'a'"),
        ([member("a", tarfile.LNKTYPE)], "'a'"),
        ([member("a", tarfile.DIRTYPE)], "'a'"),
        ([member("a", tarfile.FIFOTYPE)], "'a'"),
        ([member("a", tarfile.CHRTYPE)], "'a'"),
        ([member("a", tarfile.BLKTYPE)], "'a'"),
        ([member("a", tarfile.GNUTYPE_SPARSE)], "'a'"),
        ([member("a", pax={"GNU.sparse.map": "0,7", "GNU.sparse.size": str(2**40)})], "'a'"),
        ([member("good"), member("x" * 200 + "\n")], repr("x" * 100)),
    ],
)
def test_only_plain_files_with_relative_names(members: list[tarfile.TarInfo], name: str) -> None:
    assert refusal(sealed(tar(*members))) == [
        f"error: the archive's {name} is no plain file with a relative name of its own",
        "hint: give the file that an export wrote; `age -d FILE | tar tvf -` shows what another one holds",
    ]


@pytest.mark.usefixtures("unsealed")
@given(st.lists(st.tuples(st.integers(0, 2047), st.sampled_from(b"\0\x80\xff09xgLKS")), max_size=8), st.booleans())
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_inside(changes: list[tuple[int, int]], long: bool) -> None:
    """Files, or one sentence: never a traceback, which would show what was decrypted."""
    data = bytearray(tar(member("x" * 120 if long else "x"), member(".env")))
    for position, value in changes:
        data[position] = value
    for start in range(0, len(data), 512):
        if data[start + 257 : start + 262] == b"ustar":  # a header with a checksum that fits
            data[start + 148 : start + 156] = b" " * 8
            data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])
    try:
        found = archive.unpack(sealed(bytes(data)), PHRASE)
    except UserError:
        return
    assert all(isinstance(content, bytes) for content in found.values())


TOO_LARGE = ["error: this is more than the 16 MiB that an archive may hold", "hint: pack secret files only"]


@pytest.mark.usefixtures("unsealed")
@pytest.mark.parametrize("size", [16 * 2**20, 33 * 2**20])
def test_too_large(size: int) -> None:
    assert refusal(sealed(bytes(size) + b"1")) == TOO_LARGE
    with pytest.raises(UserError) as caught:
        archive.pack({"a": bytes(size - 100), "b": b"x" * 100}, PHRASE)
    assert caught.value.problems[0].lines() == TOO_LARGE


@pytest.mark.parametrize("name", ["", ".", "/etc/passwd", "../x", "a/../b", "a//b", "a/", "a\n", "a\0b", "\udc80"])
def test_what_could_not_be_unpacked_is_not_packed(name: str) -> None:
    with pytest.raises(UserError, match="is no plain file with a relative name"):
        archive.pack({name: b"x"}, PHRASE)


def test_no_archive_without_a_passphrase() -> None:
    with pytest.raises(UserError, match="without a passphrase"):
        archive.pack(FILES, "")


def test_a_passphrase_that_is_no_text(packed: bytes) -> None:
    assert refusal(packed, "a\udcff")[0] == "error: the passphrase is not UTF-8 text"
    with pytest.raises(UserError, match="not UTF-8"):
        archive.pack(FILES, "a\udcff")
