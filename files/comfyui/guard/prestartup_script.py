"""Keeps the API token out of the log: ComfyUI-Login logs it at every start, and it is the password's bcrypt hash.

ComfyUI runs the prestartup_script.py of every node folder before it imports any node. Its logging handlers hold the
streams by then, and the streams fill the log that /internal/logs serves: so each stays the object that it is, and
gets another `write`. Masked is the shape, not the content of login/PASSWORD: a hash that is set later has it too.
"""

import logging
import re
import sys
from typing import Any, TextIO

DOLLAR = r"(?:\$|%24)"  # aiohttp logs a malformed request as it came, with its ?token=
BCRYPT_HASH = re.compile(rf"{DOLLAR}2[abxy]{DOLLAR}\d\d{DOLLAR}(?:[./A-Za-z0-9]|%2[Ff]){{53}}")


def redact(stream: TextIO) -> None:
    """Let what is written to the stream show [redacted] in the place of every bcrypt hash."""
    write = stream.write

    def write_redacted(text: Any) -> Any:
        return write(BCRYPT_HASH.sub("[redacted]", text) if isinstance(text, str) else text)

    stream.write = write_redacted  # type: ignore[method-assign]


held = {handler.stream for handler in logging.getLogger().handlers if isinstance(handler, logging.StreamHandler)}
for stream in {sys.stdout, sys.stderr, *held}:  # another node's script may have replaced sys.stdout and sys.stderr
    redact(stream)
