"""What is read through sops: values as they were given, one run for an unchanged file, and errors without values.

The program is a stand-in with the command line, files, exit codes and words of sops 3.11 (its ciphertext is base64).
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gpuhost.errors import UserError
from gpuhost.secrets import sops

FILE = Path("secrets/x.sops.env")
KEY = "AGE-SECRET-KEY-1STANDIN"

STAND_IN = """
import base64, hashlib, json, os, re, sys

def refuse(code, text):
    sys.exit(print(text, file=sys.stderr) or code)

with open(os.path.join(os.path.dirname(__file__), "runs"), "a") as runs:
    print(json.dumps({"arguments": sys.argv[1:], "stdin": sys.stdin.read()}), file=runs)
flags, path = sys.argv[1:-1], os.path.abspath(sys.argv[-1])
if flags != ["--decrypt", "--input-type", "dotenv", "--output-type", "dotenv"]:
    refuse(1, "flag provided but not defined")
if not os.path.exists(path):
    refuse(100, f'Error: cannot operate on non-existent file "{path}"')
if os.path.isdir(path):
    refuse(2, f"Error reading file: read {path}: is a directory")
items = []
for line in open(path, "rb").read().split(b"\\n"):
    if line[:1] == b"#":
        items.append((None, line[1:]))
    elif line:
        key, equals, value = line.partition(b"=")
        if not equals:
            refuse(1, f"invalid dotenv input line: {line.decode()}")
        items.append((key, value.replace(b"\\\\n", b"\\n")))
metadata = {key: value for key, value in items if key and key.startswith(b"sops_")}
if not metadata:
    refuse(1, "sops metadata not found")
if b"sops_version" not in metadata:
    refuse(1, "Version string empty")
KEY_FILE = os.environ.get("SOPS_AGE_KEY_FILE", "")
if not os.path.exists(KEY_FILE) or open(KEY_FILE).read() != "AGE-SECRET-KEY-1STANDIN":
    said = ["failed to create reader for decrypting sops data key with",
            "age: identity did not match any of the recipients: incorrect",
            "identity for recipient block. Did not find keys in locations",
            "'SOPS_AGE_SSH_PRIVATE_KEY_FILE', '/root/.ssh/id_ed25519',",
            "'/root/.ssh/id_rsa', 'SOPS_AGE_KEY', and 'SOPS_AGE_KEY_CMD'."]
    if not KEY_FILE:
        said = ["failed to load age identities. Did not find keys in", "locations", *said[3:]]
    recipients = [value.decode() for key, value in metadata.items() if key.endswith(b"__map_recipient")]
    groups = [f"  {each}: FAILED\\n    - | " + "\\n      | ".join(said) for each in recipients]
    refuse(128, "Failed to get the data key required to decrypt the SOPS file.\\n\\nGroup 0: FAILED\\n"
        + "\\n\\n".join(groups)
        + "\\n\\nRecovery failed because no master key was able to decrypt the file. In\\n"
        "order for SOPS to recover the file, at least one key has to be successful,\\nbut none were.")
out, mac = [], hashlib.sha512()
for key, value in items:
    if key in metadata:
        continue
    found = re.fullmatch(rb"ENC\\[AES256_GCM,data:(.+),iv:(.+),tag:(.+),type:(.+)\\]", value)
    if key is None and not found:
        out.append(b"#" + value + b"\\n")
        continue
    if value and not found:
        refuse(25, "Error decrypting tree: Error walking tree: Could not decrypt value: Input string "
            f"{value.decode()} does not match sops' data format")
    plain = base64.b64decode(found[1]) if found else b""
    mac.update(b"" if key is None else plain)
    out.append((b"#" if key is None else key + b"=") + plain.replace(b"\\n", b"\\\\n") + b"\\n")
if mac.hexdigest().upper().encode() != metadata[b"sops_mac"]:
    refuse(51, f"MAC mismatch. File has {metadata[b'sops_mac'].decode()}, computed {mac.hexdigest().upper()}")
sys.stdout.buffer.write(b"".join(out))
"""

NEVER_SHOWN = ["hunter2", base64.b64encode(b"hunter2").decode()]


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of its own, with the stand-in first on the path and its key at hand."""
    monkeypatch.chdir(tmp_path)
    FILE.parent.mkdir()
    install(STAND_IN)
    Path("keys.txt").write_text(KEY)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SOPS_AGE_KEY_FILE", str(tmp_path / "keys.txt"))
    return tmp_path


def install(program: str) -> None:
    Path("bin").mkdir(exist_ok=True)
    file = Path("bin/sops")
    file.write_text(f"#!{sys.executable}\n{program}")
    file.chmod(0o755)


def runs() -> list[dict[str, object]]:
    log = Path("bin/runs")
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def sealed(text: bytes) -> bytes:
    """A dotenv file as `sops --encrypt` leaves it: every value and comment by itself, the metadata behind them."""

    def cipher(plain: bytes, kind: str) -> bytes:
        data = base64.b64encode(plain).decode()
        return (
            f"ENC[AES256_GCM,data:{data},iv:K0fvXzVHMIFyqTvZ1fJKfw==,tag:lGzxqS1c0WJ1rAiJj0Zs6w==,type:{kind}]".encode()
        )

    lines, mac = [], hashlib.sha512()
    for line in text.split(b"\n"):
        key, _, value = line.partition(b"=")
        plain = line[1:] if line[:1] == b"#" else value.replace(b"\\n", b"\n")
        if line[:1] == b"#":
            lines.append(b"#" + cipher(plain, "comment"))
        elif line:
            mac.update(plain)
            lines.append(key + b"=" + (cipher(plain, "str") if plain else b""))
    metadata = [
        r"sops_age__list_0__map_enc=-----BEGIN AGE ENCRYPTED FILE-----\nYWdlLWVuY3J5cHRpb24=\n-----END AGE ENCRYPTED "
        r"FILE-----\n",
        "sops_age__list_0__map_recipient=age1f4krweajvsdftnc8hy67dtm4d2mf8uwtup3tynspmnlkd3q09dqsdpfazm",
        "sops_lastmodified=2026-01-02T03:04:05Z",
        f"sops_mac={mac.hexdigest().upper()}",
        "sops_unencrypted_suffix=_unencrypted",
        "sops_version=3.11.0",
    ]
    return b"\n".join([*lines, *(line.encode() for line in metadata), b""])


def write(text: str = "GIVEN='hunter2'\nOTHER=2\n") -> None:
    FILE.write_bytes(sealed(text.encode()))


def refusal(path: Path = FILE) -> list[str]:
    """What a person reads; no value in it, nor in what a traceback would show."""
    with pytest.raises(UserError) as caught:
        sops.read(path)
    [problem] = caught.value.problems
    shown = "\n".join([*problem.lines(), repr(caught.value)])
    assert not [value for value in NEVER_SHOWN if value in shown]
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return problem.lines()


def test_a_file_that_is_not_there_holds_nothing() -> None:
    assert sops.read(FILE) == {} and runs() == []


def test_the_program_is_asked_in_words_that_every_version_knows() -> None:
    write()
    assert sops.read(FILE) == {"GIVEN": "hunter2", "OTHER": "2"}
    flags = ["--decrypt", "--input-type", "dotenv", "--output-type", "dotenv"]
    assert runs() == [{"arguments": [*flags, str(FILE)], "stdin": ""}]


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("GIVEN=a b", "a b"),
        ("GIVEN=a$b", "a$b"),
        ("GIVEN=$2b$12$abc", "$2b$12$abc"),
        ("GIVEN=${HOME}", "${HOME}"),
        ("GIVEN='a b #c'", "a b #c"),
        ("GIVEN=a#b", "a#b"),
        ("GIVEN=x # a comment", "x"),
        ("GIVEN=it's", "it's"),
        (r"GIVEN='it\'s'", "it's"),
        (r'GIVEN="say \"x\""', 'say "x"'),
        ("GIVEN=x=y=", "x=y="),
        ("export GIVEN=x", "x"),
        ("GIVEN=", ""),
        ("GIVEN=grün", "grün"),
        (r'GIVEN="two\nlines"', "two\nlines"),
        (r"GIVEN=two\nlines", "two\nlines"),
        (r"GIVEN='C:\new'", r"C:\new"),
        (r'GIVEN="C:\\new"', r"C:\new"),
    ],
)
def test_values_are_read_as_from_any_env_file(line: str, value: str) -> None:
    write(f"# a comment\n\n{line}\nLAST=z\n")
    assert sops.read(FILE) == {"GIVEN": value, "LAST": "z"}


def test_an_unchanged_file_is_decrypted_once() -> None:
    write()
    for _ in range(3):
        found = sops.read(FILE)
        found["GIVEN"] = "the caller's own copy"
    assert sops.read(FILE)["GIVEN"] == "hunter2" and len(runs()) == 1
    write("GIVEN=new\n")
    assert sops.read(FILE) == {"GIVEN": "new"} and len(runs()) == 2
    FILE.unlink()
    assert sops.read(FILE) == {} and len(runs()) == 2


def test_a_file_that_took_its_place_is_another_one() -> None:
    write("GIVEN=one\n")
    before = FILE.stat()
    assert sops.read(FILE) == {"GIVEN": "one"}
    new = FILE.with_name("new")
    new.write_bytes(sealed(b"GIVEN=two\n"))
    os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
    new.replace(FILE)
    assert FILE.stat().st_size == before.st_size
    assert sops.read(FILE) == {"GIVEN": "two"}


def test_an_error_is_not_kept() -> None:
    write()
    Path("keys.txt").rename("elsewhere")
    refusal()
    Path("elsewhere").rename("keys.txt")
    assert sops.read(FILE)["GIVEN"] == "hunter2"


def test_without_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    write()
    monkeypatch.setenv("PATH", str(FILE.parent.absolute()))
    assert refusal() == [
        "error: secrets/x.sops.env is encrypted with sops, and the program `sops` is not installed here",
        "hint: get it from https://getsops.io, and have its key at hand, such as by SOPS_AGE_KEY_FILE",
    ]


def test_with_a_program_that_does_not_run() -> None:
    write()
    Path("bin/sops").write_bytes(b"\x7fELF of another machine")
    assert refusal()[0].endswith("the program `sops` does not run: Exec format error")


def test_without_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    write()
    monkeypatch.delenv("SOPS_AGE_KEY_FILE")
    assert refusal() == [
        "error: sops cannot decrypt secrets/x.sops.env: failed to load age identities. Did not find keys in "
        "locations 'SOPS_AGE_SSH_PRIVATE_KEY_FILE', '/root/.ssh/id_ed25519', '/root/.ssh/id_rsa', 'SOPS_AGE_KEY', and "
        "'SOPS_AGE_KEY_CMD'.",
        "hint: have a key of this file at hand, such as by SOPS_AGE_KEY_FILE=/path/to/keys.txt",
    ]


def test_with_another_key_and_two_recipients() -> None:
    write()
    Path("keys.txt").write_text("AGE-SECRET-KEY-1ANOTHER")
    with FILE.open("a") as stream:
        stream.write("sops_age__list_1__map_recipient=age1other\n")
    [error, _] = refusal()
    assert ": failed to create reader for decrypting sops data key with age: identity did not match any" in error
    assert error.endswith("...") and len(error.partition("x.sops.env: ")[2]) == 300


CHANGED = [
    "error: secrets/x.sops.env was damaged, or changed by other means than sops, since it was encrypted",
    "hint: take back the last good one, and make the change with `sops secrets/x.sops.env`",
]
NOT_ENCRYPTED = [
    "error: secrets/x.sops.env is not encrypted",
    "hint: `sops --encrypt --in-place secrets/x.sops.env`, with `--age RECIPIENT` or with a .sops.yaml that names the "
    "key",
]
NO_LINE = [
    "error: secrets/x.sops.env holds a line that is no `NAME=value`, which sops would not have written",
    "hint: take that line out (a merge may have left it), or take back the last good file",
]
OTHERWISE = [
    "error: sops cannot decrypt secrets/x.sops.env (exit code 1)",
    "hint: see what it says, which may hold a value: sops --decrypt secrets/x.sops.env > /dev/null",
]


@pytest.mark.parametrize(
    ("damage", "lines"),
    [
        pytest.param(lambda _: b"GIVEN=hunter2\n", NOT_ENCRYPTED, id="plain"),
        pytest.param(lambda _: b"", NOT_ENCRYPTED, id="empty"),
        pytest.param(lambda _: b"GIVEN=1\nhunter2\n", NO_LINE, id="plain, and no env file"),
        pytest.param(lambda data: b"<<<<<<< hunter2\n" + data, NO_LINE, id="a merge's mark"),
        pytest.param(lambda data: b"MINE=hunter2\n" + data, CHANGED, id="a value that was added by hand"),
        pytest.param(lambda data: data.replace(b"OTHER", b"#OTHER"), CHANGED, id="a line that was commented out"),
        pytest.param(lambda data: data[data.index(b"\n") + 1 :], CHANGED, id="a line that was taken out"),
        pytest.param(lambda data: data.replace(b"sops_version", b"sops_v"), OTHERWISE, id="a version that is gone"),
    ],
)
def test_a_file_that_sops_would_not_have_left(damage: Callable[[bytes], bytes], lines: list[str]) -> None:
    write()
    FILE.write_bytes(damage(FILE.read_bytes()))
    assert refusal() == lines


def test_a_value_with_an_open_quote() -> None:
    """python-dotenv would skip it: the secret would be missing, and nobody would know why."""
    write("A=1\nGIVEN=\"hunter2\nB='x'\n")
    assert refusal() == [
        "error: line 2 of what secrets/x.sops.env holds is no `NAME=value`",
        "hint: look at its quotes: sops secrets/x.sops.env",
    ]


def test_a_value_that_is_no_text() -> None:
    FILE.write_bytes(sealed(b"GIVEN=hunter2\xff\n"))
    assert refusal()[0] == "error: secrets/x.sops.env holds something that is not UTF-8 text"


def test_a_folder_in_the_place_of_the_file() -> None:
    FILE.mkdir()
    assert refusal()[0] == "error: sops cannot decrypt secrets/x.sops.env (exit code 2)"


def test_a_file_in_the_place_of_the_folder() -> None:
    write()
    assert refusal(FILE / "y")[0] == "error: secrets/x.sops.env/y cannot be read: Not a directory"


def test_a_program_that_waits_for_a_passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own children may wait with it (gpg's agent): they are not waited for."""
    write()
    install("import os, time\nprint('hunter2', flush=True)\nos.fork()\ntime.sleep(5)")
    monkeypatch.setattr(sops, "TIMEOUT_S", 0.5)
    assert refusal() == [
        "error: sops did not decrypt secrets/x.sops.env within 0.5 s",
        "hint: it may wait for a passphrase: see what it asks for: sops --decrypt secrets/x.sops.env > /dev/null",
    ]
