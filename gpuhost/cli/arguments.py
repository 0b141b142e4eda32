"""The command line's own parts: its parser, the options of every command that looks at hosts, what they name."""

from __future__ import annotations

import argparse
import getpass
import re
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn, TypeAlias

from gpuhost.cli.complete import completed_by, hosts
from gpuhost.cli.console import CHANGES, ERROR, OK
from gpuhost.errors import Problem, UserError, nearest, suggest
from gpuhost.project import PROJECT
from gpuhost.run.data import DIFFS_DATA, INVENTORY, STAGES
from gpuhost.run.pyinfra import Target


class UsageError(UserError):
    """A command line that cannot be read."""


class Parser(argparse.ArgumentParser):
    """Its usage errors are a sentence and a hint. `examples` of its use; `exit_codes`: what each of its own means."""

    examples: Sequence[str] = ()
    exit_codes: Mapping[int, str] = MappingProxyType({})

    def error(self, message: str) -> NoReturn:
        """Raises UsageError."""
        choice = re.search(r"argument (\S+): invalid choice: '(.*?)' \(choose from (.*)\)", message)
        hint = f"see `{self.prog} --help`"
        if choice:
            name, word = choice[1], choice[2]
            message = f"there is no {name.lower()} `{word}`" if name.isupper() else f"{name}: there is no `{word}`"
            hint = suggest(choice[2], [name.strip("' ") for name in choice[3].split(",")], "command")
        raise UsageError(Problem(message, hint))

    def parse_known_args(self, *arguments: Any, **named: Any) -> tuple[Any, list[str]]:
        """As argparse's, but a command says itself what it does not know: it knows what is near."""
        found, unknown = super().parse_known_args(*arguments, **named)
        if unknown and self._subparsers is None:
            near = nearest(unknown[0], [*self._option_string_actions])
            hint = f"did you mean `{near}`?" if near else f"see `{self.prog} --help`; pyinfra's options follow `--`"
            raise UsageError(Problem(f"unrecognized arguments: {' '.join(unknown)}", hint))
        return found, unknown


class Version(argparse.Action):
    """argparse's action of that name, which finds out the version only when it is asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help="show program's version number and exit")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        """Prints it and exits."""
        from importlib.metadata import version

        print(f"{parser.prog} {version('gpuhost')}")
        parser.exit()


Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


def host_options(command: argparse.ArgumentParser) -> None:
    """The options of every command that looks at hosts or at what they should be."""
    command.add_argument(
        "-i",
        "--inventory",
        default=INVENTORY,
        metavar="PATH",
        help="a pyinfra inventory, or the folder of a site that holds one (./inventory.py)",
    )
    limit = command.add_argument(
        "-l", "--limit", action="append", default=[], metavar="HOST", help="only this host or group; may be repeated"
    )
    completed_by(limit, hosts)
    command.epilog = "What follows `--` are options for pyinfra: -- --parallel 2"


def run_options(command: argparse.ArgumentParser) -> None:
    """The options of every command that contacts hosts."""
    host_options(command)
    command.add_argument("--use-sudo-password", action="store_true", help="ask for sudo's password, once")


def shown_options(command: argparse.ArgumentParser) -> None:
    """What is planned, and how it is shown: `only`, `verbose` and `diff` of the options; `everything`: of a plan that
    was kept, else None."""
    command.set_defaults(everything=None)
    command.add_argument("-v", "--verbose", action="store_true", help="list every file and folder, and what is in them")
    about = f"only this stage; may be repeated ({', '.join(STAGES)})"
    command.add_argument("--only", action="append", default=[], choices=STAGES, metavar="STAGE", help=about)
    command.add_argument("--no-diff", dest="diff", action="store_false", help="do not show what changes in each")


def add_examples(command: Parser, *examples: str, ok: str = "done", changes: str = "", error: str = "error") -> None:
    """What its help ends with. After the options: they have a word to say there, too. `ok`, `changes`, `error`: what
    these exit codes mean of it, "" for one that it has not."""
    command.examples = examples
    command.exit_codes = {code: text for code, text in ((OK, ok), (CHANGES, changes), (ERROR, error)) if text}
    codes = ", ".join(f"{code} {text}" for code, text in command.exit_codes.items())
    parts = ["\n".join(["examples:", *(f"  {example}" for example in examples)])]
    parts += [*([f"exit codes: {codes}"] if codes else []), *([command.epilog] if command.epilog else [])]
    command.formatter_class = argparse.RawDescriptionHelpFormatter  # it leaves the description as it is, too
    command.description = textwrap.fill(command.description or "", 79)
    command.epilog = "\n\n".join(parts)


def shows_everything(options: argparse.Namespace) -> bool:
    """Whether a plan is asked for what is in new files and whole labels, too: with `-v`, or as a plan that was kept was
    (`everything`): only so the two can be compared."""
    asked = options.verbose and options.diff
    return bool(asked if options.everything is None else options.everything)


def planned_target(options: argparse.Namespace) -> Target:
    """What the command line names, for a command that shows a plan. Raises UserError."""
    return target(options, {DIFFS_DATA: "all"} if shows_everything(options) else None)


def target(options: argparse.Namespace, data: Mapping[str, str] | None = None) -> Target:
    """What the command line names; `data`: for a stage that is asked for. Raises UserError."""
    if not (PROJECT / "deploy.py").is_file():
        hint = "install it from a checkout: `make venv` there"
        raise UserError(Problem(f"gpuhost does not run from its project: there is no deploy.py in {PROJECT}", hint))
    inventory = inventory_file(options.inventory)
    password = _ask_password() if getattr(options, "use_sudo_password", False) else None
    return Target(str(inventory), [*limits(options), *options.pyinfra], password, PROJECT, data or {})


def limits(options: argparse.Namespace) -> list[str]:
    """The hosts of `--limit`, as pyinfra reads them."""
    return [word for name in options.limit for word in ("--limit", name)]


def inventory_file(named: str) -> Path:
    """The inventory that a file or a site's folder names, in full. Raises UserError."""
    path = Path(named)
    if path.is_dir():
        path = path / INVENTORY
        if not path.is_file():
            raise UserError(Problem(f"there is no inventory.py in {named}", f"`gpuhost init {named}` makes one"))
    if not path.is_file():
        hint = "name an inventory or a site's folder with --inventory; `gpuhost init DIR` makes a site"
        raise UserError(Problem(f"there is no inventory `{named}` here", hint))
    # The folder of a link is the one in which it lies, as for pyinfra.
    return path.parent.resolve() / path.name


def _ask_password() -> str:
    """Sudo's password, from a terminal only: elsewhere it would be shown. Raises UserError."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", getpass.GetPassWarning)
        try:
            return getpass.getpass("sudo password: ")
        except getpass.GetPassWarning:
            what = "nobody can be asked for sudo's password: there is no terminal"
            raise UserError(Problem(what, "run it in a terminal, or allow NOPASSWD for the login user")) from None
