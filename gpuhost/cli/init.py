"""`gpuhost init`: a folder for a site's own inventory, data and secrets."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gpuhost.cli.arguments import Commands, add_examples
from gpuhost.cli.console import OK
from gpuhost.errors import Problem, UserError
from gpuhost.project import PROJECT

# file of the site -> the project's file that it is a copy of
FILES = {
    "inventory.py": "files/site/inventory.py",
    "group_data/all.py": "files/site/group_data/all.py",
    ".gitignore": "files/site/.gitignore",
    ".env.example": ".env.example",
}


def add_to(commands: Commands) -> None:
    """Add the command to the command line."""
    about = "make a folder for a site: inventory, group_data, and a .gitignore that keeps its secrets out of git"
    command = commands.add_parser("init", help=about, description=about)
    command.add_argument("folder", metavar="DIR", type=Path, help="a new folder, or one without these files")
    add_examples(command, "gpuhost init ~/lab", ok="made")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write the files and name them; the exit code. Raises UserError, and then nothing is written."""
    folder: Path = options.folder
    present = [name for name in FILES if (folder / name).exists() or (folder / name).is_symlink()]
    if present:
        what = f"{folder} has {', '.join(present)} already"
        raise UserError(Problem(what, "name another folder: nothing is overwritten"))
    contents = {name: (PROJECT / source).read_text() for name, source in FILES.items()}
    try:
        for name, content in contents.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with (folder / name).open("x") as file:
                file.write(content)
            print(folder / name)
    except OSError as error:
        hint = "name a folder in which you may write"
        raise UserError(Problem(f"{error.filename} cannot be written: {error.strerror}", hint)) from None
    print(f"next: its hosts in {folder / 'inventory.py'}, then `gpuhost plan -i {folder}`", file=sys.stderr)
    return OK
