"""What hosts print, on its way to our readers and to the operator's terminal: any bytes, bounded, shown as text.

A container's log reaches the terminal live. Written as it is, it could clear the screen, fill the clipboard (OSC 52) or
forge lines of ours; a byte that is no UTF-8 would end pyinfra's reading, and the program that it reads from would wait
for ever; a line without an end would fill the memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Queue
from typing import Any

import click
from click import echo as _click_echo
from paramiko.file import BufferedFile
from pyinfra.api import output
from pyinfra.connectors import util
from pyinfra.connectors.util import OutputLine

from gpuhost.run.log import line_as_text
from hostside.wire import MAX_BYTES, printable

LINE_BYTES_MAX = MAX_BYTES  # of one line; what is longer is cut
KEPT_BYTES_MAX = 4 * MAX_BYTES  # of one command's output; what follows is shown, and not kept
PIECE_BYTES = 2**16

_STYLE = r"\x1b\[(?:[0124]|3[0-9]|9[0-7])m"  # of click.style, as pyinfra uses it


Shown = Callable[[str], str | None]  # what a person sees of a line; None: nothing
_shown: dict[str, Shown] = {}  # by what pyinfra puts before the lines of a host


@contextmanager
def shown_as(prefix: str, shown: Shown) -> Iterator[None]:
    """Meanwhile what a command of a host prints to stdout is shown so. `prefix`: what pyinfra puts before its lines."""
    _shown[prefix] = shown
    try:
        yield
    finally:
        del _shown[prefix]


def show_as_text() -> None:
    """From now on pyinfra reads and shows output so, in this process."""
    util.read_buffer = read_buffer
    click.echo = _echo
    output.set_echo(_echo)


def read_buffer(
    name: str,
    io: Any,
    output_queue: Queue[OutputLine],
    print_output: bool = False,
    print_func: Callable[[str], str] | None = None,
) -> None:
    """In the place of pyinfra's function: reads a command's stdout or stderr to its end, and shows each line."""
    kept = 0
    shown_as_what = _shown.get(print_func("") if print_func else "") if name == "stdout" else None
    for line in _lines(io):
        kept += len(line)
        if kept <= KEPT_BYTES_MAX:
            output_queue.put(OutputLine(name, line))
        what = shown_as_what(line) if shown_as_what else line
        if print_output and what is not None:
            shown = line_as_text(what)
            _echo(print_func(shown) if print_func else shown, err=True)


def _lines(io: Any) -> Iterator[str]:
    if isinstance(io, BufferedFile):  # over SSH: as text, it would raise at a byte that is no UTF-8
        io._flags |= BufferedFile.FLAG_BINARY  # type: ignore[attr-defined]
    line = bytearray()
    while piece := io.readline(PIECE_BYTES):
        line += piece[: max(0, LINE_BYTES_MAX - len(line))]
        if piece.endswith(b"\n"):
            yield line.decode("utf-8", "replace").rstrip("\n")
            line.clear()
    if line:
        yield line.decode("utf-8", "replace")


def _echo(message: Any = None, *arguments: Any, **named: Any) -> None:
    """click's echo: pyinfra's own styles and line ends stay, other control characters are shown as text."""
    if isinstance(message, str):
        parts = re.split(rf"({_STYLE}|\n)", message)
        message = "".join(part if index % 2 else printable(part) for index, part in enumerate(parts))
    _click_echo(message, *arguments, **named)
