"""One source for each secret: who wins, what is generated, and that nobody else can read it."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bcrypt
import pytest

from gpuhost.errors import UserError
from gpuhost.secrets import envfile, sops
from gpuhost.secrets.store import NotYet, SecretStore, tracked
from tests.unit import sample

OWN = Path("secrets/gpu1.env")
RETIRED = Path("secrets/gpu1.retired.json")


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


@pytest.fixture
def cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hash that costs a thousandth of a second, not a quarter."""
    salt = bcrypt.gensalt
    monkeypatch.setattr(bcrypt, "gensalt", lambda rounds: salt(4))


@pytest.fixture
def encrypted(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What sops says of gpu1's encrypted file."""
    held: dict[str, str] = {}
    monkeypatch.setattr(sops, "read", lambda path: dict(held) if path == Path("secrets/gpu1.sops.env") else {})
    return held


def hashed(password: str) -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()


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


def test_an_encrypted_file_stands_between_the_shared_one_and_the_hosts_own(encrypted: dict[str, str]) -> None:
    write(Path(".env"), "GIVEN=shared\n")
    encrypted["GIVEN_TOO"] = "encrypted"  # an alias there beats the name here
    assert store().value("GIVEN") == "encrypted"
    assert store("gpu2").value("GIVEN") == "shared"
    write(OWN, "GIVEN=own\n")
    assert store().value("GIVEN") == "own"
    OWN.write_text("GIVEN=\n")  # an empty one gives nothing
    assert store().value("GIVEN") == "encrypted"


def test_where_a_value_comes_from(encrypted: dict[str, str]) -> None:
    assert store().source("GIVEN") is None
    write(Path(".env"), "GIVEN_TOO=shared\n")
    assert store().source("GIVEN") == ".env"
    encrypted["GIVEN"] = "encrypted"
    assert store().source("GIVEN") == "secrets/gpu1.sops.env"
    write(OWN, "GIVEN=own\n")
    assert store().source("GIVEN") == "secrets/gpu1.env"
    assert store(GIVEN="x").source("GIVEN") == "the environment"


def test_what_sops_gives_is_not_generated(encrypted: dict[str, str]) -> None:
    encrypted |= {"API_TOKEN": "encrypted"}
    assert store().to_generate(["API_TOKEN", "LABEL_HMAC_KEY"]) == ["LABEL_HMAC_KEY"]


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
        "error: GIVEN and GIVEN_TOO hold different values (the environment)",
        "hint: keep one of them: they are one secret",
    ]


def test_a_secret_that_only_the_operator_can_give() -> None:
    assert refusal(store(), "GIVEN") == [
        "error: [gpu1] the secret `GIVEN` is not set",
        "hint: write `GIVEN=...` into .env or secrets/gpu1.env",
    ]
    assert store().optional("GIVEN") is None
    assert [problem.lines() for problem in store().missing(["GIVEN"])] == [refusal(store(), "GIVEN")]
    assert store().missing(["API_TOKEN", "LOGIN_HASH"]) == []  # they are generated
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
    assert [line.partition("=")[0] for line in text.splitlines()] == ["API_TOKEN", "LOGIN_USER", "LABEL_HMAC_KEY"]
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


def test_what_is_there_is_not_generated_again() -> None:
    assert store(LOGIN_PASSWORD="mine").to_generate(["LOGIN_HASH", "LOGIN_HASH"]) == ["LOGIN_HASH"]
    assert store(API_TOKEN="mine").to_generate(["API_TOKEN", "LOGIN_USER"]) == ["LOGIN_USER"]


def test_a_password_and_its_hash_belong_together() -> None:
    made = store()
    made.generate(["LOGIN_HASH"])
    hashed = made.value("LOGIN_HASH")
    assert hashed.startswith("$2b$10$")
    assert bcrypt.checkpw(made.value("LOGIN_PASSWORD").encode(), hashed.encode())


def test_a_hash_that_the_operator_gives_needs_no_password() -> None:
    given = store(LOGIN_HASH="$2b$12$given")
    assert given.to_generate(["LOGIN_HASH"]) == []


@pytest.mark.usefixtures("cheap_hashes")
def test_no_password_is_made_up_beside_a_hash_that_is_given() -> None:
    """It would not be the hash's, and the next run would refuse both."""
    every = sorted(sample.catalog().secrets)
    write(OWN, f"LOGIN_HASH='{hashed('the operator knows')}'\n")
    assert "LOGIN_PASSWORD" not in store().to_generate(every)
    store().generate(every)
    assert store().optional("LOGIN_PASSWORD") is None and store().mismatched(every) == []


def test_a_password_that_bcrypt_cannot_take_is_one_sentence() -> None:
    """It looks at 72 bytes, and its library refuses to drop the rest."""
    password = "é" * 37
    with pytest.raises(UserError) as caught:
        store(LOGIN_PASSWORD=password).generate(["LOGIN_HASH"])
    assert "LOGIN_PASSWORD" in caught.value.problems[0].what and password not in str(caught.value)
    assert not OWN.exists()


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
    found = one.fingerprint("A", "1")
    assert found == one.fingerprint("A", "1") and re.fullmatch("[0-9a-f]{64}", found)
    assert len({found, one.fingerprint("A", "2"), one.fingerprint("B", "1"), other.fingerprint("A", "1")}) == 4
    with pytest.raises(NotYet):
        store().fingerprint("A", "1")
    assert store().file_key() == "" and re.fullmatch("[0-9a-f]{64}", one.file_key())
    assert one.file_key() != other.file_key()


def test_what_is_to_be_seen_nowhere() -> None:
    """Every value that is known or was rotated away; or those of some secrets alone. A user's name is a word."""
    write(OWN, "GIVEN=g\nAPI_TOKEN=t2\nLOGIN_USER=genai\n")
    write(RETIRED, json.dumps({"API_TOKEN": ["t0", "t1"], "LABEL_HMAC_KEY": ["k0"]}))
    assert sorted(store().masked()) == ["g", "k0", "t0", "t1", "t2"]
    assert sorted(store().masked(["API_TOKEN", "LOGIN_USER"])) == ["t0", "t1", "t2"]
    assert store().masked(["GIVEN"]) == ["g"] and store().masked([]) == []


def test_a_hash_of_another_password_is_refused() -> None:
    """The operator who changes the password alone would log in with neither, and nothing else would tell."""
    store().generate(["LOGIN_HASH"])
    assert store().mismatched(["LOGIN_HASH", "GIVEN", "API_TOKEN"]) == []
    for password in ("another", "x" * 100):
        [problem] = store(LOGIN_PASSWORD=password).mismatched(["LOGIN_HASH"])
        assert problem.what == "`LOGIN_HASH` is not the hash of `LOGIN_PASSWORD`"
        assert problem.hint == f"remove `LOGIN_HASH` from {OWN}: it is then made anew" and problem.host == "gpu1"
    assert store(LOGIN_HASH="no hash").mismatched(["LOGIN_HASH"])


def test_a_password_that_a_person_chose_is_hashed_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    salt = bcrypt.gensalt
    monkeypatch.setattr(bcrypt, "gensalt", lambda rounds: (seen.append(rounds), salt(4))[1])
    store().generate(["LOGIN_HASH"])
    Path(OWN).unlink()
    store(LOGIN_PASSWORD="x" * 23).generate(["LOGIN_HASH"])
    assert seen == [10, 12]


def test_hashes_are_compared_ahead_and_again_when_they_changed() -> None:
    store().generate(["LOGIN_HASH"])
    found, begun = store(), []

    def begin(work: Callable[[], bool]) -> Callable[[], bool]:
        begun.append(work())
        return lambda: begun[-1]

    found.check_hashes(begin)
    assert begun == [True] and found.mismatched(["LOGIN_HASH", "GIVEN"]) == []
    begun.append(False)
    assert not found.derives("LOGIN_HASH")  # it is the answer of the one that was begun
    write(OWN, re.sub("LOGIN_PASSWORD=.*", "LOGIN_PASSWORD=another", Path(OWN).read_text()))
    begun.append(True)
    assert not found.derives("LOGIN_HASH")


def test_a_hash_alone_needs_no_password() -> None:
    assert store(LOGIN_HASH="$2b$12$given").mismatched(["LOGIN_HASH"]) == []


def test_a_file_that_git_tracks_is_refused() -> None:
    write(OWN, "GIVEN=x\n")
    assert tracked([store()]) == []  # no repository
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    assert tracked([store()]) == []  # a repository that does not track it
    subprocess.run([*git, "add", "--force", str(OWN)], check=True)
    assert [problem.lines() for problem in tracked([store()])] == [
        [
            "error: secrets/gpu1.env holds secrets and is tracked by git",
            "hint: git rm --cached secrets/gpu1.env, then change what it held",
        ]
    ]


def test_git_is_asked_once_for_what_hosts_have_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def run(words: list[str], **_: Any) -> Any:
        asked.append(words[4:])
        return SimpleNamespace(stdout="gpu1.env\0")

    monkeypatch.setattr("gpuhost.secrets.store.subprocess.run", run)
    one, other = sample.catalog(), sample.catalog({"secrets_dir": "elsewhere"})
    stores = [SecretStore(one, name, {}) for name in ("gpu1", "gpu2", "gpu3")]
    found = tracked([*stores, SecretStore(other, "gpu4", {})])
    assert asked == [
        [".", "ls-files", "-z", "--", ".env"],
        ["secrets", "ls-files", "-z", "--", "."],
        ["elsewhere", "ls-files", "-z", "--", "."],
    ]
    assert [problem.what.split()[0] for problem in found] == ["gpu1.env", "secrets/gpu1.env", "elsewhere/gpu1.env"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a file away")
def test_who_owns_the_checkout_does_not_matter(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """git refuses most questions in a checkout of another account."""
    monkeypatch.delenv("GIT_CONFIG_COUNT", raising=False)
    monkeypatch.setenv("HOME", str(project))
    write(OWN, "GIVEN=x\n")
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run(["git", "add", "--force", str(OWN)], check=True)
    for path in (project, *project.rglob("*")):
        os.chown(path, 12345, 12345)
    assert len(tracked([store()])) == 1


@pytest.mark.parametrize(
    ("path", "refused"),
    [
        (".env", True),
        ("secrets/gpu1.env", True),
        ("secrets/gpu2.env", True),  # another host's
        ("secrets/old/gpu3.env", True),
        ("secrets/gpu1.retired.json", True),
        ("secrets/gpu1.sops.env", False),  # encrypted: it is meant for git
        ("secrets/README.md", False),
        (".env.example", False),
        ("other.env", False),
    ],
)
def test_which_files_must_not_be_tracked(path: str, refused: bool) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("GIVEN=x\n")
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run(["git", "add", "--force", path], check=True)
    assert [problem.what for problem in tracked([store()])] == (
        [f"{path} holds secrets and is tracked by git"] if refused else []
    )


# --- Rotation ---------------------------------------------------------------------------------------------------------

EVERY = ["API_TOKEN", "LABEL_HMAC_KEY", "LOGIN_HASH", "LOGIN_PASSWORD", "LOGIN_USER"]
MINE = "# mine\n\nGIVEN='it is'  # and stays\n"


@pytest.fixture
def generated(cheap_hashes: None) -> dict[str, str]:
    """A host whose secrets are generated, among lines of the operator's; what they are."""
    write(OWN, MINE)
    store().generate(EVERY)
    return current()


def current() -> dict[str, str]:
    return {name: store().value(name) for name in EVERY}


def consistent() -> bool:
    """Password and hash belong together, nothing current is retired, the operator's lines are as they were."""
    found, retired = current(), store().retired()
    together = bcrypt.checkpw(found["LOGIN_PASSWORD"].encode(), found["LOGIN_HASH"].encode())
    assert len(OWN.read_text().splitlines()) == len(MINE.splitlines()) + len(EVERY)
    return together and OWN.read_text().startswith(MINE) and not [n for n in EVERY if found[n] in retired.get(n, [])]


def test_a_new_value_and_the_old_one_is_retired(generated: dict[str, str]) -> None:
    before = OWN.read_text()
    store().rotate("API_TOKEN")
    new = store().value("API_TOKEN")
    assert len(new) >= 43 and new != generated["API_TOKEN"]
    assert OWN.read_text() == before.replace(generated["API_TOKEN"], new)
    assert store().retired() == {"API_TOKEN": [generated["API_TOKEN"]]}
    assert sorted(path.name for path in OWN.parent.iterdir()) == [".lock", OWN.name, RETIRED.name]
    assert {path.stat().st_mode & 0o777 for path in (OWN, RETIRED)} == {0o600}
    assert RETIRED in store().files() and store("gpu2").retired() == {}


@pytest.mark.parametrize("name", ["LOGIN_PASSWORD", "LOGIN_HASH"])
def test_a_rotation_mends_a_hash_that_is_not_of_its_password(generated: dict[str, str], name: str) -> None:
    OWN.write_text(OWN.read_text().replace(generated["LOGIN_PASSWORD"], "another password"))
    assert not store().derives("LOGIN_HASH")
    store().rotate(name)
    assert store().derives("LOGIN_HASH") and store().retired()["LOGIN_HASH"] == [generated["LOGIN_HASH"]]


@pytest.mark.parametrize("text", ["{", "[1", "not json"])
def test_retired_values_that_cannot_be_read_are_not_none(generated: dict[str, str], text: str) -> None:
    envfile.replace(RETIRED, text)
    with pytest.raises(UserError) as caught:
        store().retired()
    [problem] = caught.value.problems
    assert problem.what == f"{RETIRED} is not as gpuhost wrote it" and problem.host == "gpu1"


def test_a_password_takes_its_hash_along(generated: dict[str, str]) -> None:
    assert store().renewable("LOGIN_PASSWORD") == ["LOGIN_PASSWORD", "LOGIN_HASH"]
    store().rotate("LOGIN_PASSWORD")
    assert current()["LOGIN_PASSWORD"] != generated["LOGIN_PASSWORD"] and consistent()
    assert store().retired() == {name: [generated[name]] for name in ("LOGIN_PASSWORD", "LOGIN_HASH")}


def test_a_hash_alone_is_another_one_of_the_same_password(generated: dict[str, str]) -> None:
    store().rotate("LOGIN_HASH")
    found = current()
    assert found["LOGIN_PASSWORD"] == generated["LOGIN_PASSWORD"] and consistent()
    assert store().retired() == {"LOGIN_HASH": [generated["LOGIN_HASH"]]} and found["LOGIN_HASH"] not in generated


@pytest.mark.parametrize("name", ["API_TOKEN", "LOGIN_PASSWORD", "LOGIN_HASH", "LABEL_HMAC_KEY"])
def test_again_before_it_is_proved_changes_nothing(generated: dict[str, str], name: str) -> None:
    store().rotate(name)
    before = OWN.read_text(), RETIRED.read_text()
    store().rotate(name)
    assert (OWN.read_text(), RETIRED.read_text()) == before


def test_what_is_proved_is_forgotten_and_the_next_one_begins_anew(generated: dict[str, str]) -> None:
    store().forget(store().retired())  # nothing to forget
    store().rotate("API_TOKEN")
    second = store().value("API_TOKEN")
    store().forget(store().retired())
    assert store().retired() == {} and not RETIRED.exists() and store().value("API_TOKEN") == second
    store().rotate("API_TOKEN")
    assert store().retired() == {"API_TOKEN": [second]} and consistent()


@pytest.mark.parametrize("order", [["LOGIN_HASH", "LOGIN_PASSWORD"], ["LOGIN_PASSWORD", "LOGIN_HASH"]], ids="-".join)
def test_hash_and_password_in_either_order(generated: dict[str, str], order: list[str]) -> None:
    seen = [generated["LOGIN_HASH"]]
    for name in order:
        store().rotate(name)
        assert consistent()
        seen.append(current()["LOGIN_HASH"])
    # Every hash that some container may still take is retired, but the one that counts.
    assert set(store().retired()["LOGIN_HASH"]) == set(seen) - {seen[-1]}
    assert store().retired()["LOGIN_PASSWORD"] == [generated["LOGIN_PASSWORD"]]


def test_two_secrets_are_retired_beside_each_other(generated: dict[str, str]) -> None:
    for name in ("API_TOKEN", "LABEL_HMAC_KEY"):
        store().rotate(name)
    assert store().retired() == {name: [generated[name]] for name in ("API_TOKEN", "LABEL_HMAC_KEY")}


class Cut(Exception):
    """The end of a run, in the middle of it."""


@pytest.mark.parametrize("moment", [0, 1, 2], ids=["nothing written", "one file", "both"])
@pytest.mark.parametrize("name", ["API_TOKEN", "LOGIN_PASSWORD", "LOGIN_HASH"])
@pytest.mark.parametrize("then", ["API_TOKEN", "LOGIN_PASSWORD", "LOGIN_HASH"])
def test_interrupted_and_run_again(
    generated: dict[str, str], monkeypatch: pytest.MonkeyPatch, name: str, moment: int, then: str
) -> None:
    """Cut before, between or after the two files, then run again, or another one first."""
    calls: list[Path] = []
    replace = envfile.replace

    def cut(path: Path, content: str) -> None:
        if len(calls) == moment:
            raise Cut
        calls.append(path)
        replace(path, content)
        if len(calls) == moment == 2:
            raise Cut

    with monkeypatch.context() as patch, pytest.raises(Cut):
        patch.setattr(envfile, "replace", cut)
        store().rotate(name)
    between = current()
    assert bcrypt.checkpw(between["LOGIN_PASSWORD"].encode(), between["LOGIN_HASH"].encode())
    retired = store().retired()
    assert all(generated[key] in {between[key], *retired.get(key, [])} for key in EVERY)
    for again in dict.fromkeys([then, name]):
        store().rotate(again)
    assert consistent()
    # No value is lost that a container may have: it is current, or retired.
    after, retired = current(), store().retired()
    assert all({generated[key], between[key]} <= {after[key], *retired.get(key, [])} for key in EVERY)
    assert all(after[key] != generated[key] for key in store().renewable(name))


def test_an_alias_stays_an_alias() -> None:
    changes = {"secrets.API_TOKEN.aliases": ["API_KEY", "API_SECRET"]}
    one = SecretStore(sample.catalog(changes), "gpu1", {})
    write(OWN, "API_KEY=old # mine\nexport API_SECRET='old'\n")
    one.rotate("API_TOKEN")
    new = one.value("API_TOKEN")
    assert new != "old" and one.retired() == {"API_TOKEN": ["old"]}
    assert OWN.read_text() == f"API_KEY='{new}' # mine\nexport API_SECRET='{new}'\n"


def test_two_rotations_at_once_agree(generated: dict[str, str]) -> None:
    def rotate(_: int) -> str:
        one = store()
        one.rotate("API_TOKEN")
        return one.value("API_TOKEN")

    with ThreadPoolExecutor(4) as pool:
        [new] = set(pool.map(rotate, range(8)))
    assert store().retired() == {"API_TOKEN": [generated["API_TOKEN"]]} and new != generated["API_TOKEN"]


def test_two_processes_at_once_agree(generated: dict[str, str]) -> None:
    start, hold = os.pipe()

    def rotate() -> None:
        os.close(hold)
        os.read(start, 1)  # until the last one lets go: all of them begin together
        store().rotate("LOGIN_PASSWORD")

    children = [forked(rotate) for _ in range(4)]
    os.close(hold)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    os.close(start)
    assert store().retired() == {name: [generated[name]] for name in ("LOGIN_PASSWORD", "LOGIN_HASH")}
    assert consistent()


REFUSED: dict[str, tuple[str, dict[str, str], str, str, str]] = {
    "unknown": ("API_TOKN", {}, "", "there is no secret `API_TOKN`", "did you mean `API_TOKEN`?"),
    "the operator's own": (
        "GIVEN",
        {"GIVEN": "x"},
        "",
        "`GIVEN` is yours: nobody else can make a new one",
        "write the new value where the old one stands, then `gpuhost secrets sync`",
    ),
    "a user name": (
        "LOGIN_USER",
        {},
        "LOGIN_USER=me",
        "`LOGIN_USER` is a user name: it is no secret that wears out",
        f"write another one into {OWN}, then `gpuhost secrets sync`",
    ),
    "not generated yet": ("API_TOKEN", {}, "", "`API_TOKEN` is not generated yet", "`gpuhost apply` does that"),
    "from the environment": (
        "API_TOKEN",
        {"API_TOKEN": "x"},
        "API_TOKEN=y",
        "`API_TOKEN` comes from the environment, which is yours",
        "write a new value there, then `gpuhost secrets sync`",
    ),
    "a hash of an unknown password": (
        "LOGIN_HASH",
        {},
        "LOGIN_HASH=x",
        "`LOGIN_HASH` cannot be made anew: its `LOGIN_PASSWORD` is not known here",
        f"write both into {OWN}, then `gpuhost secrets sync`",
    ),
    "its hash is given elsewhere": (
        "LOGIN_PASSWORD",
        {"LOGIN_HASH": "x"},
        "LOGIN_PASSWORD=x",
        "`LOGIN_HASH` comes from the environment, which is yours",
        "write a new value there, then `gpuhost secrets sync`",
    ),
}


@pytest.mark.parametrize(("name", "environ", "own", "what", "hint"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_renewed(name: str, environ: dict[str, str], own: str, what: str, hint: str) -> None:
    write(OWN, f"{own}\n")
    for refused in (store(**environ).renewable, store(**environ).rotate):
        with pytest.raises(UserError) as caught:
            refused(name)
        [problem] = caught.value.problems
        assert (problem.what, problem.hint) == (what, hint)
    assert OWN.read_text() == f"{own}\n" and not RETIRED.exists()


def test_where_the_operator_gives_it_it_is_the_operators(encrypted: dict[str, str]) -> None:
    for given in ("secrets/gpu1.sops.env", ".env"):
        encrypted |= {"API_TOKEN": "x"}
        if given == ".env":
            encrypted.clear()
            write(Path(".env"), "API_TOKEN=x\n")
        with pytest.raises(UserError) as caught:
            store().rotate("API_TOKEN")
        assert caught.value.problems[0].what == f"`API_TOKEN` comes from {given}, which is yours"


def test_how_the_operators_own_is_renewed_stands_in_the_data() -> None:
    catalog = sample.catalog({"secrets.GIVEN.renew": "ask Alice"})
    with pytest.raises(UserError) as caught:
        SecretStore(catalog, "gpu1", {"GIVEN": "x"}).renewable("GIVEN")
    assert caught.value.problems[0].hint == "ask Alice"


def test_what_was_retired_is_for_the_owner_alone(generated: dict[str, str]) -> None:
    store().rotate("API_TOKEN")
    RETIRED.chmod(0o644)
    with pytest.raises(UserError) as caught:
        store().retired()
    assert caught.value.problems[0].lines() == [
        f"error: {RETIRED} can be read by others on this machine",
        f"hint: chmod 600 {RETIRED}",
    ]


# --- Killed -----------------------------------------------------------------------------------------------------------


def forked(action: Callable[[], Any]) -> int:
    """The process that does it: exit code 0 when it ended well."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            action()
            code = 0
        finally:
            os._exit(code)
    return child


class Killed:
    """Runs an action in a process of its own, which says what it has done, and kills it at a random moment."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def run(self, action: Callable[[Callable[[str], None]], None]) -> list[str]:
        """What it said before it died."""
        reader, writer = os.pipe()

        def say(line: str) -> None:
            os.write(writer, f"{line}\n".encode())

        child = forked(lambda: action(say))
        os.close(writer)
        with os.fdopen(reader) as stream:
            lines = [stream.readline() for _ in range(self._random.randint(0, 4))]
            time.sleep(self._random.uniform(0, 0.005))
            os.kill(child, signal.SIGKILL)
            assert os.waitpid(child, 0)[1] == signal.SIGKILL, "it ended by itself"
            return "".join([*lines, *stream]).split()


def test_killed_while_it_generates() -> None:
    """One secret after another into one file: what was there stays, what was said to be there is."""
    names = [f"TOKEN_{number:03}" for number in range(300)]
    catalog = sample.catalog({f"secrets.{name}": {"generate": "token"} for name in names})
    write(OWN, MINE)

    def generate(say: Callable[[str], None]) -> None:
        one = SecretStore(catalog, "gpu1", {})
        for name in one.to_generate(names):
            one.generate([name])
            say(f"{name}={one.value(name)}")

    said: dict[str, str] = {}
    killed = Killed(seed=3)
    for _ in range(30):
        said |= dict(line.split("=", 1) for line in killed.run(generate))
        held = envfile.read(OWN)
        assert OWN.read_text().startswith(MINE) and held.pop("GIVEN") == "it is"
        assert {name: held[name] for name in said} == said
        assert all(len(value) == 43 for value in held.values())
    one, names = SecretStore(catalog, "gpu1", {}), names[: len(held) + 10]
    one.generate(names)
    assert len(said) >= 30 and one.to_generate(names) == [] and {name: one.value(name) for name in said} == said
    text = OWN.read_text()
    one.generate(names)
    assert OWN.read_text() == text and len(text.splitlines()) == len(MINE.splitlines()) + len(names)
    assert sorted(path.name for path in OWN.parent.iterdir()) == [".lock", OWN.name]


def test_killed_while_it_rotates(generated: dict[str, str]) -> None:
    """Over and over, each one forgotten as after its proof: nothing that a container may have is ever unknown."""
    order = ["API_TOKEN", "LOGIN_PASSWORD", "LOGIN_HASH", "LABEL_HMAC_KEY"]
    last = generated

    def rotate(say: Callable[[str], None]) -> None:
        while True:
            for name in order:
                one = store()
                one.rotate(name)
                say(json.dumps(current(), separators=(",", ":")))
                say("forget")
                one.forget(one.retired())
                say("forgotten")

    killed, rotations, known = Killed(seed=4), 0, {name: {value} for name, value in generated.items()}
    for _ in range(30):
        for line in killed.run(rotate):
            if line == "forget":  # from here on the old ones may be forgotten: every service refuses them
                known = {name: {value} for name, value in last.items()}
            elif line == "forgotten":
                rotations += 1
            else:
                last = json.loads(line)
                known = {name: {*known[name], last[name]} for name in EVERY}
        found, retired = current(), store().retired()
        known = {name: {*known[name], found[name]} for name in EVERY}
        assert all(known[name] <= {found[name], *retired.get(name, [])} for name in EVERY)
        assert bcrypt.checkpw(found["LOGIN_PASSWORD"].encode(), found["LOGIN_HASH"].encode())
        assert OWN.read_text().startswith(MINE)
    assert rotations >= 5
    for name in order:
        store().rotate(name)
    assert consistent()
    store().forget(store().retired())
    assert consistent() and sorted(path.name for path in OWN.parent.iterdir()) == [".lock", OWN.name]


def test_a_value_that_its_service_would_refuse_is_told_before_it_starts(tmp_path: Path) -> None:
    catalog = sample.catalog({"secrets.API_TOKEN.min_chars": 32})
    for value, count in (("x" * 31, 1), ("x" * 32, 0)):
        found = SecretStore(catalog, "host", {"API_TOKEN": value}).too_short(["API_TOKEN", "GIVEN"])
        assert len(found) == count
        assert all(value not in f"{problem}" for problem in found)


@pytest.mark.parametrize("value", ["a", "$1'\"\\#{x}&/+=%`|;*~", "two words"])
def test_a_token_that_a_header_carries_is_none_to_be_told(value: str) -> None:
    assert SecretStore(sample.catalog(), "host", {"API_TOKEN": value}).unsendable(["API_TOKEN", "LOGIN_HASH"]) == []


@pytest.mark.parametrize("value", ["tokén", "a\nb", "a\tb", " a", "a ", "a\x7f", "\u200b"])
def test_a_token_that_nobody_could_send_is_told_before_its_service_starts(value: str) -> None:
    """With it a service starts and is healthy, and answers 401 to everybody."""
    [problem] = SecretStore(sample.catalog(), "host", {"API_TOKEN": value}).unsendable(["API_TOKEN", "GIVEN"])
    assert "`API_TOKEN` has characters that an HTTP header" in problem.what and problem.host == "host"
    assert value not in problem.what + problem.hint or len(value.strip()) < 2


def test_which_secrets_are_sent() -> None:
    assert sample.run().token_names == ["API_TOKEN", "LOGIN_HASH"]
    assert sample.run({"enabled_services": ["api"]}).token_names == ["API_TOKEN"]


def test_what_is_masked_is_every_value_but_names_of_users(tmp_path: Path) -> None:
    store = SecretStore(sample.catalog(), "host", {"API_TOKEN": "t", "LOGIN_USER": "u", "GIVEN_TOO": "g"}, tmp_path)
    store.folder.mkdir(mode=0o700)
    envfile.replace(store.folder / "host.retired.json", '{"API_TOKEN": ["old"]}')
    assert sorted(store.masked()) == ["g", "old", "t"]
