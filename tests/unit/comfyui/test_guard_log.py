"""The guard's prestartup script, run as ComfyUI runs it, over streams and a handler like ComfyUI's own."""

from __future__ import annotations

import io
import logging
import runpy
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, TextIO, cast
from unittest import mock
from urllib.parse import quote, quote_plus

import pytest

SCRIPT = Path(__file__).parents[3] / "files" / "comfyui" / "guard" / "prestartup_script.py"
TOKEN = "$2b$12$RLTdZkHYMP539qoBnX9DCOsvgbGsUIlnFNYsVq71BGZBtnkw/nT.K"  # noqa: S105


class Stream(io.TextIOWrapper):
    """As ComfyUI's: it remembers what is written, and write() returns nothing."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", line_buffering=True)
        self.remembered = ""

    def write(self, text: str) -> None:  # type: ignore[override]
        super().write(text)
        self.remembered += text

    def shown(self) -> str:
        """What arrived; the memory holds the same."""
        self.flush()
        assert isinstance(self.buffer, io.BytesIO)
        assert self.buffer.getvalue().decode() == self.remembered
        return self.remembered


@contextmanager
def streams_of_comfyui() -> Iterator[tuple[Stream, Stream]]:
    """stdout and stderr of a ComfyUI that has set up its log: its handler holds stderr."""
    out, err = Stream(), Stream()
    handlers = [logging.StreamHandler(err)]
    with (
        redirect_stdout(cast(TextIO, out)),
        redirect_stderr(cast(TextIO, err)),
        mock.patch.object(logging.getLogger(), "handlers", handlers),
    ):
        yield out, err


def run_script() -> None:
    runpy.run_path(str(SCRIPT))


def test_the_announcement_shows_no_token() -> None:
    with streams_of_comfyui() as (out, err):
        run_script()
        logging.getLogger().warning(f"For direct API calls, use token={TOKEN}")
    assert (out.shown(), err.shown()) == ("", "For direct API calls, use token=[redacted]\n")


def test_print_tracebacks_and_lines_show_no_token() -> None:
    with streams_of_comfyui() as (out, err):
        run_script()
        print("printed", TOKEN)
        try:
            raise ValueError(TOKEN)
        except ValueError:
            traceback.print_exc()
            logging.getLogger("a node's").exception("caught %s", [TOKEN])
        sys.stderr.writelines(["a line\n", f"two in a line: {TOKEN}{TOKEN}\n"])
    assert out.shown() == "printed [redacted]\n"
    assert err.shown().count("ValueError: [redacted]\n") == 2
    assert "caught ['[redacted]']\n" in err.shown()
    assert err.shown().endswith("a line\ntwo in a line: [redacted][redacted]\n")


@pytest.mark.parametrize("encode", [quote, quote_plus, lambda token: quote_plus(token).replace("%2F", "%2f")])
def test_a_token_in_a_url_is_a_token(encode: Any) -> None:
    with streams_of_comfyui() as (out, _):
        run_script()
        print(f"Bad status line: b'GET /prompt?token={encode(TOKEN)}&x=1 HTTP/9'")
    assert out.shown() == "Bad status line: b'GET /prompt?token=[redacted]&x=1 HTTP/9'\n"


@pytest.mark.parametrize("text", ["genai", "", "\r 50%|██", "costs $2 or $2b$12$", TOKEN[:-1], "%242b%2412%24"])
def test_other_text_stays(text: str) -> None:
    with streams_of_comfyui() as (out, _):
        run_script()
        print(text)
    assert out.shown() == f"{text}\n"


def test_a_stream_stays_what_it_is() -> None:
    with streams_of_comfyui() as (out, err):
        run_script()
        assert sys.stdout is out and sys.stderr is err
        assert (out.encoding, out.isatty(), out.line_buffering, out.writable()) == ("utf-8", False, True, True)
        assert out.write("text") is None
    assert out.shown() == "text"


def test_python_s_own_stream_counts_what_it_writes(tmp_path: Path) -> None:
    with streams_of_comfyui(), (tmp_path / "out").open("w") as stream, redirect_stdout(stream):
        run_script()
        assert (sys.stdout.write("four"), sys.stdout.fileno()) == (4, stream.fileno())
        print(TOKEN)
    assert (tmp_path / "out").read_text() == "four[redacted]\n"


def test_what_write_raised_it_still_raises() -> None:
    not_text: Any = TOKEN.encode()
    with streams_of_comfyui() as (out, _):
        run_script()
        with pytest.raises(TypeError, match="must be str"):
            out.write(not_text)
        out.close()
        with pytest.raises(ValueError, match="closed file"):
            out.write("text")


def test_a_node_that_replaced_the_streams_before_is_covered() -> None:
    """As ComfyUI-Manager does: the handler holds the old stream, and the new one that one's old write()."""

    class Wrapper(io.StringIO):
        def __init__(self, stream: Stream) -> None:
            self.write = stream.write  # type: ignore[assignment]

    with streams_of_comfyui() as (out, err), redirect_stdout(Wrapper(out)), redirect_stderr(Wrapper(err)):
        run_script()
        print(TOKEN)
        print(TOKEN, file=sys.stderr)
        logging.getLogger().warning(TOKEN)
    assert (out.shown(), err.shown()) == ("[redacted]\n", "[redacted]\n[redacted]\n")
