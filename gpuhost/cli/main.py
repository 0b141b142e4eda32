"""The command line: plan, apply, verify, secrets, rehearse. Thin: it runs the same deploy.py and reads the report.

Exit codes of plan: 0 nothing to do, 2 changes, 1 error. Of the others: 0 done and proved, 1 error. stdout is data,
stderr is talk.
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from gpuhost.cli import secrets as secrets_cli
from gpuhost.cli.apply import apply
from gpuhost.cli.console import ERROR, counted, document, exit_code, finish, list_changes, refuse, tell
from gpuhost.errors import Problem, UserError
from gpuhost.run import pyinfra as pyinfra_run
from gpuhost.run.pyinfra import Target


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `gpuhost`; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    end = words.index("--") if "--" in words else len(words)
    options = _parser().parse_args(words[:end])
    options.pyinfra = words[end + 1 :]
    if options.command == "rehearse":
        return _rehearse(options)
    for needed in ("deploy.py", options.inventory):
        if not Path(needed).exists():
            where = "run gpuhost from the project's root" if needed == "deploy.py" else "name one with --inventory"
            return refuse(Problem(f"there is no `{needed}` here", where))
    commands = {"plan": _plan, "apply": _apply, "verify": _verify, "secrets": secrets_cli.run}
    try:
        password = _ask_password() if options.use_sudo_password else None
        code = commands[options.command](Target(options.inventory, options.pyinfra, password), options)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our stdout has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ERROR
    except getpass.GetPassWarning:
        what = "nobody can be asked for sudo's password: there is no terminal"
        return refuse(Problem(what, "run it in a terminal, or allow NOPASSWD for the login user"))
    except UserError as error:
        return refuse(*error.problems)
    except KeyboardInterrupt:
        return refuse(Problem("stopped from the keyboard", "run it again: it goes on where it stopped"))
    return code


def common(command: argparse.ArgumentParser) -> None:
    """The options of every command that looks at hosts."""
    command.add_argument("-i", "--inventory", default="inventory.py", help="pyinfra inventory (inventory.py)")
    command.add_argument("--use-sudo-password", action="store_true", help="ask for sudo's password, once")
    command.epilog = "What follows `--` are options for pyinfra: -- --limit gpu1"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gpuhost", description="From a bare host to answering services.")
    commands = parser.add_subparsers(dest="command", required=True)
    about = {
        "plan": "what an apply would change, and why; changes nothing (exit 0: nothing, 2: changes, 1: error)",
        "apply": "plan, ask, then do exactly that and prove that the services answer",
        "verify": "ask every service through its published port",
    }
    for name, text in about.items():
        command = commands.add_parser(name, help=text, description=text)
        common(command)
        command.add_argument("--json", action="store_true", help="the result as JSON on stdout")
        if name == "apply":
            command.add_argument("-y", "--yes", action="store_true", help="do not ask")
    secrets_cli.add_to(commands, common)
    rehearse = commands.add_parser("rehearse", help="the whole path on a fresh host made on this machine (root)")
    rehearse.add_argument("--suite", choices=("trixie", "bookworm"), default="trixie", help="Debian 13 or 12")
    rehearse.add_argument("--keep", action="store_true", help="keep the host and print how to log in")
    return parser


def _plan(target: Target, options: argparse.Namespace) -> int:
    outcome = pyinfra_run.plan(target)
    changes = outcome.changes("plan")
    code = exit_code(outcome, changes)
    if options.json:
        print(json.dumps(document(outcome, "plan", code), indent=2))
        return code
    tell(outcome)
    if code != ERROR:
        list_changes(changes)
        print(f"{counted(len(changes))} to make." if changes else "Nothing to do.")
    return code


def _apply(target: Target, options: argparse.Namespace) -> int:
    applied = apply(target, options.yes, options.json)
    return ERROR if applied is None else finish(applied.outcome, options.json, "apply", applied.more)


def _verify(target: Target, options: argparse.Namespace) -> int:
    return finish(pyinfra_run.look(target, "verify"), options.json, "verify")


def _ask_password() -> str:
    """Sudo's password, from a terminal only: elsewhere it would be shown. Raises GetPassWarning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", getpass.GetPassWarning)
        return getpass.getpass("sudo password: ")


def _rehearse(options: argparse.Namespace) -> int:
    if not Path("tests/rehearsal").is_dir():
        return refuse(Problem("there is no rehearsal here", "run gpuhost from a checkout of the project"))
    command = [sys.executable, "-m", "tests.rehearsal", "--suite", options.suite]
    return subprocess.run([*command, *(["--keep"] if options.keep else [])], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
