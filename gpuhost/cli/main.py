"""The command line: one module a command. Thin: the commands run the same deploy.py and read its report.

Exit codes: 0 nothing to do, done, proved; 1 error; 2 (plan) changes; 64 a command line that cannot be read. stdout is
data, stderr is talk.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version

from gpuhost.cli.arguments import Parser
from gpuhost.cli.console import ERROR, print_problems
from gpuhost.errors import Problem, UserError

# A module each.
COMMANDS = (
    "init",
    "config",
    "check",
    "trust",
    "lock",
    "plan",
    "apply",
    "verify",
    "status",
    "logs",
    "open",
    "models",
    "secrets",
    "rehearse",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `gpuhost`; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    end = words.index("--") if "--" in words else len(words)
    options = _parser(words[0] if words else "").parse_args(words[:end])
    options.pyinfra = words[end + 1 :]
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our stdout has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ERROR
    except UserError as error:
        return print_problems(*error.problems)
    except KeyboardInterrupt:
        return print_problems(Problem("stopped from the keyboard", "run it again: it goes on where it stopped"))
    return code


def _parser(asked: str) -> Parser:
    """Of the one command that is asked for, else of all: some take a second to import."""
    parser = Parser(prog="gpuhost", description="From a bare host to answering services.")
    parser.add_argument("--version", action="version", version=f"gpuhost {version('gpuhost')}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in [asked] if asked in COMMANDS else COMMANDS:
        import_module(f"gpuhost.cli.{name}").add_to(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
