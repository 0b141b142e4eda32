"""docs/reference/commands.md: every command, its options, examples and exit codes, from the parser that runs.

`python -m gpuhost.cli.reference` prints it (`make docs` keeps it).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from gpuhost.cli.arguments import Parser, run_options
from gpuhost.cli.main import whole_parser

_HEAD = """\
# Commands

`gpuhost` is in `.venv/bin` after any `make` target, and runs from any working directory (`. .venv/bin/activate`, or
`.venv/bin/gpuhost`). Errors are one sentence and a `hint:` on stderr; stdout is data. `--json` puts one document on
stdout ([json.md](json.md)).

`make docs` writes this page from the parser that runs; a test compares them. What single commands do, in whole
sentences: [operation.md](../operation.md), [models.md](../models.md), [secrets.md](../secrets.md).

Exit codes of all: 0 and 1 as each says below, 2 changes (`plan`) or something moved (`lock --check`), 64 a command line
that cannot be read, 130 stopped by Ctrl-C.
"""


def page() -> str:
    """The page."""
    sections = (line for name, command in _commands() for line in _section(name, command))
    return "\n".join([_HEAD, *_shared(), *sections, ""])


def _commands() -> Iterator[tuple[str, Parser]]:
    """Every command that can be typed -> its parser; a command with commands of its own is none."""
    waiting = [("gpuhost", whole_parser())]
    while waiting:
        name, parser = waiting.pop(0)
        below = [(f"{name} {word}", each) for word, each in _below(parser)]
        waiting = [*below, *waiting]
        if not below:
            yield name, parser


def _below(parser: Parser) -> Iterator[tuple[str, Parser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()


def _shared() -> list[str]:
    lines = ["## Options of commands that look at hosts", "", *_TABLE]
    lines += [_row(action) for action in _shared_actions()]
    return [*lines, "", "What follows `--` are options for pyinfra: `-- --parallel 2`.", "", *_SUDO]


_TABLE = ["| option | what it means |", "| --- | --- |"]
_SUDO = [
    "`--use-sudo-password` belongs to the commands that contact hosts. pyinfra names the password in the host's",
    "process list for an instant at each command: where others log in too, allow NOPASSWD instead.",
]


def _shared_actions() -> list[argparse.Action]:
    parser = Parser(add_help=False)
    run_options(parser)
    return parser._actions


def _section(name: str, command: Parser) -> list[str]:
    positionals = [action for action in command._actions if not action.option_strings]
    of_all = {tuple(action.option_strings) for action in _shared_actions()}
    options = [action for action in command._actions if action.option_strings and action.dest != "help"]
    own = [action for action in options if tuple(action.option_strings) not in of_all]
    codes = ", ".join(f"{code} {text}" for code, text in command.exit_codes.items())
    text = " ".join((command.description or "").split())
    about = f"{text[0].upper()}{text[1:]}."
    return [
        "",
        f"## {name}",
        "",
        about,
        *(["", *_TABLE, *map(_row, [*positionals, *own])] if positionals or own else []),
        *(["", _also(options)] if len(own) < len(options) else []),
        "",
        f"Exit codes: {codes}.",
        "",
        "```sh",
        *command.examples,
        "```",
    ]


def _also(options: list[argparse.Action]) -> str:
    """Which of the options above it has."""
    contacts = any(action.dest == "use_sudo_password" for action in options)
    return f"Also `--inventory`, `--limit`{' and `--use-sudo-password`' if contacts else ''}: see above."


def _row(action: argparse.Action) -> str:
    value = f" {action.metavar or '{' + ','.join(map(str, action.choices or ())) + '}'}" if action.nargs != 0 else ""
    words = ", ".join(f"`{word}{value if word.startswith('--') else ''}`" for word in action.option_strings)
    named = {"?": f"`[{action.metavar}]`", "*": f"`[{action.metavar} ...]`"}
    words = words or named.get(str(action.nargs), f"`{action.metavar}`")
    return f"| {words} | {action.help} |"


if __name__ == "__main__":
    print(page(), end="")
