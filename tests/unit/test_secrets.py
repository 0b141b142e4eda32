"""One source for each secret: who wins, what is generated, and that nobody else can read it."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bcrypt
import pytest

from gpuhost.errors import UserError
from gpuhost.secrets import NotYet, SecretStore

from . import sample

OWN = Path("secrets/gpu1.env")


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def store(host: str = "gpu1", **environ: str) -> SecretStore:
    return SecretStore(sample.catalog(), host, environ)


def write(path: Path, text: str, mode: int = 0o600) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def refusal(store: SecretStore, name: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        store.value(name)
    return caught.value.problems[0].lines()


def test_later_sources_win() -> None:
    write(Path(".env"), "GIVEN=shared\n")
    assert store().value("GIVEN") == "shared"
    write(OWN, "GIVEN=own\n")
    assert store().value("GIVEN") == "own"
    assert store("gpu2").value("GIVEN") == "shared"
    assert store(GIVEN="environment").value("GIVEN") == "environment"
    assert store(GIVEN="").value("GIVEN") == "own"  # an empty variable gives nothing


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("GIVEN=a$b", "a$b"),
        ("GIVEN='a b#c'", "a b#c"),
        ('GIVEN="two\\nlines"', "two\nlines"),
        ("export GIVEN=x # a comment", "x"),
        ("GIVEN='$2b$12$abc'", "$2b$12$abc"),
    ],
)
def test_values_are_taken_as_they_are(line: str, value: str) -> None:
    write(Path(".env"), f"# a comment\n{line}\n")
    assert store().value("GIVEN") == value


def test_an_alias_is_the_same_secret() -> None:
    assert store(GIVEN_TOO="x").value("GIVEN") == "x"
    assert store(GIVEN_TOO="x", GIVEN="x").value("GIVEN") == "x"


def test_two_names_with_two_values_are_refused() -> None:
    assert refusal(store(GIVEN_TOO="x", GIVEN="y"), "GIVEN") == [
        "error: GIVEN and GIVEN_TOO hold different values",
        "hint: keep one of them: they are one secret",
    ]


def test_a_secret_that_only_the_operator_can_give() -> None:
    assert refusal(store(), "GIVEN") == [
        "error: [gpu1] the secret `GIVEN` is not set",
        "hint: write `GIVEN=...` into .env or secrets/gpu1.env",
    ]
    assert store().optional("GIVEN") is None
    assert [problem.lines() for problem in store().missing(["GIVEN"])] == [refusal(store(), "GIVEN")]
    write(OWN, "GIVEN=x\n")
    assert store().missing(["GIVEN"]) == []


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
@pytest.mark.parametrize("path", [Path(".env"), OWN], ids=str)
def test_a_file_that_others_can_read_is_refused(path: Path, mode: int) -> None:
    write(path, "GIVEN=x\n", mode)
    assert refusal(store(), "GIVEN") == [
        f"error: {path} can be read by others on this machine",
        f"hint: chmod 600 {path}",
    ]


def test_what_can_be_generated_is_not_there_yet() -> None:
    with pytest.raises(NotYet):
        store().value("API_TOKEN")
    assert store().to_generate(["API_TOKEN", "LOGIN_HASH", "GIVEN"]) == ["API_TOKEN", "LOGIN_PASSWORD", "LOGIN_HASH"]
    assert not OWN.exists()


def test_generated_once_for_the_owner_alone() -> None:
    first = store()
    first.generate(["API_TOKEN", "LOGIN_USER", "LABEL_HMAC_KEY"])
    assert (OWN.stat().st_mode & 0o777, OWN.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    token = first.value("API_TOKEN")
    assert len(token) >= 43 and first.value("LABEL_HMAC_KEY") != token
    assert first.to_generate(["API_TOKEN", "LOGIN_USER"]) == []
    text = OWN.read_text()
    store().generate(["API_TOKEN", "LOGIN_USER", "LABEL_HMAC_KEY"])
    assert OWN.read_text() == text
    assert sorted(path.name for path in OWN.parent.iterdir()) == [".lock", "gpu1.env"]


@pytest.mark.parametrize("text", ["# mine\nGIVEN=x\n", "# mine\nGIVEN=x"], ids=["whole", "without the last newline"])
def test_every_line_that_is_there_is_kept(text: str) -> None:
    write(OWN, text)
    store().generate(["API_TOKEN"])
    assert OWN.read_text().splitlines()[:2] == ["# mine", "GIVEN=x"]
    assert store().value("GIVEN") == "x"
    assert store().value("API_TOKEN")


def test_a_password_and_its_hash_belong_together() -> None:
    made = store()
    made.generate(["LOGIN_HASH"])
    hashed = made.value("LOGIN_HASH")
    assert hashed.startswith("$2b$12$")
    assert bcrypt.checkpw(made.value("LOGIN_PASSWORD").encode(), hashed.encode())


def test_a_hash_that_the_operator_gives_needs_no_password() -> None:
    given = store(LOGIN_HASH="$2b$12$given")
    assert given.to_generate(["LOGIN_HASH"]) == []


def test_two_runs_at_once_agree() -> None:
    def run(_: int) -> str:
        one = store()
        one.generate(["API_TOKEN"])
        return one.value("API_TOKEN")

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(run, range(4)))) == 1
    assert OWN.read_text().count("API_TOKEN=") == 1


@pytest.mark.parametrize(
    ("host", "file"), [("gpu1.example", "gpu1.example.env"), ("@local", "_local.env"), ("a/../b", "a_.._b.env")]
)
def test_each_host_has_a_file_in_the_folder(host: str, file: str) -> None:
    assert store(host).path == Path("secrets") / file


def test_fingerprints_tell_a_change_and_give_nothing_away() -> None:
    one, other = store(LABEL_HMAC_KEY="one"), store(LABEL_HMAC_KEY="other")
    found = one.fingerprint({"A": "1", "B": "2"})
    assert found == one.fingerprint({"B": "2", "A": "1"})
    assert len({found, one.fingerprint({"A": "1", "B": "3"}), one.fingerprint({"A": "1"}), one.fingerprint({})}) == 4
    assert other.fingerprint({"A": "1", "B": "2"}) != found
    with pytest.raises(NotYet):
        store().fingerprint({"A": "1"})


def test_a_hash_of_another_password_is_refused() -> None:
    """The operator who changes the password alone would log in with neither, and nothing else would tell."""
    store().generate(["LOGIN_HASH"])
    assert store().out_of_step(["LOGIN_HASH", "GIVEN", "API_TOKEN"]) == []
    for password in ("another", "x" * 100):
        [problem] = store(LOGIN_PASSWORD=password).out_of_step(["LOGIN_HASH"])
        assert problem.what == "`LOGIN_HASH` is not the hash of `LOGIN_PASSWORD`"
        assert problem.hint == f"remove `LOGIN_HASH` from {OWN}: it is then made anew" and problem.host == "gpu1"
    assert store(LOGIN_HASH="no hash").out_of_step(["LOGIN_HASH"])


def test_a_hash_alone_needs_no_password() -> None:
    assert store(LOGIN_HASH="$2b$12$given").out_of_step(["LOGIN_HASH"]) == []


def test_a_file_that_git_tracks_is_refused() -> None:
    write(OWN, "GIVEN=x\n")
    assert store().tracked() == []  # no repository
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    assert store().tracked() == []  # a repository that does not track it
    subprocess.run([*git, "add", "--force", str(OWN)], check=True)
    assert [problem.lines() for problem in store().tracked()] == [
        [
            "error: secrets/gpu1.env holds secrets and is tracked by git",
            "hint: git rm --cached secrets/gpu1.env, then change what it held",
        ]
    ]
