"""`gpuhost secrets`: what it says, when it writes, when it forgets, and what leaves this machine and comes back."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import tarfile
import warnings
from collections.abc import Callable
from getpass import GetPassWarning
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bcrypt
import pytest
from pyinfra.api.state import State

from gpuhost.cli import arguments
from gpuhost.cli import main as cli
from gpuhost.cli import site as site_module
from gpuhost.run import pyinfra as pyinfra_run
from gpuhost.run.pyinfra import Outcome
from gpuhost.secrets import archive, envfile
from gpuhost.secrets.store import SecretStore
from tests.unit import sample
from tests.unit.cli.test_main import Terminal, change
from tests.unit.described import described
from tests.unit.secrets.test_archive import member, sealed, tar

Event = dict[str, Any]
Answer = Outcome | Callable[[], Outcome]

HOST: Event = {"event": "host", "host": "gpu1"}
PROBLEM: Event = {"event": "problem", "host": "gpu1", "what": "it cannot be", "hint": "make it be"}
ADDRESS: Event = {"event": "address", "host": "gpu1", "message": "api: http://127.0.0.1:9001"}
STAGES = ("secrets", "stacks", "verify")


class Fake:
    """What pyinfra would have given; `asked`: what it was asked for, and the stages to which it was limited."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.plan: Answer = Outcome(0, [HOST], "")
        self.apply: Answer = Outcome(0, [HOST], "")
        self.look: Answer = Outcome(0, [HOST], "")
        self.asked: list[tuple[str, tuple[str, ...]]] = []
        self.options: list[str] = []
        for name in ("plan", "apply", "look"):
            monkeypatch.setattr(pyinfra_run, name, self._answer(name))

    def _answer(self, name: str) -> Callable[..., Outcome]:
        def answer(target: Any, *arguments: Any, only: Any = (), **_: Any) -> Outcome:
            stages = only or next((each for each in arguments if isinstance(each, (str, tuple))), ())
            self.asked.append((name, (stages,) if isinstance(stages, str) else tuple(stages)))
            self.options = list(target.options)
            given: Answer = getattr(self, name)
            return given() if callable(given) else given

        return answer


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pyinfra_state: State) -> Path:
    """One host, and a process whose environment gives no secret."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for module in (arguments, site_module):
        monkeypatch.setattr(module, "PROJECT", folder)
    for name, secret in sample.catalog().secrets.items():
        for each in (name, *secret.aliases):
            monkeypatch.delenv(each, raising=False)
    Path("deploy.py").touch()
    inventory(hosts=["gpu1"])
    return folder


@pytest.fixture
def fake(project: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    return Fake(monkeypatch)


def store(host: str = "gpu1") -> SecretStore:
    return SecretStore(sample.catalog(), host, {})


def secrets(*hosts: str) -> None:
    for host in hosts or ("gpu1",):
        store(host).generate(["API_TOKEN", "LABEL_HMAC_KEY", "LOGIN_USER"])


def inventory(**groups: list[str]) -> None:
    """The data stands there, too: pyinfra takes its time for each name of group_data."""
    hosts = {group: [(name, sample.data()) for name in names] for group, names in groups.items()}
    Path("inventory.py").write_text("".join(f"{group} = {listed!r}\n" for group, listed in hosts.items()))


def two_hosts() -> None:
    inventory(lab=["gpu1"], shop=["gpu2"])


# --- audit ------------------------------------------------------------------------------------------------------------


def location(state: str = "in sync", secret: str = "API_TOKEN", host: str = "gpu1", **over: Any) -> Event:
    made = {"event": "secret_location", "host": host, "secret": secret, "kind": "env file", "where": "/x/.env.docker"}
    return {**made, "state": state, "fingerprint": None if state == "missing" else "0123456789abcdef" * 4, **over}


def test_all_in_sync(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    seen = [location(where="secrets/gpu1.env", kind="control"), location(), location(secret="AAA")]
    fake.look = Outcome(0, [HOST, *seen], "")
    assert cli.main(["secrets", "audit"]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        "[gpu1] AAA",
        "  in sync  env file     0123456789ab /x/.env.docker",
        "[gpu1] API_TOKEN",
        "  in sync  control      0123456789ab secrets/gpu1.env",
        "  in sync  env file     0123456789ab /x/.env.docker",
        "3 locations in sync.",
    ]
    assert said.err == "" and fake.asked == [("look", ("audit",))]


@pytest.mark.parametrize("state", ["stale", "missing"])
def test_a_location_out_of_sync_is_exit_1(fake: Fake, capsys: pytest.CaptureFixture[str], state: str) -> None:
    fake.look = Outcome(0, [HOST, location(), location(state, kind="container", where="api")], "")
    assert cli.main(["secrets", "audit"]) == 1
    said = capsys.readouterr()
    held = "0123456789ab" if state == "stale" else "-           "
    assert said.out.splitlines()[-1] == f"  {state:8} container    {held} api"
    assert said.err.splitlines() == [
        "error: 1 of 2 locations not in sync",
        "hint: `gpuhost secrets sync` makes them right",
    ]


@pytest.mark.parametrize(
    ("outcome", "result", "code"),
    [
        (Outcome(0, [HOST, location()], ""), "ok", 0),
        (Outcome(0, [HOST, location("stale")], ""), "out of sync", 1),
        (Outcome(1, [HOST, PROBLEM], ""), "error", 1),
        (Outcome(1, [HOST, location("stale"), PROBLEM], ""), "error", 1),
        (Outcome(0, [], ""), "error", 1),  # it reached no host
    ],
)
def test_an_audit_for_programs(
    fake: Fake, capsys: pytest.CaptureFixture[str], outcome: Outcome, result: str, code: int
) -> None:
    fake.look = outcome
    assert cli.main(["secrets", "audit", "--json"]) == code
    document = described("audit", capsys.readouterr().out)
    assert document["result"] == result and bool(document["errors"]) == (result == "error")
    fields = {"host", "secret", "kind", "where", "state", "fingerprint"}
    assert all(set(each) == fields for each in document["locations"])
    assert len(document["locations"]) == sum(event["event"] == "secret_location" for event in outcome.events)


def test_what_a_host_calls_its_containers_is_text(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    forged = "x\x1b]52;c;cm0=\x07\x1b[2J\r3 locations in sync."
    strays = [location("stale", kind="stray container", where=forged), location("stale", secret=forged)]
    fake.look = Outcome(0, [HOST, *strays], "")
    assert cli.main(["secrets", "audit"]) == 1
    said = capsys.readouterr()
    assert not {"\x1b", "\x07", "\r"} & {*said.out, *said.err} and said.out.count("3 locations in sync.") == 2


def test_an_audit_that_could_not_look_says_why(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake.look = Outcome(1, [HOST, PROBLEM], "")
    assert cli.main(["secrets", "audit"]) == 1
    said = capsys.readouterr()
    assert said.err.splitlines() == ["error: [gpu1] it cannot be", "hint: make it be"] and said.out == ""


# --- sync -------------------------------------------------------------------------------------------------------------

SECRET = change(name="api", stage="stacks", action="recreate", scope="secret")
RENDERED = change(name="/stacks/x/.env.docker", stage="stacks", action="write", scope="rendered")
RENDERED["diff"] = [{"field": "API_TOKEN", "before": "(0123456789ab)", "after": "(ba9876543210)"}]
DRIFT = change(name="web", stage="stacks", action="create", reason="no container")
SYNCED = [HOST, *({**each, "event": "performed"} for each in (SECRET, RENDERED)), ADDRESS]


def test_sync_is_the_deploy_limited_to_secrets(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake.plan, fake.apply = Outcome(0, [HOST, SECRET, RENDERED], ""), Outcome(0, SYNCED, "")
    assert cli.main(["secrets", "sync", "--yes"]) == 0
    assert fake.asked == [("plan", STAGES), ("apply", STAGES)]
    said = capsys.readouterr().out.splitlines()
    assert "        ~ API_TOKEN: (0123456789ab) -> (ba9876543210)" in said
    assert said[-1] == "[gpu1] api: http://127.0.0.1:9001"


def test_sync_refuses_what_is_no_affair_of_secrets(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake.plan = Outcome(0, [HOST, SECRET, RENDERED, DRIFT], "")
    assert cli.main(["secrets", "sync", "--yes"]) == 1
    told = "not only secrets differ: `stacks: create web`, because no container"
    hint = "`gpuhost apply` makes all right, the secrets too"
    assert capsys.readouterr().err.splitlines() == [f"error: [gpu1] {told}", f"hint: {hint}"]
    assert cli.main(["secrets", "sync", "--yes", "--json"]) == 1
    document = described("applied", capsys.readouterr().out)
    assert document["result"] == "error" and document["changes"] == []
    assert document["errors"] == [{"what": told, "hint": hint, "host": "gpu1", "detail": []}]
    assert {name for name, _ in fake.asked} == {"plan"}


@pytest.mark.parametrize(("answer", "asked"), [("y\n", ["plan", "apply"]), ("n\n", ["plan"]), (None, ["plan"])])
def test_sync_asks(monkeypatch: pytest.MonkeyPatch, fake: Fake, answer: str | None, asked: list[str]) -> None:
    fake.plan, fake.apply = Outcome(0, [HOST, SECRET, RENDERED], ""), Outcome(0, SYNCED, "")
    monkeypatch.setattr(sys, "stdin", Terminal(answer) if answer else io.StringIO("y\n"))
    assert cli.main(["secrets", "sync"]) == (0 if "apply" in asked else 1)
    assert [name for name, _ in fake.asked] == asked


# --- rotate -----------------------------------------------------------------------------------------------------------


def observed(old: int | None = 401, new: int = 200, host: str = "gpu1") -> Event:
    """What the probes of `api` got."""
    probes = [{"name": "/services answers with the token", "status": new}]
    probes += [{"name": "refuses the retired API_TOKEN", "status": old}] if old else []
    return {"event": "observed", "host": host, "service": "api", "outcome": "ready", "probes": probes}


def verdict(ok: bool = True, host: str = "gpu1") -> Event:
    return {"event": "verdict", "host": host, "ok": ok, "services": ["api"], "failed": [] if ok else ["api"]}


PROVED = [*SYNCED, observed(), verdict()]


def ready(fake: Fake, applied: Answer | None = None) -> str:
    """A host whose secrets are generated and in sync until a new value is there; the value it has."""
    secrets()
    old = store().value("API_TOKEN")

    def plan() -> Outcome:
        return Outcome(0, [HOST, *([] if store().value("API_TOKEN") == old else [SECRET, RENDERED])], "")

    fake.plan, fake.apply = plan, applied or Outcome(0, PROVED, "")
    return old


def untouched(old: str) -> bool:
    return store().value("API_TOKEN") == old and store().retired() == {}


def unfinished(old: str) -> bool:
    return store().value("API_TOKEN") != old and store().retired() == {"API_TOKEN": [old]}


ROTATE = ["secrets", "rotate", "API_TOKEN", "--yes"]


def test_rotated_and_proved(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    old = ready(fake)
    assert cli.main(ROTATE) == 0
    said = capsys.readouterr()
    assert said.err.splitlines()[:-1] == ["[gpu1] API_TOKEN: a new value; restarts api"]
    assert said.out.splitlines()[-2:] == [
        "[gpu1] api: http://127.0.0.1:9001",
        "[gpu1] api: the old API_TOKEN gets 401, the new one 200",
    ]
    assert fake.asked == [("plan", STAGES), ("plan", STAGES), ("apply", STAGES)]
    new = store().value("API_TOKEN")
    assert new != old and store().retired() == {} and not {old, new} & set((said.out + said.err).split())


def test_the_proof_for_programs(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    """Told, though the run that proved it has forgotten the old value already."""

    def apply() -> Outcome:
        store().forget(store().retired())
        return Outcome(0, PROVED, "")

    ready(fake, apply)
    assert cli.main([*ROTATE, "--json"]) == 0
    document = described("applied", capsys.readouterr().out)
    proof = {"host": "gpu1", "service": "api", "secret": "API_TOKEN", "old_status": 401, "new_status": 200}
    assert (document["result"], document["proved"], document["errors"]) == ("ok", [proof], [])


def test_the_old_value_is_retired_while_the_run_asks(fake: Fake) -> None:
    """Or nothing would be proved."""
    seen: list[dict[str, list[str]]] = []

    def apply() -> Outcome:
        seen.append(store().retired())
        return Outcome(0, PROVED, "")

    old = ready(fake, apply)
    assert cli.main(ROTATE) == 0
    assert seen == [{"API_TOKEN": [old]}]


@pytest.mark.parametrize(
    "plan",
    [
        Outcome(1, [HOST, PROBLEM], ""),
        Outcome(0, [HOST, DRIFT], ""),
        Outcome(0, [HOST, SECRET, DRIFT], ""),
        Outcome(0, [], ""),
        Outcome(1, [], "pyinfra says: no such module"),
    ],
    ids=["it fails", "other changes", "among others", "no host", "no report"],
)
@pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])
def test_a_plan_that_is_not_clean_leaves_the_value(
    fake: Fake, capsys: pytest.CaptureFixture[str], plan: Outcome, options: list[str]
) -> None:
    old = ready(fake)
    fake.plan = plan
    assert cli.main([*ROTATE, *options]) == 1
    assert untouched(old) and [name for name, _ in fake.asked] == ["plan"]
    said = capsys.readouterr()
    assert json.loads(said.out)["result"] == "error" if options else said.err.startswith("error: ")


@pytest.mark.parametrize("answer", ["n\n", "\n", "", None])
def test_who_says_no_keeps_the_value(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer: str | None
) -> None:
    old = ready(fake)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n") if answer is None else Terminal(answer))
    assert cli.main(ROTATE[:-1]) == 1
    assert untouched(old) and [name for name, _ in fake.asked] == ["plan"]
    said = capsys.readouterr()
    assert said.out == ""
    assert ("Rotate on 1 host? [y/N]" in said.err) == (answer is not None)
    assert ("add --yes to apply without asking" in said.err) == (answer is None)


def test_who_says_yes_is_asked_once(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    old = ready(fake)
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    assert cli.main(ROTATE[:-1]) == 0
    assert store().value("API_TOKEN") != old


UNFINISHED = [
    "error: [gpu1] the rotation is not finished: some service may still take the old value",
    "hint: run it again: it goes on with the same new value",
]


@pytest.mark.parametrize(
    "applied",
    [
        Outcome(1, [HOST, PROBLEM], ""),
        Outcome(1, [*SYNCED, observed(old=200), verdict(False), PROBLEM], ""),
        Outcome(1, [*PROVED, PROBLEM], ""),
        Outcome(0, [], ""),
        Outcome(-9, SYNCED, ""),
    ],
    ids=["it fails", "the old one is taken", "a problem after it", "no host", "killed"],
)
def test_what_was_not_proved_is_not_forgotten(fake: Fake, capsys: pytest.CaptureFixture[str], applied: Outcome) -> None:
    old = ready(fake, applied)
    assert cli.main(ROTATE) == 1
    new = store().value("API_TOKEN")
    assert unfinished(old)
    said = capsys.readouterr()
    assert said.err.splitlines()[-2:] == UNFINISHED and "the old API_TOKEN gets" not in said.out
    fake.apply = Outcome(0, PROVED, "")
    assert cli.main(ROTATE) == 0
    assert store().value("API_TOKEN") == new and store().retired() == {}


def test_a_run_that_is_stopped_keeps_what_was_retired(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    def stopped() -> Outcome:
        raise KeyboardInterrupt

    old = ready(fake, stopped)
    assert cli.main(ROTATE) == 130
    assert unfinished(old)
    assert "hint: run it again: it goes on where it stopped" in capsys.readouterr().err


def test_drift_that_comes_after_the_first_plan(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    old = ready(fake)
    fake.plan = lambda: Outcome(0, [HOST, *([] if store().value("API_TOKEN") == old else [SECRET, DRIFT])], "")
    assert cli.main(ROTATE) == 1
    assert unfinished(old) and "apply" not in [name for name, _ in fake.asked]
    assert "not only secrets differ" in capsys.readouterr().err


def test_a_rotation_that_another_run_began_meanwhile_is_not_forgotten(fake: Fake) -> None:
    """It is forgotten by its own proof, not by that of the one that was there first."""
    before = {}

    def apply() -> Outcome:
        before["LABEL_HMAC_KEY"] = store().value("LABEL_HMAC_KEY")
        store().rotate("LABEL_HMAC_KEY")
        return Outcome(0, PROVED, "")

    ready(fake, apply)
    assert cli.main(ROTATE) == 0
    assert store().retired() == {"LABEL_HMAC_KEY": [before["LABEL_HMAC_KEY"]]}


def test_one_that_goes_on_does_not_promise_another_value(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    """Started some day, finished by an apply, never proved: who rotates again because a value leaked must be told."""
    ready(fake)
    store().rotate("API_TOKEN")
    first = store().value("API_TOKEN")
    assert cli.main(ROTATE) == 0
    assert store().value("API_TOKEN") != first or ": a new value" not in capsys.readouterr().err


def test_a_service_without_the_secret_is_no_proof(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    ready(fake, Outcome(0, [*SYNCED, {**observed(), "service": "painter"}, verdict()], ""))
    assert cli.main([*ROTATE, "--json"]) == 0
    assert described("applied", capsys.readouterr().out)["proved"] == []


def test_what_is_renewed_along_and_who_restarts(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    salt = bcrypt.gensalt
    monkeypatch.setattr(bcrypt, "gensalt", lambda rounds: salt(4))
    store().generate(["LABEL_HMAC_KEY", "LOGIN_HASH", "LOGIN_USER"])
    assert cli.main(["secrets", "rotate", "LOGIN_PASSWORD", "--yes"]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "[gpu1] LOGIN_PASSWORD (and LOGIN_HASH): a new value; restarts painter"
    ]
    assert cli.main(["secrets", "rotate", "LABEL_HMAC_KEY", "--yes"]) == 0
    assert capsys.readouterr().err.splitlines() == ["[gpu1] LABEL_HMAC_KEY: a new value; restarts api, painter"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("API_TOKN", ["error: there is no secret `API_TOKN`", "hint: did you mean `API_TOKEN`?"]),
        ("API_TOKEN", ["error: [gpu1] `API_TOKEN` is not generated yet", "hint: `gpuhost apply` does that"]),
    ],
)
def test_what_cannot_be_rotated_asks_no_host(
    fake: Fake, capsys: pytest.CaptureFixture[str], name: str, told: list[str]
) -> None:
    assert cli.main(["secrets", "rotate", name, "--yes"]) == 1
    assert capsys.readouterr().err.splitlines() == told and fake.asked == [] and not Path("secrets").exists()


def test_each_host_forgets_by_its_own_proof(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    two_hosts()
    secrets("gpu2")
    hosts = [HOST, {**HOST, "host": "gpu2"}]
    ready(fake, Outcome(1, [*hosts, observed(), verdict(), {**PROBLEM, "host": "gpu2"}], ""))
    other = store("gpu2").value("API_TOKEN")
    assert cli.main(ROTATE) == 1
    assert store("gpu1").retired() == {} and store("gpu2").retired() == {"API_TOKEN": [other]}
    said = capsys.readouterr()
    assert "[gpu1] api: the old API_TOKEN gets 401, the new one 200" in said.out
    assert said.err.splitlines()[-2] == UNFINISHED[0].replace("gpu1", "gpu2")


@pytest.mark.parametrize("options", [["--limit", "gpu2"], ["--limit", "shop"], ["--limit", "gpu*2", "--limit", "gpu2"]])
@pytest.mark.parametrize("before_options", [[], ["--"]], ids=["its own", "of pyinfra"])
def test_options_choose_the_hosts(fake: Fake, options: list[str], before_options: list[str]) -> None:
    two_hosts()
    secrets("gpu1", "gpu2")
    before = {host: store(host).value("API_TOKEN") for host in ("gpu1", "gpu2")}
    assert cli.main([*ROTATE, *before_options, *options]) == 0
    assert store("gpu1").value("API_TOKEN") == before["gpu1"] and store("gpu2").value("API_TOKEN") != before["gpu2"]
    assert fake.options == options


def test_data_of_the_command_line_counts(fake: Fake) -> None:
    elsewhere = sample.catalog({"secrets_dir": "vault"})
    SecretStore(elsewhere, "gpu1", {}).generate(["API_TOKEN", "LABEL_HMAC_KEY"])
    before = SecretStore(elsewhere, "gpu1", {}).value("API_TOKEN")
    assert cli.main([*ROTATE, "--", "--data", "secrets_dir=vault"]) == 0
    assert SecretStore(elsewhere, "gpu1", {}).value("API_TOKEN") != before and not Path("secrets").exists()


# --- show -------------------------------------------------------------------------------------------------------------


def test_shown_to_a_terminal_only(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    secrets()
    assert cli.main(["secrets", "show", "API_TOKEN"]) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.splitlines() == [
        "error: a secret is printed to a terminal only, and stdout is none",
        "hint: add --force when it must go somewhere else",
    ]
    assert cli.main(["secrets", "show", "API_TOKEN", "--force"]) == 0
    assert capsys.readouterr().out == store().value("API_TOKEN") + "\n"
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    assert cli.main(["secrets", "show", "API_TOKEN"]) == 0
    assert screen.getvalue() == store().value("API_TOKEN") + "\n" and fake.asked == []


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("API_TOKN", ["error: there is no secret `API_TOKN`", "hint: did you mean `API_TOKEN`?"]),
        ("API_TOKEN", ["error: [gpu1] `API_TOKEN` is not generated yet", "hint: `gpuhost apply` does that"]),
        (
            "GIVEN",
            [
                "error: [gpu1] the secret `GIVEN` is not set",
                "hint: write `GIVEN=...` into .env or secrets/gpu1.env",
            ],
        ),
    ],
)
def test_what_cannot_be_shown(fake: Fake, capsys: pytest.CaptureFixture[str], name: str, told: list[str]) -> None:
    assert cli.main(["secrets", "show", name, "--force"]) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.splitlines() == told


def test_hosts_with_different_values(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    two_hosts()
    secrets("gpu1", "gpu2")
    assert cli.main(["secrets", "show", "API_TOKEN", "--force"]) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.splitlines() == [
        "error: `API_TOKEN` differs between gpu1, gpu2",
        "hint: name one host: --limit gpu1",
    ]
    assert cli.main(["secrets", "show", "API_TOKEN", "--force", "--", "--limit", "gpu2"]) == 0
    assert capsys.readouterr().out == store("gpu2").value("API_TOKEN") + "\n"
    assert cli.main(["secrets", "show", "LOGIN_USER", "--force"]) == 0  # the same on both
    assert capsys.readouterr().out == "genai\n"


# --- export and import ------------------------------------------------------------------------------------------------

PHRASE = "correct horse battery"


@pytest.fixture
def unsealed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pack and unpack at no cost, and readable here; the passphrase stands before the tar."""

    def decrypt(data: bytes, passphrase: str) -> bytes:
        given, _, inside = data.removeprefix(sealed(b"")).partition(b"\n")
        if given != passphrase.encode():
            raise archive.DecryptError("Decryption failed")
        return inside

    plain = SimpleNamespace(encrypt=lambda data, phrase: sealed(phrase.encode() + b"\n" + data), decrypt=decrypt)
    monkeypatch.setattr(archive, "sealed", plain)


def phrase(text: str = PHRASE + "\n", mode: int = 0o600) -> list[str]:
    path = Path("../phrase")
    path.write_bytes(text.encode())
    path.chmod(mode)
    return ["--passphrase-file", str(path)]


def export(*options: str, file: str = "../rescue.age") -> int:
    return cli.main(["secrets", "export", file, *(options or phrase())])


def bring(*options: str, file: str = "../rescue.age") -> int:
    return cli.main(["secrets", "import", file, *(options or phrase())])


def files() -> dict[str, tuple[bytes, int]]:
    """Every file of secrets of the project, with its mode."""
    found = [Path(".env"), *Path("secrets").glob("*")]
    return {str(path): (path.read_bytes(), path.stat().st_mode & 0o777) for path in found if path.is_file()}


def operators(text: str = "GIVEN=mine # and only mine\r\n") -> None:
    envfile.replace(Path(".env"), text)


def rebuilt() -> None:
    """The machine has lost its disk."""
    subprocess.run(["rm", "-rf", "secrets", ".env"], check=True)


def test_over_a_rebuild(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    """The real thing once: scrypt costs a second each time."""
    secrets()
    operators()
    store().rotate("API_TOKEN")
    before = files()
    assert set(before) == {".env", "secrets/.lock", "secrets/gpu1.env", "secrets/gpu1.retired.json"}
    assert export() == 0
    assert capsys.readouterr().out == "../rescue.age: .env, secrets/gpu1.env, secrets/gpu1.retired.json\n"
    packed = Path("../rescue.age")
    assert packed.stat().st_mode & 0o777 == 0o600 and files() == before
    assert not [value for value in (b"mine", store().value("API_TOKEN").encode()) if value in packed.read_bytes()]
    rebuilt()
    assert bring() == 0
    assert files() == before
    assert Path("secrets").stat().st_mode & 0o777 == 0o700
    assert sorted(capsys.readouterr().out.splitlines()) == [
        ".env: written",
        "secrets/gpu1.env: written",
        "secrets/gpu1.retired.json: written",
    ]


@pytest.mark.usefixtures("unsealed")
def test_a_site_away_from_the_working_directory(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a command reads and writes lies in the site; the files that it names lie where the person stands."""
    secrets()
    operators()
    before, site = files(), Path.cwd()
    token, options = store().value("API_TOKEN"), [*phrase(), "-i", str(site)]
    here = site.parent / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert cli.main(["secrets", "show", "API_TOKEN", "--force", "-i", "../project"]) == 0
    assert capsys.readouterr().out == f"{token}\n"
    assert export(*options, file="rescue.age") == 0
    assert capsys.readouterr().out == "rescue.age: .env, secrets/gpu1.env\n"
    monkeypatch.chdir(site)
    rebuilt()
    monkeypatch.chdir(here)
    assert bring(*options, file="rescue.age") == 0
    written = [f"{site}/.env: written", f"{site}/secrets/gpu1.env: written"]
    assert sorted(capsys.readouterr().out.splitlines()) == written
    assert sorted(path.name for path in here.iterdir()) == ["rescue.age"]
    monkeypatch.chdir(site)
    assert files() == before


@pytest.mark.usefixtures("unsealed")
def test_another_passphrase(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    secrets()
    assert export() == 0
    rebuilt()
    assert bring(*phrase("another passphrase")) == 1
    assert capsys.readouterr().err.splitlines()[0] == "error: the passphrase does not open this archive"
    assert files() == {}


@pytest.mark.usefixtures("unsealed")
def test_what_is_there_already_is_left(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    secrets()
    operators()
    before = files()
    assert export() == 0
    Path(".env").unlink()
    inode = Path("secrets/gpu1.env").stat().st_ino
    capsys.readouterr()
    assert bring() == 0
    assert capsys.readouterr().out.splitlines() == [".env: written", "secrets/gpu1.env: there already"]
    assert files() == before and Path("secrets/gpu1.env").stat().st_ino == inode
    assert bring() == 0 and files() == before


@pytest.mark.usefixtures("unsealed")
def test_what_differs_is_kept_and_then_nothing_is_written(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    secrets()
    operators()
    assert export() == 0
    Path(".env").unlink()
    store().rotate("API_TOKEN")
    before = files()
    capsys.readouterr()
    assert bring() == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.splitlines() == [
        "error: secrets/gpu1.env is there and differs",
        "hint: move it away first: mv secrets/gpu1.env secrets/gpu1.env.old",
    ]
    assert files() == before


@pytest.mark.usefixtures("unsealed")
def test_an_export_replaces_nothing(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    secrets()
    Path("../rescue.age").write_text("of another machine")
    assert export() == 1
    assert capsys.readouterr().err.splitlines() == [
        "error: ../rescue.age exists",
        "hint: name another file: nothing is overwritten",
    ]
    assert Path("../rescue.age").read_text() == "of another machine"


@pytest.mark.usefixtures("unsealed")
def test_nothing_to_export(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    assert export() == 1
    assert capsys.readouterr().err.splitlines()[0] == "error: there are no secrets yet"
    assert not Path("../rescue.age").exists()


@pytest.mark.usefixtures("unsealed")
@pytest.mark.parametrize("file", ["no/such/folder.age", "inventory.py/rescue.age"])
def test_where_nothing_can_be_written(fake: Fake, capsys: pytest.CaptureFixture[str], file: str) -> None:
    secrets()
    assert export(file=file) == 1
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith(f"error: {file} cannot be written") and hint.startswith("hint: ")


@pytest.mark.usefixtures("unsealed")
def test_an_encrypted_file_that_git_checked_out_goes_along(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody may read it: it is encrypted."""
    secrets()
    monkeypatch.setattr("gpuhost.secrets.sops.read", lambda path: {})
    Path("secrets/gpu1.sops.env").write_text("GIVEN=ENC[AES256_GCM,data:x]\n")
    Path("secrets/gpu1.sops.env").chmod(0o644)
    before = Path("secrets/gpu1.sops.env").read_bytes()
    assert export() == 0
    rebuilt()
    assert bring() == 0
    assert Path("secrets/gpu1.sops.env").read_bytes() == before


@pytest.mark.usefixtures("unsealed")
def test_what_only_the_environment_gives_is_named(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    secrets()
    monkeypatch.setenv("GIVEN_TOO", "hunter2")
    assert export() == 0
    said = capsys.readouterr()
    assert said.err == "[gpu1] not in it, for the environment gives them: GIVEN\n" and "hunter2" not in said.out


@pytest.mark.usefixtures("unsealed")
def test_every_host_that_is_named_goes_along(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    two_hosts()
    secrets("gpu1", "gpu2")
    assert export(*phrase(), "--", "--limit", "gpu2") == 0
    assert capsys.readouterr().out == "../rescue.age: secrets/gpu2.env\n"
    assert export(file="../all.age") == 0
    before = files()
    rebuilt()
    assert bring(file="../all.age") == 0 and files() == before


@pytest.mark.usefixtures("unsealed")
def test_another_folder_of_secrets(fake: Fake) -> None:
    """An archive is not bound to where a machine keeps them."""
    secrets()
    text = Path("secrets/gpu1.env").read_text()
    assert export() == 0
    vault = Path("../vault").resolve()
    assert bring(*phrase(), "--", "--data", f"secrets_dir={vault}") == 0
    assert (vault / "gpu1.env").read_text() == text and vault.stat().st_mode & 0o777 == 0o700


PASSPHRASES: dict[str, tuple[list[Any], list[str]]] = {
    "short": (["elevenchars\nlonger in the second line\n"], ["error: the passphrase is shorter than 12 characters"]),
    "empty": ([""], ["error: the passphrase is shorter than 12 characters"]),
    "others read it": (
        [PHRASE, 0o644],
        ["error: ../phrase can be read by others on this machine", "hint: chmod 600 ../phrase"],
    ),
}


@pytest.mark.usefixtures("unsealed")
@pytest.mark.parametrize(("given", "told"), PASSPHRASES.values(), ids=PASSPHRASES)
@pytest.mark.parametrize("command", [export, bring])
def test_a_passphrase_that_will_not_do(
    fake: Fake, capsys: pytest.CaptureFixture[str], command: Callable[..., int], given: list[Any], told: list[str]
) -> None:
    secrets()
    before = files()
    if command is bring:
        assert export() == 0
        capsys.readouterr()
    assert command(*phrase(*given)) == 1
    assert capsys.readouterr().err.splitlines()[: len(told)] == told and files() == before
    assert Path("../rescue.age").exists() == (command is bring)


@pytest.mark.usefixtures("unsealed")
def test_no_passphrase_file(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    secrets()
    assert export("--passphrase-file", "absent") == 1
    assert capsys.readouterr().err.splitlines() == [
        "error: there is no absent",
        "hint: write the passphrase into it (chmod 600)",
    ]


@pytest.mark.usefixtures("unsealed")
@pytest.mark.parametrize("text", [PHRASE, f"{PHRASE}\n", f"{PHRASE}\r\n", f"{PHRASE}\nnotes\n"], ids=repr)
def test_the_first_line_however_it_ends(fake: Fake, text: str) -> None:
    """A file that an editor of Windows wrote opens with what a person types."""
    secrets()
    assert export(*phrase(text)) == 0
    assert bring(*phrase(PHRASE)) == 0


@pytest.mark.usefixtures("unsealed")
@pytest.mark.parametrize(
    ("typed", "code", "told"),
    [
        ([PHRASE, PHRASE], 0, None),
        ([PHRASE, PHRASE + " "], 1, "error: the two passphrases differ"),
        (["short", "short"], 1, "error: the passphrase is shorter than 12 characters"),
        ([], 1, "error: no passphrase was given"),
    ],
)
def test_typed_twice(
    fake: Fake,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    typed: list[str],
    code: int,
    told: str | None,
) -> None:
    answers = iter(typed)

    def getpass(prompt: str) -> str:
        try:
            return next(answers)
        except StopIteration:
            raise EOFError from None

    secrets()
    monkeypatch.setattr("getpass.getpass", getpass)
    assert cli.main(["secrets", "export", "../rescue.age"]) == code
    assert (told is None) == Path("../rescue.age").exists()
    assert told is None or capsys.readouterr().err.splitlines()[0] == told


def test_no_terminal_to_ask_on(fake: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def getpass(prompt: str) -> str:
        warnings.warn("it would be shown", GetPassWarning, stacklevel=2)
        return PHRASE

    secrets()
    monkeypatch.setattr("getpass.getpass", getpass)
    assert cli.main(["secrets", "export", "../rescue.age"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "error: nobody can be asked for the passphrase: there is no terminal",
        "hint: --passphrase-file FILE",
    ]
    assert not Path("../rescue.age").exists()


@pytest.mark.usefixtures("unsealed")
@pytest.mark.parametrize(
    "name",
    [
        "secrets/../x.env",
        "../x.env",
        "/etc/x.env",
        "secrets/a/b.env",
        "secrets/x.txt",
        "secrets/.lock",
        "x.env",
        "secrets",
        "other/x.env",
        ".bashrc",
        "secrets/x.env/",
        "secrets\\x.env",
    ],
)
def test_a_hostile_archive(fake: Fake, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """Nothing of it is written, the good among it neither."""
    inside = tar(member("secrets/good.env"), member(name))
    Path("../rescue.age").write_bytes(sealed(PHRASE.encode() + b"\n" + inside))
    everything = sorted(Path().resolve().parent.rglob("*"))
    assert bring() == 1
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ") and name.rstrip("/") in error and hint.startswith("hint: ")
    assert not Path("/etc/x.env").exists()
    assert [path for path in Path().resolve().parent.rglob("*") if path not in everything and path.is_file()] in (
        [],
        [Path("../phrase").resolve()],
        [Path("secrets/.lock").resolve(), Path("../phrase").resolve()],
    )


@pytest.mark.usefixtures("unsealed")
@pytest.mark.parametrize("made", ["absent", "folder", "text"])
def test_what_is_no_archive(fake: Fake, capsys: pytest.CaptureFixture[str], made: str) -> None:
    path = Path("../rescue.age")
    if made == "folder":
        path.mkdir()
    if made == "text":
        path.write_text("hunter2")
    assert bring() == 1
    error, hint = capsys.readouterr().err.splitlines()
    assert (
        error
        == {
            "absent": "error: ../rescue.age cannot be read: No such file or directory",
            "folder": "error: ../rescue.age cannot be read: Is a directory",
            "text": "error: this is no age file",
        }[made]
    )
    assert re.match("hint: .*the file that (an )?export wrote", hint)


@pytest.mark.usefixtures("unsealed")
def test_a_folder_in_the_place_of_a_file(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    secrets()
    assert export() == 0
    rebuilt()
    Path("secrets/gpu1.env").mkdir(parents=True)
    capsys.readouterr()
    assert bring() == 1
    assert capsys.readouterr().err.splitlines()[0].startswith("error: secrets/gpu1.env ")


def test_the_archive_opens_without_us(fake: Fake, unsealed: None) -> None:
    secrets()
    operators()
    assert export() == 0
    inside = Path("../rescue.age").read_bytes().partition(PHRASE.encode() + b"\n")[2]
    with tarfile.open(fileobj=io.BytesIO(inside)) as opened:
        assert opened.getnames() == [".env", "secrets/gpu1.env"]
