"""What a plan asks ahead, in one round trip, with a real shell on this machine; and what is asked when it is needed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyinfra.api.command import StringCommand
from pyinfra.api.config import Config
from pyinfra.api.connect import connect_all
from pyinfra.api.facts import FactBase
from pyinfra.api.host import Host
from pyinfra.api.inventory import Inventory
from pyinfra.api.state import State, StateStage
from pyinfra.connectors.util import CommandOutput
from pyinfra.context import ctx_host, ctx_state

from gpuhost.run import ahead
from gpuhost.run.ahead import Question, sections, together
from gpuhost.run.remote import Completed
from gpuhost.run.remote import run as run_now


class Lines(FactBase[list[str]]):
    """What a file holds."""

    def command(self, path: str) -> str:
        return f"cat {path}; echo {path} >&2"

    @staticmethod
    def default() -> list[str]:
        return []

    def process(self, output: list[str]) -> list[str]:
        return output


class Planning:
    """A plan of this machine, and every command that went to it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, plan: bool = True) -> None:
        self.sent: list[str] = []
        self.state = State(Inventory((["@local"], {})), Config(), check_for_changes=plan)
        really = ahead._ask_the_host

        def sends(host: Host, command: StringCommand, **arguments: Any) -> tuple[bool, CommandOutput]:
            self.sent.append(str(command))
            return really(host, command, **arguments)

        monkeypatch.setattr(ahead, "_ask_the_host", sends)
        monkeypatch.setattr(Host, "run_shell_command", ahead._asked)
        with ctx_state.use(self.state):
            connect_all(self.state)
            self.state.set_stage(StateStage.Prepare)
        self.host = self.state.inventory.get_host("@local")


@pytest.fixture
def planning(monkeypatch: pytest.MonkeyPatch) -> Iterator[Planning]:
    made = Planning(monkeypatch)
    with ctx_state.use(made.state), ctx_host.use(made.host):
        yield made


def written(folder: Path, **files: str) -> list[str]:
    for name, text in files.items():
        (folder / name).write_text(text)
    return [str(folder / name) for name in files]


def test_what_is_asked_ahead_is_one_command_and_its_answers_are_those_of_each(
    planning: Planning, tmp_path: Path
) -> None:
    paths = written(tmp_path, one="a\n", none="", two="a\n\nb", blank="\n")
    together(*(lambda path=path: planning.host.get_fact(Lines, path=path) for path in paths))
    assert planning.sent == ["exec sh"]
    found = [planning.host.get_fact(Lines, path=path) for path in paths]
    assert found == [["a"], [], ["a", "", "b"], [""]] and planning.sent == ["exec sh"]


def test_a_command_of_ours_gets_its_input_and_its_exit_code(planning: Planning) -> None:
    asked: list[Callable[[], Completed]] = [
        lambda: run_now("IFS= read -r key; echo \"it is '$key'\"", stdin="it's $HOME\n"),
        lambda: run_now('read -r nothing; echo "$?" >&2; exit 3'),
        lambda: run_now("exit 0 #"),
    ]
    together(*asked)
    said = [ask() for ask in asked]
    assert planning.sent == ["exec sh"]
    assert [(each.ok, each.stdout, each.output) for each in said] == [
        (True, "it is 'it's $HOME'", "it is 'it's $HOME'"),
        (False, "", "1"),
        (True, "", ""),
    ]


def test_the_same_question_is_asked_once_and_another_input_is_another_one(planning: Planning) -> None:
    together(lambda: run_now("cat", stdin="a\n"), lambda: run_now("cat", stdin="a\n"))
    assert run_now("cat", stdin="a\n").stdout == "a" and planning.sent == ["exec sh"]
    assert run_now("cat", stdin="b\n").stdout == "b" and planning.sent == ["exec sh", "cat"]


def test_a_second_round_asks_only_what_is_new(planning: Planning, tmp_path: Path) -> None:
    [path] = written(tmp_path, one="a\n")
    together(lambda: planning.host.get_fact(Lines, path=path))
    together(lambda: planning.host.get_fact(Lines, path=path))
    assert planning.sent == ["exec sh"]


def test_what_nobody_named_is_asked_when_it_is_needed(planning: Planning, tmp_path: Path) -> None:
    [path] = written(tmp_path, one="a\n")
    assert planning.host.get_fact(Lines, path=path) == ["a"] and planning.sent == [f"cat {path}; echo {path} >&2"]


def test_a_run_that_acts_asks_each_time(planning: Planning, tmp_path: Path) -> None:
    [path] = written(tmp_path, one="a\n")
    together(lambda: planning.host.get_fact(Lines, path=path))
    planning.state.set_stage(StateStage.Execute)
    written(tmp_path, one="b\n")
    assert planning.host.get_fact(Lines, path=path) == ["b"]


def test_a_run_without_a_plan_asks_nothing_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Planning(monkeypatch, plan=False)
    with ctx_state.use(made.state), ctx_host.use(made.host):
        together(lambda: run_now("true"))
    assert made.sent == []


@pytest.mark.parametrize("lines", range(12))
def test_what_did_not_come_back_whole_is_asked_again(
    planning: Planning, monkeypatch: pytest.MonkeyPatch, lines: int
) -> None:
    """The connection breaks after so many lines: an answer has three, its marks with them, and an empty one."""
    whole = ahead._ask_the_host

    def breaks(host: Host, command: StringCommand, **arguments: Any) -> tuple[bool, CommandOutput]:
        _, output = whole(host, command, **arguments)
        return False, CommandOutput(output.combined_lines[:lines])

    monkeypatch.setattr(ahead, "_ask_the_host", breaks)
    together(lambda: run_now("echo a"), lambda: run_now("echo b; echo c >&2"))
    monkeypatch.setattr(ahead, "_ask_the_host", whole)
    assert run_now("echo a").stdout == "a" and run_now("echo b; echo c >&2").stdout == "b"
    asked_again = ["echo a", "echo b; echo c >&2"][min(lines // 5, 2) :]
    assert planning.sent == ["exec sh", *asked_again]


def test_they_are_asked_beside_each_other(planning: Planning, tmp_path: Path) -> None:
    """Each waits for the other."""
    one, two = tmp_path / "one", tmp_path / "two"
    os.mkfifo(one)
    os.mkfifo(two)
    asked = [partial(run_now, f"echo 1 > {one}; cat {two}"), partial(run_now, f"cat {one}; echo 2 > {two}")]
    together(*asked)
    assert [ask().stdout for ask in asked] == ["2", "1"] and planning.sent == ["exec sh"]


def test_much_of_one_does_not_hold_up_the_others(planning: Planning) -> None:
    """More than a pipe holds, of each."""
    asked = [partial(run_now, f"yes {letter} | head -n 100000") for letter in "abc"]
    together(*asked)
    assert [len(ask().stdout) for ask in asked] == [199_999] * 3 and planning.sent == ["exec sh"]


def test_over_a_terminal_each_is_asked_alone(planning: Planning) -> None:
    """It would show the script among the answers."""
    planning.host.data._get_pty = True
    together(lambda: run_now("echo a"))
    assert planning.sent == []


def test_no_answer_is_a_sentence_of_who_needs_it(planning: Planning, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(host: Host, command: StringCommand, **arguments: Any) -> tuple[bool, CommandOutput]:
        raise OSError("gone")

    kept = ahead._ask_the_host
    monkeypatch.setattr(ahead, "_ask_the_host", breaks)
    together(lambda: run_now("echo a"))
    monkeypatch.setattr(ahead, "_ask_the_host", kept)
    assert run_now("echo a").stdout == "a"


def test_what_is_shown_of_an_answer_is_what_would_have_been_shown(
    planning: Planning, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [path] = written(tmp_path, one="the text\n")
    shown: list[str] = []
    monkeypatch.setattr(ahead, "echo", lambda line, err: shown.append(line))
    together(lambda: planning.host.get_fact(Lines, path=path))
    planning.host.get_fact(Lines, path=path)
    assert shown == []
    planning.state.print_fact_input = planning.state.print_fact_output = True
    planning.host.get_fact(Lines, path=path)
    assert shown[0].endswith(f">>> cat {path}; echo {path} >&2") and shown[1].endswith("] the text")


TEXT = st.text(
    st.characters(exclude_characters="\0\r\n\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029", codec="utf-8"), max_size=6
)


@given(st.lists(st.tuples(st.lists(TEXT), st.booleans(), st.integers(0, 255)), max_size=4))
@settings(deadline=None)
def test_the_lines_of_each_are_told_apart(answers: list[tuple[list[str], bool, int]]) -> None:
    said = "".join(
        "\n".join(lines) + ("\n" if ended and lines else "") + f"\nMARK {code}\n" for lines, ended, code in answers
    )
    whole = [(lines if ended or not lines or lines[-1] else lines[:-1], code) for lines, ended, code in answers]
    assert list(sections(said.split("\n")[:-1], "MARK")) == whole


def test_no_input_is_an_argument_of_a_program() -> None:
    script = ahead.script([Question("cat >/dev/null", "hunter2", "")], "m")
    seen = subprocess.run(["sh", "-x"], input=script, capture_output=True, text=True, check=True).stderr
    begun = {line.lstrip("+ ").split()[0] for line in seen.splitlines() if "hunter2" in line}
    assert begun == {"answer", "printf"}  # the shell's own: no process is begun with it
