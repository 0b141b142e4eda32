"""What a plan asks of a host, asked in one round trip.

A plan changes nothing, so what a host answers is the same whenever it is asked. Each stage names what it will ask
(`asks`, in run/stage.py); all of that travels as one script, whose parts run beside each other, and whoever asks later,
a fact, an operation of pyinfra's or a command of ours, finds the answer here. What nobody named, or what did not come
back whole, is asked when it is needed. A run that acts asks the host itself, each time.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any
from weakref import WeakKeyDictionary

from paramiko import SSHException
from pyinfra.api.command import StringCommand
from pyinfra.api.host import Host
from pyinfra.api.output import echo
from pyinfra.api.state import StateStage
from pyinfra.connectors.util import CommandOutput, OutputLine
from pyinfra.context import ctx_host, state

Answer = tuple[bool, CommandOutput]


@dataclass(frozen=True)
class Question:
    """A command as it is run on a host. `arguments`: of its connection, as text: sudo, a shell, ..."""

    command: str
    stdin: str
    arguments: str

    @classmethod
    def of(cls, command: object, arguments: Mapping[str, Any]) -> Question:
        """As pyinfra is given it."""
        given = {name: value for name, value in arguments.items() if name != "_stdin" and value}
        return cls(str(command), arguments.get("_stdin") or "", repr(sorted(given.items())))


@dataclass
class _Known:
    """Of one host. `heard`: what is asked while somebody listens, None while nobody does."""

    answers: dict[Question, Answer] = field(default_factory=dict)
    heard: dict[Question, Mapping[str, Any]] | None = None


_known: WeakKeyDictionary[Host, _Known] = WeakKeyDictionary()
_ask_the_host = Host.run_shell_command


def take_part() -> None:
    """From now on what a plan knows already is asked of no host, in this process."""
    Host.run_shell_command = _asked  # type: ignore[assignment, method-assign]


def together(*asks: Callable[[], object]) -> None:
    """Ask the current host in one round trip what these ask; in a plan alone. What they make of it is of no account:
    all that they hear is that nothing is there."""
    if state.current_stage != StateStage.Prepare or not state.should_check_for_changes():
        return
    known = _known.setdefault(ctx_host.get(), _Known())
    known.heard = {}
    try:
        for ask in asks:
            ask()
    finally:
        heard, known.heard = known.heard, None
    new = {question: arguments for question, arguments in heard.items() if question not in known.answers}
    by_arguments: dict[str, list[Question]] = {}
    for question in new:
        by_arguments.setdefault(question.arguments, []).append(question)
    for questions in by_arguments.values():
        known.answers |= _answers(questions, new[questions[0]])


def _asked(
    target: Host, command: StringCommand, print_output: bool = False, print_input: bool = False, **arguments: Any
) -> Answer:
    """In the place of pyinfra's method."""
    known = _known.get(target)
    if known is None or target.state.current_stage != StateStage.Prepare:
        return _ask_the_host(target, command, print_output=print_output, print_input=print_input, **arguments)
    question = Question.of(command, arguments)
    if known.heard is not None:
        known.heard[question] = arguments
        return True, CommandOutput([])
    if question not in known.answers:
        return _ask_the_host(target, command, print_output=print_output, print_input=print_input, **arguments)
    succeeded, output = known.answers[question]
    if print_input:
        echo(f"{target.print_prefix}>>> {command}", err=True)
    if print_output:
        for line in output:
            echo(f"{target.print_prefix}{line.line}", err=True)
    return succeeded, output


# -- one script for all ------------------------------------------------------------------------------------------------


def _answers(questions: list[Question], arguments: Mapping[str, Any]) -> dict[Question, Answer]:
    """What the current host says to each; without those that it does not come to."""
    if arguments.get("_get_pty"):  # a terminal would show the script among the answers
        return {}
    mark = token_hex(16)  # which nothing on the host can know
    given = {**arguments, "_stdin": script(questions, mark)}
    try:
        _, output = _ask_the_host(ctx_host.get(), StringCommand("exec sh"), **given)
    except (TimeoutError, OSError, EOFError, SSHException):  # who asks next says so
        return {}
    said = sections((each.line for each in output if each.buffer_name == "stdout"), mark)
    return {
        question: (code == 0, CommandOutput([*_as_lines("stdout", out), *_as_lines("stderr", err)]))
        for question, (out, code), (err, _) in zip(questions, said, said, strict=False)
    }


# A command, its input, whether it has any: what it prints as it comes, its exit code, what it printed as errors.
_ANSWER = r"""
answer() {
  { error="$({ if [ "$3" ]; then printf %s "$2" | sh -c "$1"; else sh -c "$1" </dev/null; fi; } 2>&1 >&3 3>&-)"; } 3>&1
  printf '\n@MARK@ %s\n%s\n@MARK@ 0\n' $? "$error"
}
"""


def script(questions: Sequence[Question], mark: str) -> str:
    """What a shell reads from its stdin: all commands at once, each in a shell of its own, their answers in this order.
    `printf` is the shell's: no input of a command is an argument of a program. Pure."""
    answers = [f"answer {shlex.quote(each.command)} {_told(each.stdin)}" for each in questions]
    together = answers[-1]
    for answer in reversed(answers[:-1]):  # what the others say waits in their pipe
        together = f"{{ {together}\n}} | {{ {answer}\ncat; }}"
    return f"{_ANSWER.replace('@MARK@', mark)}{together}\n"


def _told(stdin: str) -> str:
    told = stdin if not stdin or stdin.endswith("\n") else f"{stdin}\n"  # as pyinfra does
    return f"{shlex.quote(told)} {'told' if told else ''}"


def sections(lines: Iterable[str], mark: str) -> Iterator[tuple[list[str], int]]:
    """The lines of each answer, and its exit code. Pure."""
    found: list[str] = []
    for line in lines:
        if line.startswith(mark):
            # The mark begins a line of its own: what ended its last line leaves an empty one, and so does silence.
            yield found[:-1] if found and not found[-1] else found, int(line.removeprefix(mark))
            found = []
        else:
            found.append(line)


def _as_lines(stream: str, lines: Iterable[str]) -> list[OutputLine]:
    return [OutputLine(stream, line) for line in lines]
