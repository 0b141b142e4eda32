"""The command line: one module a command. Thin: the commands run the same deploy.py and read its report.

Exit codes: 0 nothing to do, done, proved; 1 error; 2 (plan) changes; 64 a command line that cannot be read; 130 stopped
from the keyboard. stdout is data, stderr is talk.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpuhost.cli.arguments import Parser

# A module each.
COMMANDS: tuple[str, ...] = (
    *("init", "config", "check", "trust", "lock", "plan", "apply", "verify", "status", "logs", "open"),
    *("models", "secrets", "destroy", "completion", "rehearse"),
)

# Those that change something on a host; the others write nothing there.
_ACT = ("apply", "destroy", "models", "secrets", "rehearse")
_AGAIN = "run it again: it goes on where it stopped"


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `gpuhost`; returns the exit code."""
    # What is imported here takes a moment, in which somebody may press Ctrl-C already.
    try:
        from gpuhost.cli.arguments import UsageError
        from gpuhost.cli.console import ERROR, STOPPED, USAGE, Unanswered, print_error_document, print_problems
        from gpuhost.errors import Problem, UserError

        try:
            words = list(sys.argv[1:] if arguments is None else arguments)
            return _run(words)
        except BrokenPipeError:  # the reader of our stdout has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return ERROR
        except UserError as error:
            as_json = "--json" in (words[: words.index("--")] if "--" in words else words)
            show = print_error_document if as_json else print_problems
            show(*error.problems)
            return USAGE if isinstance(error, UsageError) else ERROR
        except KeyboardInterrupt as stopped:
            acts = words[:1] and words[0] in _ACT and not isinstance(stopped, Unanswered)
            print_problems(Problem("stopped from the keyboard", _AGAIN if acts else "nothing has been changed"))
            return STOPPED
    except KeyboardInterrupt:  # before anything was begun
        return 130


def _run(words: Sequence[str]) -> int:
    if "_ARGCOMPLETE" in os.environ:
        _complete()
    end = words.index("--") if "--" in words else len(words)
    options = _parser(words[0] if words else "").parse_args(words[:end])
    options.pyinfra = words[end + 1 :]
    code: int = options.run(options)
    sys.stdout.flush()
    return code


def _complete() -> None:
    """Tell the shell what comes next in its line, and exit. Of a command that is not typed to its end the name is all
    that is asked for: then none is imported."""
    import argcomplete

    line = os.environ.get("COMP_LINE", "").split()
    asked = line[1] if len(line) > 1 and line[1] in COMMANDS else ""
    parser = _parser(asked) if asked else _names_alone()
    argcomplete.autocomplete(parser)


def _names_alone() -> Parser:
    from gpuhost.cli.arguments import Parser

    parser = Parser(prog="gpuhost")
    parser.add_argument("--version", action="store_true")
    commands = parser.add_subparsers(metavar="COMMAND")
    for name in COMMANDS:
        commands.add_parser(name)
    return parser


def whole_parser() -> Parser:
    """Of every command."""
    return _parser("")


def _parser(asked: str) -> Parser:
    """Of the one command that is asked for, else of all: some take a second to import."""
    from gpuhost.cli.arguments import Parser, Version, add_examples

    parser = Parser(prog="gpuhost", description="From a bare host to answering services.")
    examples = ("gpuhost init ~/lab", "gpuhost plan -i ~/lab", "gpuhost apply -i ~/lab", "gpuhost plan --help")
    add_examples(parser, *examples, ok="", error="")
    parser.add_argument("--version", action=Version)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in [asked] if asked in COMMANDS else COMMANDS:
        import_module(f"gpuhost.cli.{name}").add_to(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
