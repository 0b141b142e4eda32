"""The command line: exit codes, stdout for data and stderr for talk, and the whole circle on this machine."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpuhost.cli import arguments, progress
from gpuhost.cli import main as cli
from gpuhost.run import pyinfra as pyinfra_run
from gpuhost.run.pyinfra import Outcome, Target
from tests.unit.described import described

Event = dict[str, Any]
HOST: Event = {"event": "host", "host": "gpu1"}
SKIPPED: Event = {
    "event": "skipped",
    "host": "gpu1",
    "message": "skipped: painter: it needs 1 NVIDIA GPU, this host has none",
    "service": "painter",
    "reason": "it needs 1 NVIDIA GPU, this host has none",
}
PROBLEM: Event = {"event": "problem", "host": "gpu1", "what": "it cannot be", "hint": "make it be"}
ADDRESS: Event = {"event": "address", "host": "gpu1", "message": "api: http://127.0.0.1:9001"}
OBSERVED: Event = {"event": "observed", "host": "gpu1", "service": "api", "outcome": "ready"}


def change(event: str = "change", name: str = "/data", phase: str = "plan", **over: Any) -> Event:
    made: Event = {"event": event, "host": "gpu1", "stage": "layout", "action": "create", "reason": "why"}
    made |= {"resource": {"kind": "folder", "name": name}, "diff": [], "scope": "", "impact": None}
    return {**made, **({"phase": phase} if event == "change" else {}), **over}


class Fake:
    """What pyinfra would have given; `asked` is what it was asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.plan = self.apply = self.look = Outcome(0, [HOST], "")
        self.asked: list[str] = []
        self.targets: list[Target] = []
        monkeypatch.setattr(pyinfra_run, "plan", self._answer("plan"))
        monkeypatch.setattr(pyinfra_run, "apply", self._answer("apply"))
        monkeypatch.setattr(pyinfra_run, "look", self._answer("look"))

    def _answer(self, name: str) -> Callable[..., Outcome]:
        def answer(target: Target, *_: Any, **__: Any) -> Outcome:
            self.asked.append(name)
            self.targets.append(target)
            outcome: Outcome = getattr(self, name)
            return outcome

        return answer


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(arguments, "PROJECT", tmp_path)
    for name in ("deploy.py", "inventory.py"):
        (tmp_path / name).touch()
    return Fake(monkeypatch)


CHANGES = [HOST, change(), change(name="painter", stage="stacks")]
LOGIN: Event = {"event": "login", "host": "gpu1", "service": "api", "secrets": ["API_TOKEN"]}


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (Outcome(0, [HOST], ""), 0),
        (Outcome(0, [HOST, SKIPPED], ""), 0),
        (Outcome(0, CHANGES, ""), 2),
        (Outcome(0, [HOST, PROBLEM], ""), 1),
        (Outcome(0, [*CHANGES, PROBLEM], ""), 1),
        (Outcome(1, CHANGES, ""), 1),
        (Outcome(0, [], ""), 1),  # pyinfra exits 0 when it reached no host
    ],
)
@pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])
def test_exit_codes_of_plan(fake: Fake, outcome: Outcome, code: int, options: list[str]) -> None:
    fake.plan = outcome
    assert cli.main(["plan", *options]) == code
    assert fake.asked == ["plan"]


def test_a_plan_for_people(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake.plan = Outcome(0, [*CHANGES, SKIPPED], "")
    cli.main(["plan"])
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        "gpu1:",
        "  layout",
        "    + folder /data  create  why",
        "  stacks",
        "    + folder painter  create  why",
        "Plan: 2 to add, 0 to change, 0 to remove.",
        "Nothing has been changed.",
        "`gpuhost apply` does exactly this.",
    ]
    assert said.err.splitlines() == ["[gpu1] skipped: painter: it needs 1 NVIDIA GPU, this host has none"]
    fake.plan = Outcome(0, [HOST], "")
    cli.main(["plan"])
    assert capsys.readouterr().out == "Nothing to do.\n"


HOSTS: Event = {"event": "hosts", "host": "", "names": ["gpu1", "gpu2", "my gpu"]}


@pytest.mark.parametrize(
    ("words", "failing", "last"),
    [
        (["plan"], ["gpu2"], "without it: `gpuhost apply -- --exclude gpu2`"),
        (["apply"], ["gpu2", "my gpu"], "without them: `gpuhost apply -- --exclude gpu2 --exclude 'my gpu'`"),
        (
            ["apply", "-l", "lab", "--only", "stacks"],
            ["gpu2"],
            "`gpuhost apply -l lab --only stacks -- --exclude gpu2`",
        ),
    ],
)
def test_a_host_that_cannot_be_planned_hides_nothing_of_the_others(
    fake: Fake, capsys: pytest.CaptureFixture[str], words: list[str], failing: list[str], last: str
) -> None:
    fake.plan = Outcome(1, [HOSTS, *CHANGES, *({**PROBLEM, "host": name} for name in failing)], "")
    assert cli.main(words) == 1 and fake.asked == ["plan"]
    said = capsys.readouterr()
    assert ("    + folder /data  create  why" in said.out.splitlines()) is (words == ["plan"])
    assert said.err.count("it cannot be") == len(failing)
    assert said.err.splitlines()[-1].startswith("nothing has been changed; ") and last in said.err


@pytest.mark.parametrize("failing", [[""], ["gpu1", "gpu2", "my gpu"], ["gpu2", ""]])
def test_where_no_host_can_go_on_none_is_said_to(
    fake: Fake, capsys: pytest.CaptureFixture[str], failing: list[str]
) -> None:
    fake.plan = Outcome(1, [HOSTS, HOST, *({**PROBLEM, "host": name} for name in failing)], "")
    for words in (["plan"], ["apply"]):
        assert cli.main(words) == 1
        assert "without" not in capsys.readouterr().err


def test_a_host_with_nothing_to_do_is_named_beside_one_with_something(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.plan = Outcome(0, [*CHANGES, {**HOST, "host": "gpu2"}, {**HOST, "host": "gpu3"}], "")
    for words in (["plan"], ["apply"]):
        cli.main(words)
        assert "gpu2, gpu3: nothing to do." in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("words", "last"),
    [
        (["-i", "lab", "-l", "gpu1"], "`gpuhost apply -i lab -l gpu1` does exactly this."),
        (["-i", "my lab/inventory.py"], "`gpuhost apply -i 'my lab/inventory.py'` does exactly this."),
        (
            ["--only", "stacks", "-v", "--", "--parallel", "2"],
            "`gpuhost apply --only stacks -- --parallel 2` does exactly this.",
        ),
    ],
)
def test_the_last_line_of_a_plan_is_what_comes_next(
    fake: Fake, capsys: pytest.CaptureFixture[str], words: list[str], last: str
) -> None:
    for folder in ("lab", "my lab"):
        Path(folder).mkdir()
        Path(folder, "inventory.py").touch()
    fake.plan = Outcome(0, CHANGES, "")
    cli.main(["plan", *words])
    *_, nothing, shown = capsys.readouterr().out.splitlines()
    assert shown == last
    assert nothing == "Nothing has been changed."


@pytest.mark.parametrize("words", [[], ["-v"]])
@pytest.mark.parametrize(("kind", "number"), [("folder", 15), ("folder", 16), ("model", 16)])
def test_a_plan_says_how_what_is_only_counted_is_listed(
    fake: Fake, capsys: pytest.CaptureFixture[str], words: list[str], kind: str, number: int
) -> None:
    fake.plan = Outcome(0, [HOST, *(change(resource={"kind": kind, "name": str(each)}) for each in range(number))], "")
    cli.main(["plan", *words])
    out = capsys.readouterr().out
    counted = f"    + {number} folders\n" in out
    assert counted == ((kind, number, words) == ("folder", 16, []))
    assert ("Nothing has been changed; `-v --no-diff` lists what is only counted.\n" in out) == counted


def test_an_apply_says_what_is_to_be_known_before_it_asks_and_not_again(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    proof: Event = {"event": "gpu", "host": "gpu1", "message": "computes rightly"}
    fake.plan, fake.apply = Outcome(0, [*CHANGES, SKIPPED], ""), Outcome(0, [*DONE, SKIPPED, proof, LOGIN], "")
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    assert cli.main(["apply", "-l", "gpu1"]) == 0
    said = capsys.readouterr()
    note, asked, log = said.err.splitlines()
    assert note == "[gpu1] skipped: painter: it needs 1 NVIDIA GPU, this host has none"
    assert asked == "Apply 2 changes? [y/N] [gpu1] computes rightly" and "-apply.log" in log
    assert said.out.splitlines()[-1] == "to log in: `gpuhost secrets show -l gpu1 NAME`, NAME one of API_TOKEN"


def test_on_a_terminal_no_line_of_talk_is_longer_than_it_is(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    long = {**SKIPPED, "message": "a word or two " * 20}
    fake.plan = Outcome(1, [HOST, long, {**PROBLEM, "what": "it cannot be " * 20, "detail": ["d" * 100]}], "")
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "70")
    cli.main(["plan"])
    lines = [line.rpartition("\x1b[K")[2] for line in screen.getvalue().splitlines()]
    assert [line for line in lines if len(line) > 70] == ["  | " + "d" * 100] and len(lines) > 8


@pytest.mark.parametrize(
    ("terminal", "no_color", "coloured"), [(True, "", True), (True, "1", False), (False, "", False)]
)
def test_colour_is_for_a_terminal_whose_owner_wants_it(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, terminal: bool, no_color: str, coloured: bool
) -> None:
    screen = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("NO_COLOR", no_color)
    fake.plan = Outcome(0, [HOST, change(), change(name="old", action="remove")], "")
    cli.main(["plan"])
    shown = screen.getvalue()
    assert ("\x1b[32m    + folder /data" in shown, "\x1b[31m    - folder old" in shown) == (coloured, coloured)
    assert coloured or "\x1b" not in shown
    assert "+ folder /data  create  why" in shown and "- folder old    remove  why" in shown


NOTHING = {
    **{"download_bytes": 0, "download_unknown": [], "neighbour_bytes": 0, "disks": [], "seconds": 0},
    **{"seconds_unknown": [], "ports": [], "reboot": "no"},
}


def test_a_plan_for_programs(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake.plan = Outcome(0, [HOST, SKIPPED, change()], "pyinfra's own words")
    cli.main(["plan", "--json"])
    assert json.loads(capsys.readouterr().out) == {
        "version": 1,
        "result": "changes",
        "changes": [
            {
                "host": "gpu1",
                "stage": "layout",
                "resource": {"kind": "folder", "name": "/data"},
                "action": "create",
                "reason": "why",
                "diff": [],
                "text_diff": [],
                "impact": {
                    **{"stops": [], "restarts": [], "download_bytes": 0, "neighbour_bytes": {}, "disk_bytes": 0},
                    **{"seconds": 0.0, "starts": False, "opens": [], "reboot": "no"},
                },
            }
        ],
        "totals": {"gpu1": NOTHING},
        "skipped": [{"host": "gpu1", "service": "painter", "reason": SKIPPED["reason"]}],
        "notes": [{"host": "gpu1", "message": SKIPPED["message"]}],
        "observed": [],
        "errors": [],
    }


@pytest.mark.parametrize("command", ["plan", "apply", "verify"])
def test_an_error_is_told_on_stderr(fake: Fake, capsys: pytest.CaptureFixture[str], command: str) -> None:
    fake.plan = fake.look = Outcome(1, [HOST, PROBLEM], "")
    assert cli.main([command]) == 1
    said = capsys.readouterr()
    assert said.err.splitlines() == ["error: [gpu1] it cannot be", "hint: make it be"]
    assert said.out == ""
    assert cli.main([command, "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["result"] == "error"
    assert document["errors"] == [{"host": "gpu1", "what": "it cannot be", "hint": "make it be", "detail": []}]
    assert "apply" not in fake.asked


LINES = [f"line {number}" for number in range(1, 101)]
UNKNOWN = "and gpuhost does not know why"


@pytest.mark.parametrize("command", ["plan", "verify", "apply"])
@pytest.mark.parametrize(
    ("code", "what", "hint"),
    [
        (3, f"pyinfra ended with code 3, {UNKNOWN}", ""),
        (0, f"pyinfra reached no host, {UNKNOWN}", ""),
        (-15, f"pyinfra was ended by SIGTERM, {UNKNOWN}", ""),
        (
            -9,
            f"pyinfra was ended by SIGKILL, {UNKNOWN}",
            "`journalctl -k` says whether this machine ran out of memory; ",
        ),
        (-40, f"pyinfra was ended by the signal 40, {UNKNOWN}", ""),
    ],
)
def test_pyinfras_own_end_is_shown_when_nothing_else_is_known(
    fake: Fake, capsys: pytest.CaptureFixture[str], command: str, code: int, what: str, hint: str
) -> None:
    """Its last lines, and a file with all of them, which nobody else can read."""
    fake.plan = fake.look = Outcome(code, [], "".join(f"{line}\x1b[1m\x07\n" for line in LINES))
    assert cli.main([command]) == 1
    error, told, *lines = capsys.readouterr().err.splitlines()
    begin, _, path = told.partition("its last words are below; its log: ")
    assert (error, begin) == (f"error: {what}", f"hint: {hint}")
    assert [line.split("\\")[0] for line in lines] == [f"  | {line}" for line in LINES[-30:]]
    assert Path(path).read_text().splitlines() == [f"{line}\\x07" for line in LINES]
    assert Path(path).stat().st_mode & 0o777 == 0o600
    assert cli.main([command, "--json"]) == 1
    [problem] = json.loads(capsys.readouterr().out)["errors"]
    assert problem["what"] == what and len(problem["detail"]) == 30


def test_a_log_that_is_there_is_the_one_that_is_named(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake.plan, fake.apply = Outcome(0, CHANGES, ""), Outcome(3, [HOST], "its own words\n")
    assert cli.main(["apply", "--yes"]) == 1
    error, hint, words, log = capsys.readouterr().err.splitlines()[-4:]
    path = log.removeprefix("all that was printed meanwhile: ")
    assert (error, hint) == (
        f"error: pyinfra ended with code 3, {UNKNOWN}",
        f"hint: its last words are below; its log: {path}",
    )
    assert words == "  | its own words" and path.endswith("-apply.log")


def test_a_run_that_printed_nothing(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake.plan = Outcome(1, [], "")
    assert cli.main(["plan"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"error: pyinfra ended with code 1, {UNKNOWN}",
        "hint: it printed nothing",
    ]


def test_where_no_log_can_be_written_the_last_words_are_all(
    fake: Fake, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/dev/null")
    fake.plan = Outcome(1, [], "no such module")
    assert cli.main(["plan"]) == 1
    assert capsys.readouterr().err.splitlines()[1:] == ["hint: its last words are below", "  | no such module"]


VERDICT: Event = {"event": "verdict", "host": "gpu1", "ok": True, "services": ["api"], "failed": []}
DONE = [HOST, change("performed"), change("performed", "painter", stage="stacks"), OBSERVED, VERDICT, ADDRESS]


def test_apply_does_the_plan_and_says_where_services_are(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake.plan, fake.apply = Outcome(0, CHANGES, ""), Outcome(0, DONE, "")
    assert cli.main(["apply", "--yes"]) == 0
    assert fake.asked == ["plan", "apply"]
    [*_, made, verdict, address] = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"\[gpu1\] 2 changes made in \d+ s\.", made)
    assert (verdict, address) == ("[gpu1] 1 of 1 services answer: api", "[gpu1] api: http://127.0.0.1:9001")
    assert cli.main(["apply", "--yes", "--json"]) == 0
    document = described("applied", capsys.readouterr().out)
    assert (document["result"], len(document["changes"])) == ("ok", 2)
    assert document["observed"] == [OBSERVED]


def test_a_converged_host_is_still_proved(fake: Fake) -> None:
    assert cli.main(["apply"]) == 0  # and nobody is asked: there is nothing to agree to
    assert fake.asked == ["plan", "look"]


def test_what_was_done_and_not_planned_is_a_defect(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake.plan = Outcome(0, CHANGES, "")
    fake.apply = Outcome(0, [*DONE, change("performed", "/other")], "")
    assert cli.main(["apply", "--yes", "--json"]) == 1
    hint = "this is a defect of gpuhost: please report it with the plan"
    assert json.loads(capsys.readouterr().out)["errors"] == [
        {"host": "gpu1", "what": "`layout: create /other` was done, but not planned", "hint": hint, "detail": []},
    ]
    assert cli.main(["apply", "--yes"]) == 1
    assert "was done, but not planned" in capsys.readouterr().err


def test_it_is_one_on_a_sound_host_beside_a_failed_one(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    other = {**change("performed", "/other"), "host": "gpu2"}
    fake.plan = Outcome(0, [HOST, {**HOST, "host": "gpu2"}, change()], "")
    fake.apply = Outcome(1, [HOST, {**HOST, "host": "gpu2"}, other, change("performed", "/x"), PROBLEM], "")
    assert cli.main(["apply", "--yes"]) == 1
    assert [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")] == [
        "error: [gpu1] it cannot be",
        "error: [gpu2] `layout: create /other` was done, but not planned",
    ]


def test_what_was_already_done_when_its_turn_came_is_no_error(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake.plan = Outcome(0, CHANGES, "")
    fake.apply = Outcome(0, [HOST, change("performed")], "")
    assert cli.main(["apply", "--yes"]) == 0
    said = capsys.readouterr()
    assert said.err.splitlines()[:-1] == ["[gpu1] already done when its turn came: stacks: create painter"]
    assert cli.main(["apply", "--yes", "--json"]) == 0
    said = capsys.readouterr()
    document = described("applied", said.out)
    assert (document["result"], document["errors"], said.err) == ("ok", [], "")
    assert [each["resource"]["name"] for each in document["changes"]] == ["/data"]
    assert [(each["host"], each["resource"]["name"]) for each in document["already_done"]] == [("gpu1", "painter")]


def test_the_reason_may_read_differently_when_it_is_done(fake: Fake) -> None:
    fake.plan = Outcome(0, [HOST, change()], "")
    fake.apply = Outcome(0, [HOST, change("performed", reason="another")], "")
    assert cli.main(["apply", "--yes"]) == 0


def test_a_failed_apply_tells_its_cause_and_not_the_rest_of_the_plan(
    fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.plan, fake.apply = Outcome(0, CHANGES, ""), Outcome(1, [HOST, change("performed"), PROBLEM], "")
    assert cli.main(["apply", "--yes"]) == 1
    *problem, log = capsys.readouterr().err.splitlines()
    assert problem == ["error: [gpu1] it cannot be", "hint: make it be"]
    assert Path(log.removeprefix("all that was printed meanwhile: ")).is_file()


class Terminal(io.StringIO):
    """A person at a keyboard."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("answer", "code", "asked"),
    [
        ("y\n", 0, ["plan", "apply"]),
        ("YES\n", 0, ["plan", "apply"]),
        ("\n", 1, ["plan"]),
        ("n\n", 1, ["plan"]),
        ("sure\n", 1, ["plan"]),
    ],
)
def test_apply_asks(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fake: Fake,
    answer: str,
    code: int,
    asked: list[str],
) -> None:
    fake.plan, fake.apply = Outcome(0, CHANGES, ""), Outcome(0, DONE, "")
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    assert cli.main(["apply"]) == code
    assert fake.asked == asked
    assert ("Nothing has been changed." in capsys.readouterr().err) == (code == 1)


THEIRS: Event = {
    "event": "running",
    "host": "gpu1",
    "containers": [
        {"name": "theirs", "restart": "no", "ours": False, "removed": False},
        {"name": "api", "restart": "no", "ours": True, "removed": False},
    ],
    "live_restore": False,
}
_IMPACT = {"stops": ["theirs", "api"], "restarts": ["theirs", "api"], "download_bytes": 0}
RESTART = change(resource={"kind": "engine", "name": "dockerd"}, stage="engine", action="restart", impact=_IMPACT)


@pytest.mark.parametrize(
    ("options", "answer", "code", "asked"),
    [
        (["--yes"], "", 1, ["plan"]),
        (["--yes", "--stop-foreign"], "", 0, ["plan", "apply"]),
        ([], "n\n", 1, ["plan"]),
        ([], "y\n", 0, ["plan", "apply"]),
        (["--stop-foreign"], "n\n", 1, ["plan"]),
    ],
)
def test_containers_of_others_are_asked_for_by_name(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fake: Fake,
    options: list[str],
    answer: str,
    code: int,
    asked: list[str],
) -> None:
    fake.plan = Outcome(0, [HOST, THEIRS, RESTART], "")
    fake.apply = Outcome(0, [HOST, {**RESTART, "event": "performed"}], "")
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    assert (cli.main(["apply", *options]), fake.asked) == (code, asked)
    said = capsys.readouterr().err
    if options == ["--yes"]:
        assert said.splitlines() == [
            "error: [gpu1] Docker's restart stops containers that are not gpuhost's: theirs",
            "hint: add --stop-foreign when they may stop, or answer the question of `gpuhost apply`",
        ]
    elif not options:
        assert "Apply 1 change, and stop theirs on gpu1 (not gpuhost's)? [y/N]" in said
    else:
        assert "not gpuhost's" not in said


def test_where_containers_outlive_the_restart_nobody_is_asked_for(fake: Fake) -> None:
    fake.plan = Outcome(0, [HOST, {**THEIRS, "live_restore": True}, RESTART], "")
    fake.apply = Outcome(0, [HOST, {**RESTART, "event": "performed"}], "")
    assert (cli.main(["apply", "--yes"]), fake.asked) == (0, ["plan", "apply"])


def test_nobody_to_ask(monkeypatch: pytest.MonkeyPatch, fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake.plan = Outcome(0, CHANGES, "")
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert cli.main(["apply"]) == 1
    assert fake.asked == ["plan"]
    assert capsys.readouterr().err.splitlines() == [
        "error: nobody can be asked: stdin is not a terminal",
        "hint: add --yes to apply without asking",
    ]


def test_verify(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake.look = Outcome(0, [HOST, OBSERVED, VERDICT, ADDRESS], "")
    assert cli.main(["verify"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "[gpu1] 1 of 1 services answer: api",
        "[gpu1] api: http://127.0.0.1:9001",
    ]
    assert fake.asked == ["look"]


def test_a_verify_that_fails_says_which_services_are_fine(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    failed = {**VERDICT, "ok": False, "services": ["api", "painter", "vae"], "failed": ["painter"]}
    fake.look = Outcome(1, [HOST, failed, PROBLEM], "")
    assert cli.main(["verify"]) == 1
    said = capsys.readouterr()
    assert said.out == "[gpu1] 2 of 3 services answer: api, vae\n"
    assert said.err.splitlines() == ["error: [gpu1] it cannot be", "hint: make it be"]


def test_options_for_pyinfra_and_the_sudo_password(monkeypatch: pytest.MonkeyPatch, fake: Fake) -> None:
    monkeypatch.setattr("getpass.getpass", lambda prompt: "pw")
    cli.main(["plan", "--use-sudo-password", "--", "--limit", "gpu1"])
    [target] = fake.targets
    assert (target.options, target.sudo_password) == (["--limit", "gpu1"], "pw")
    assert (target.inventory, target.project) == (str(Path.cwd() / "inventory.py"), Path.cwd())


def test_some_hosts_and_more_options_for_pyinfra(fake: Fake) -> None:
    cli.main(["plan", "--limit", "gpu1", "-l", "shop", "--", "--parallel", "2"])
    assert fake.targets[0].options == ["--limit", "gpu1", "--limit", "shop", "--parallel", "2"]


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert re.fullmatch(r"gpuhost \d+\.\d+\.\d+\n", capsys.readouterr().out)


INVENTORY_HINT = "hint: name an inventory or a site's folder with --inventory; `gpuhost init DIR` makes a site"


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ([], ["error: there is no inventory `inventory.py` here", INVENTORY_HINT]),
        (["-i", "lab.py"], ["error: there is no inventory `lab.py` here", INVENTORY_HINT]),
        (["-i", "@local"], ["error: there is no inventory `@local` here", INVENTORY_HINT]),
        (["-i", "lab"], ["error: there is no inventory.py in lab", "hint: `gpuhost init lab` makes one"]),
    ],
)
def test_what_is_no_inventory(
    fake: Fake, capsys: pytest.CaptureFixture[str], named: list[str], said: list[str]
) -> None:
    Path("inventory.py").unlink()
    Path("lab").mkdir()
    assert cli.main(["plan", *named]) == 1
    assert capsys.readouterr().err.splitlines() == said
    assert fake.asked == []


def test_a_package_without_its_project(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("deploy.py").unlink()
    assert cli.main(["plan"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"error: gpuhost does not run from its project: there is no deploy.py in {Path.cwd()}",
        "hint: install it from a checkout: `make venv` there",
    ]


def test_a_destroy_ends_with_how_all_of_it_comes_back(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake.plan = Outcome(0, [HOST, change(action="remove")], "")
    fake.apply = Outcome(0, [HOST, change("performed", action="remove")], "")
    assert cli.main(["destroy", "--yes", "-l", "gpu1"]) == 0
    last = "`gpuhost apply -l gpu1` makes all of it again, with the data that stayed."
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == last and said.err.endswith("-destroy.log\n")
    assert cli.main(["destroy", "--yes", "--json"]) == 0
    assert last[1:14] not in capsys.readouterr().out
    fake.apply = Outcome(1, [HOST, PROBLEM], "")
    assert cli.main(["destroy", "--yes"]) == 1 and cli.main(["destroy"]) == 1  # nobody can be asked
    assert last[-20:] not in capsys.readouterr().out


@pytest.mark.parametrize("named", ["site", "site/inventory.py", "../{cwd}/site"])
def test_a_site_anywhere(fake: Fake, monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    """Its folder or its inventory; the run is the project's all the same."""
    elsewhere = Path("elsewhere").absolute()
    (elsewhere / "site").mkdir(parents=True)
    (elsewhere / "site/inventory.py").touch()
    project = Path.cwd()
    monkeypatch.chdir(elsewhere)
    assert cli.main(["plan", "-i", named.format(cwd="elsewhere")]) == 0
    [target] = fake.targets
    assert (target.inventory, target.project) == (str(elsewhere / "site/inventory.py"), project)


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (["plan"], ["plan"]),
        (["apply"], ["plan", "verify"]),
        (["verify", "--gpu"], ["verify"]),
        (["status"], ["status"]),
        (["models", "status"], ["models"]),
        (["models", "prune"], ["plan"]),
        (["secrets", "audit"], ["audit"]),
        (["destroy"], ["plan"]),
    ],
    ids=" ".join,
)
def test_no_command_is_silent_meanwhile(
    fake: Fake,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    asked: list[str],
) -> None:
    def run(target: Target, *_: Any, watch: Callable[[str], None] = print) -> Outcome:
        watch("    [gpu1] Connected")
        return Outcome(0, [HOST], "")

    monkeypatch.setattr(progress, "SAID_EVERY_S", 0.0)
    monkeypatch.setattr(pyinfra_run, "plan", lambda target, only, watch: run(target, watch=watch))
    monkeypatch.setattr(pyinfra_run, "look", run)
    cli.main(words)
    said = [line for line in capsys.readouterr().err.splitlines() if "Connected" in line]
    assert said == [f"    {what}, 0 s: [gpu1] Connected" for what in asked]
    cli.main([*words, "--json"])
    assert capsys.readouterr().err == ""


# --- a command line that cannot be read -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "what", "hint"),
    [
        ([], "the following arguments are required: COMMAND", "see `gpuhost --help`"),
        (["pln"], "there is no command `pln`", "did you mean `plan`?"),
        (
            ["plan", "--parallel", "2"],
            "unrecognized arguments: --parallel 2",
            "see `gpuhost plan --help`; pyinfra's options follow `--`",
        ),
        (["plan", "--jsno", "-v"], "unrecognized arguments: --jsno", "did you mean `--json`?"),
        (["secrets", "sync", "--ys"], "unrecognized arguments: --ys", "did you mean `--yes`?"),
        (["apply", "-i"], "argument -i/--inventory: expected one argument", "see `gpuhost apply --help`"),
        (["rehearse", "--suite", "sid"], "--suite: there is no `sid`", "there is: bookworm, trixie"),
        (["secrets"], "the following arguments are required: COMMAND", "see `gpuhost secrets --help`"),
        (["secrets", "rotat", "X"], "there is no command `rotat`", "did you mean `rotate`?"),
        (["secrets", "show"], "the following arguments are required: NAME", "see `gpuhost secrets show --help`"),
        (["init"], "the following arguments are required: DIR", "see `gpuhost init --help`"),
    ],
)
def test_a_usage_error_is_no_exit_2(
    fake: Fake, capsys: pytest.CaptureFixture[str], words: list[str], what: str, hint: str
) -> None:
    assert cli.main(words) == 64
    assert capsys.readouterr().err.splitlines() == [f"error: {what}", f"hint: {hint}"]
    assert fake.asked == []


def test_a_usage_error_for_programs(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "--json", "--jsno"]) == 64
    said = capsys.readouterr()
    assert (json.loads(said.out)["error"]["what"], said.err) == ("unrecognized arguments: --jsno", "")


# --- pyinfra itself, on this machine ----------------------------------------------------------------------------------

DEPLOY = """
import grp, os, pwd
from pyinfra.context import host
from pyinfra.operations import files as builtin_files
from gpuhost.files import operations as files
from gpuhost.files.rules import plain
from gpuhost.plan.change import Change, Resource
from gpuhost.run.session import builtin, current

user, group = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name
folder = os.environ["FOLDER"]
current().report.add("host", host.name)
builtin(
    Change("layout", Resource("folder", folder), "create", "no such folder"),
    builtin_files.directory(name="layout | folder", path=folder, mode="755"),
)
wanted = [plain(f"{folder}/file", "right\\n", "640", user, group)]
files.files(name="layout | file", stage="layout", wanted=wanted, backups=f"{folder}/backups")
"""


def test_the_whole_circle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Plan, apply, converged, drift, repaired: with pyinfra's own program and the exit codes of each."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(arguments, "PROJECT", tmp_path)
    folder = tmp_path / "made"
    monkeypatch.setenv("FOLDER", str(folder))
    Path("deploy.py").write_text(DEPLOY)
    Path("inventory.py").write_text('hosts = ["@local"]\n')

    def gpuhost(*arguments: str) -> tuple[int, list[tuple[str, str, str]]]:
        code = cli.main([*arguments, "--json"])
        document = json.loads(capsys.readouterr().out)
        assert document["errors"] == []
        return code, [(each["action"], each["resource"]["name"], each["reason"]) for each in document["changes"]]

    both = [("create", str(folder), "no such folder"), ("create", f"{folder}/file", "it does not exist")]
    assert gpuhost("plan") == (2, both)
    assert not folder.exists()
    assert gpuhost("apply", "--yes") == (0, both)
    assert (folder / "file").read_text() == "right\n"
    (folder / "file").write_text("wrong\n")
    assert gpuhost("apply", "--yes") == (0, [("write", f"{folder}/file", "the content differs")])
    assert [path.read_text() for path in (folder / "backups").rglob("file")] == ["wrong\n"]
    assert gpuhost("plan") == (0, [])


def test_a_change_whose_turn_comes_too_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Planned twice, made once: the second time it is found done, and nothing is wrong."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(arguments, "PROJECT", tmp_path)
    monkeypatch.setenv("FOLDER", str(tmp_path / "made"))
    again = 'files.files(name="late | file", stage="late", wanted=wanted, backups=f"{folder}/backups")\n'
    Path("deploy.py").write_text(DEPLOY + again)
    Path("inventory.py").write_text('hosts = ["@local"]\n')
    assert cli.main(["plan"]) == 2
    assert "Plan: 3 to add, 0 to change, 0 to remove." in capsys.readouterr().out.splitlines()
    assert cli.main(["apply", "--yes"]) == 0
    note = f"[@local] already done when its turn came: late: create {tmp_path}/made/file"
    doing = f"[@local] doing: layout: create {tmp_path}/made/file: it does not exist"
    err = capsys.readouterr().err.splitlines()
    said = [line for line in err if not line.endswith(" s") and not line.startswith("    ")]  # on a busy machine
    assert said[:-1] == [doing, note] and said[-1].startswith("all that was printed meanwhile: ")
    assert cli.main(["plan"]) == 0


def test_an_option_that_pyinfra_does_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("inventory.py").write_text('hosts = ["@local"]\n')
    for command in ("plan", "verify"):
        assert cli.main([command, "--", "--paralel", "2"]) == 1
        error, hint = capsys.readouterr().err.splitlines()
        assert error.startswith("error: an option for pyinfra cannot be used: No such option") and "--paralel" in error
        assert hint == "hint: pyinfra's options follow `--`; its own help: `pyinfra --help`"


def test_a_command_that_runs_pyinfra_as_a_program_does_not_import_it() -> None:
    """It would take longer than all else that `gpuhost plan` does itself; what needs it is imported by who needs it."""
    imported = "import sys; from gpuhost.cli import apply, main, plan, status, verify;"
    code = f"{imported} print({{'pyinfra', 'pydantic'}} & {{*sys.modules}})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout == "set()\n"


def test_what_is_in_new_files_is_asked_for_by_v(fake: Fake) -> None:
    for words in (["plan"], ["plan", "-v"], ["apply", "-v", "--yes"], ["plan", "-v", "--no-diff"]):
        cli.main(words)
    told = [target.data for asked, target in zip(fake.asked, fake.targets, strict=True) if asked == "plan"]
    assert told == [{}, {"gpuhost_diffs": "all"}, {"gpuhost_diffs": "all"}, {}]


# --- Ctrl-C -----------------------------------------------------------------------------------------------------------


def test_an_apply_that_was_stopped_says_how_far_it_came(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake.plan = Outcome(0, CHANGES, "")
    fake.apply = Outcome(1, [HOST, change("performed")], "No hosts remaining!", stopped="finished")
    assert cli.main(["apply", "--yes"]) == 130
    said = capsys.readouterr()
    assert "[gpu1] 1 change made in 0 s." in said.out
    assert said.err.splitlines()[:2] == [
        "error: stopped from the keyboard; the step at hand was finished",
        "hint: run it again: it goes on from there",
    ]
    fake.apply = Outcome(-9, [HOST], "", stopped="left")
    assert cli.main(["apply", "--yes", "--json"]) == 130
    document = described("applied", capsys.readouterr().out)
    assert document["result"] == "stopped"
    assert [each["what"] for each in document["errors"]] == [
        "stopped from the keyboard; the step at hand was left to the host"
    ]


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["plan"], "nothing has been changed"),
        (["apply"], "run it again: it goes on where it stopped"),
        (["verify"], "nothing has been changed"),
        (["status"], "nothing has been changed"),
        (["logs", "orchestrator"], "nothing has been changed"),
    ],
)
def test_ctrl_c_is_a_sentence(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], hint: str
) -> None:
    def stopped(*_: Any, **__: Any) -> Outcome:
        raise KeyboardInterrupt

    Path("inventory.py").write_text('hosts = ["@local"]\n')
    for name in ("plan", "look"):
        monkeypatch.setattr(pyinfra_run, name, stopped)
    assert cli.main(words) == 130
    said = capsys.readouterr()
    assert said.out == "" and said.err.splitlines() == ["error: stopped from the keyboard", f"hint: {hint}"]


def test_ctrl_c_at_the_question_changes_nothing_and_says_so_once(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped() -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "stdin", Terminal(""))
    monkeypatch.setattr("builtins.input", stopped)
    fake.plan = Outcome(0, [HOST, change()], "")
    assert cli.main(["apply"]) == 130 and fake.asked == ["plan"]
    _, what, hint = capsys.readouterr().err.rsplit("\n", 1)[0].rsplit("\n", 2)
    assert (what, hint) == ("error: stopped from the keyboard", "hint: nothing has been changed")


def test_what_waits_under_pyinfra_says_nothing_of_ctrl_c() -> None:
    """gevent prints a KeyboardInterrupt before it raises it again."""
    stop = "import gevent, os, signal; import gpuhost.cli.site; signal.signal(2, signal.default_int_handler)"
    code = f"{stop}\ngevent.spawn_later(0.1, os.kill, os.getpid(), 2)\n"
    code += "try:\n    gevent.sleep(30)\nexcept KeyboardInterrupt:\n    print('stopped')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("stopped\n", "")


# --- Help -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [[], *([name] for name in cli.COMMANDS)]
    + [["models", name] for name in ("status", "verify", "prune", "import")]
    + [["secrets", name] for name in ("show", "audit", "sync", "rotate", "export", "import")],
    ids=lambda words: " ".join(words) or "gpuhost",
)
def test_help_ends_with_examples(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([*words, "--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0 and " ".join(["gpuhost", *words]) in shown.partition("examples:\n")[2]
    assert all(len(line) <= 80 for line in shown.splitlines())
