"""The log: what is written to stdout and stderr is also kept in memory, and /internal/logs serves it."""

import io
import logging
import sys
from collections import deque
from datetime import datetime
from typing import TextIO

_entries: deque[dict[str, str]] = deque(maxlen=300)


class RememberingStream(io.TextIOWrapper):
    """Takes the place of sys.stdout or sys.stderr; its write() returns nothing, as the real one's."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream.buffer, encoding=stream.encoding, line_buffering=stream.line_buffering)

    def write(self, text: str) -> None:
        _entries.append({"t": datetime.now().isoformat(), "m": text})
        super().write(text)


def get_logs() -> deque[dict[str, str]]:
    return _entries


def setup_logger(log_level: str, use_stdout: bool) -> None:
    """Our streams in the place of Python's, and handlers that hold them; with `use_stdout` only errors go to stderr."""
    sys.stdout, sys.stderr = RememberingStream(sys.stdout), RememberingStream(sys.stderr)
    on_stderr, on_stdout = logging.StreamHandler(sys.stderr), logging.StreamHandler(sys.stdout)
    if use_stdout:
        on_stderr.addFilter(lambda record: record.levelno >= logging.ERROR)
        on_stdout.addFilter(lambda record: record.levelno < logging.ERROR)
    handlers = [on_stdout, on_stderr] if use_stdout else [on_stderr]
    logging.basicConfig(level=log_level, format="%(message)s", handlers=handlers)
