"""Files of secrets on the control side: read, edited without touching other lines, replaced atomically."""

from __future__ import annotations

import fcntl
import io
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from dotenv.parser import Binding, parse_stream

from gpuhost.errors import Problem, UserError


def read(path: Path) -> dict[str, str]:
    """NAME -> value of an env file; {} when there is none. Raises UserError when others can read it, or for a line that
    says nothing: a secret in it would be missed without a word."""
    text = read_private(path)
    found = {} if text is None else {each.key: each.value for each in bindings(str(path), text, "look at its quotes")}
    return {key: value for key, value in found.items() if key is not None and value is not None}


def bindings(where: str, text: str, hint: str) -> list[Binding]:
    """The lines of an env file's text as python-dotenv reads them. Raises UserError."""
    found = list(parse_stream(io.StringIO(text)))
    for binding in found:
        if binding.error:
            skipped = len(binding.original.string) - len(binding.original.string.lstrip("\r\n"))
            line = binding.original.line + binding.original.string[:skipped].count("\n")
            raise UserError(Problem(f"line {line} of {where} is no `NAME=value`", hint))
    return found


def read_private(path: Path) -> str | None:
    """The text of a file that its owner alone may read; None when there is none. Raises UserError."""
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            if os.fstat(stream.fileno()).st_mode & 0o077:
                raise UserError(Problem(f"{path} can be read by others on this machine", f"chmod 600 {path}"))
            return stream.read()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError(Problem(f"{path} cannot be read: {why}", "mend it, or move it away")) from None


def with_values(text: str, values: Mapping[str, str]) -> str:
    """An env file's text with `values` in the place of their old lines, or behind the rest; all else as it was.

    The values hold neither quotes nor line ends: they are generated ones.
    """
    mark = text[: len(text) - len(text.removeprefix("\ufeff"))]  # a byte order mark, which python-dotenv swallows
    pieces, left = [mark], dict(values)
    for binding in parse_stream(io.StringIO(text)):
        piece, name = binding.original.string.removeprefix(mark), str(binding.key)
        if name in values:
            found = _VALUE.fullmatch(piece)
            if found:
                piece = f"{found['before']}'{values[name]}'{found['quoted'] or found['plain'] or ''}"
                left.pop(name, None)
            else:  # a bare name: it takes a value away that stands before it
                left[name] = values[name]
        pieces.append(piece)
    kept = "".join(pieces)
    if left and kept != mark and not kept.endswith("\n"):
        kept += "\n"
    return kept + "".join(f"{name}='{value}'\n" for name, value in left.items())


# One binding: what stands before its value, and what follows that (a comment, the line's end).
_BLANKS = r"[^\S\r\n]*"
_VALUE = re.compile(
    rf"""(?P<before>\s*(?:export\s+)?[^=\s#]+{_BLANKS}=(?:{_BLANKS}(?!\#)|(?=\#)))(?:"""
    rf"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")(?P<quoted>{_BLANKS}(?:\#[^\r\n]*)?\s*)"""
    rf"""|(?:(?![^\S\r\n]+\#)[^\r\n])*?(?P<plain>(?:[^\S\r\n]+\#[^\r\n]*)?\s*))""",
    re.DOTALL,
)


def replace(path: Path, content: str | bytes) -> None:
    """Atomic, 0600 from the first byte, on disk before it takes the old one's place. The caller holds the lock.

    A link stays one: what it points to is replaced.
    """
    path = Path(os.path.realpath(path))
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)  # of a run that died here: nobody else writes while we hold the lock
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content.encode() if isinstance(content, str) else content)
        stream.flush()
        os.fsync(stream.fileno())
    new.replace(path)
    _sync_folder(path.parent)


def remove(path: Path) -> None:
    """Gone for good, as far as the file system can tell."""
    path.unlink(missing_ok=True)
    _sync_folder(path.parent)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One writer at a time in a folder of secrets, which is made when it is not there (0700)."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
