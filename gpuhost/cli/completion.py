"""`gpuhost completion`: what a shell reads so that it completes commands, options, and names of the data."""

from __future__ import annotations

import argparse

from gpuhost.cli.arguments import Commands, add_examples
from gpuhost.cli.console import OK

SHELLS = ("bash", "zsh", "fish")


def add_to(commands: Commands) -> None:
    """Add the command to the command line."""
    about = "print what bash, zsh or fish reads to complete commands, options, hosts, services, secrets, models"
    command = commands.add_parser("completion", help=about, description=about)
    command.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))
    add_examples(
        command,
        'eval "$(gpuhost completion bash)"      (in ~/.bashrc; in ~/.zshrc: zsh)',
        "gpuhost completion fish > ~/.config/fish/completions/gpuhost.fish",
        ok="printed",
    )
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print; the exit code."""
    from argcomplete.shell_integration import shellcode

    print(shellcode(["gpuhost"], shell=options.shell))
    return OK
