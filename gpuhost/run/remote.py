"""Commands on a host: how they run, and how their failure is explained."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from pyinfra.api.arguments import CONNECTOR_ARGUMENT_KEYS, pop_global_arguments
from pyinfra.api.command import StringCommand
from pyinfra.api.host import Host
from pyinfra.api.state import State
from pyinfra.connectors.util import CommandOutput, make_unix_command_for_host
from pyinfra.context import host, state

from gpuhost.errors import WORDS, Cause, Problem
from gpuhost.run.connection import lost
from gpuhost.run.session import Explain, report_problem
from hostside.wire import printable

_NO_PYTHON = re.compile(r"(^|: )/\S+/python: not found$")  # what sh says of a program's interpreter


class Script(StringCommand):
    """A shell script of an own operation, run with the operation's privileges.

    `explain` turns the output of a failure into its cause; without an answer the last line is the sentence.
    `stdin` is text that is visible nowhere. `live` shows the lines as they come.
    """

    def __init__(
        self, script: str, explain: Explain | None = None, stdin: str | None = None, live: bool = False
    ) -> None:
        arguments: dict[str, Any] = {} if stdin is None else {"_stdin": stdin}
        super().__init__(script, **arguments)
        self._explain = explain
        self._live = live

    def execute(self, state: State, host: Host, connector_arguments: Any) -> tuple[bool, CommandOutput]:
        """Run it; a failure is reported once, with its hint."""
        connector_arguments.update(self.connector_arguments)
        ok, output = host.run_shell_command(
            self, print_output=self._live or state.print_output, print_input=state.print_input, **connector_arguments
        )
        if not ok:
            report_problem(Problem(*(lost(host) or self._cause(output)), host=host.name), output.output)
        return ok, output

    def _cause(self, output: CommandOutput) -> Cause:
        text = output.output
        # stdout and stderr arrive in any order.
        last = last_line(output.stderr if output.stderr.strip() else text)
        return (self._explain and self._explain(text)) or program_message(text) or last


def program_message(text: str) -> Cause | None:
    """The `error: ...` and `hint: ...` lines with which our own programs end, when they are there."""
    errors = re.findall(r"^(?:\[\S+\] *)?error: (.+)$", text, re.MULTILINE)
    hints = re.findall(r"^(?:\[\S+\] *)?hint: (.+)$", text, re.MULTILINE)
    return Cause(errors[-1], hints[-1] if hints else WORDS) if errors else None


def unobserved(completed: Completed) -> Cause:
    """Why one of our programs that look said nothing."""
    what, hint = program_message(completed.output) or last_line(completed.output)
    absent = what.endswith("not found") or "No module named" in what
    if _NO_PYTHON.search(what):
        what = "gpuhost's programs are not on this host"
    return Cause(printable(what), "`gpuhost apply` installs the program that looks" if absent else printable(hint))


def last_line(text: str) -> Cause:
    """The last line that says something, as the cause."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return Cause(lines[-1] if lines else "the command failed without a word", WORDS)


def privileged(script: str) -> str:
    """What a shell on the current host is given, so that a script runs with its connection's privileges: for a channel
    of one's own. It may hold sudo's password, as every command of pyinfra's then does: it is shown nowhere."""
    arguments = {key: value for key, value in _connector_arguments().items() if key not in _NO_PRIVILEGE}
    return make_unix_command_for_host(state, host, StringCommand(script), **arguments).get_raw_value()


# Of pyinfra's arguments for a connection, those that are none of the command's own.
_NO_PRIVILEGE = {"_get_pty", "_stdin", "_success_exit_codes", "_timeout"}


def _connector_arguments() -> dict[str, Any]:
    arguments, _ = pop_global_arguments(state, host, {})
    return {key: value for key, value in arguments.items() if key in CONNECTOR_ARGUMENT_KEYS}


@dataclass(frozen=True)
class Completed:
    """What a command on the host gave."""

    ok: bool
    stdout: str
    output: str


def run(script: str, stdin: str | None = None, sudo: bool = True, live: bool = False) -> Completed:
    """Run a script on the current host with its connection's privileges (`sudo=False`: without them), at once.

    For readings that need an input which a fact would print, and for probes; never to change the host in a plan.
    """
    connector = _connector_arguments()
    if stdin is not None:
        connector["_stdin"] = stdin
    if not sudo:
        connector["_sudo"] = False
    ok, output = host.run_shell_command(StringCommand(script), print_output=live, print_input=False, **connector)
    return Completed(ok, output.stdout, output.output)
