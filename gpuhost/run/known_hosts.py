"""The files of known SSH host keys, in OpenSSH's format: what they say of a host, and how a key gets into one."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from paramiko import HostKeys, PKey, SSHException
from paramiko.hostkeys import HostKeyEntry, InvalidHostKey


def name_of(hostname: str, port: int) -> str:
    """The name under which a host stands there."""
    return hostname if port == 22 else f"[{hostname}]:{port}"


def read(files: Iterable[str]) -> HostKeys:
    """All of them for paramiko; what cannot be read is left out. Its own reading of a file ends at the first line that
    it does not understand, such as that of a certificate authority."""
    found = HostKeys()
    for file in files:
        with contextlib.suppress(OSError):
            found._entries += filter(None, map(_entry, _lines(Path(file))))  # type: ignore[attr-defined]
    return found


def keys(files: Iterable[Path], name: str) -> list[PKey]:
    """The keys that they give a host, each once; lines with `@` and patterns count for nothing. Raises OSError."""
    found = []
    for line in (line for file in files for line in _lines(file)):
        entry = _entry(line)
        if entry and any(_is(each, name) for each in entry.hostnames) and entry.key not in found:
            found.append(entry.key)
    return found


def is_hashed(file: Path) -> bool:
    """True when its names are hashed."""
    return any(line.startswith("|1|") for line in _lines(file))


def add(file: Path, name: str, key: PKey, hashed: bool) -> None:
    """One line more. Raises OSError."""
    lines = _lines(file)
    shown = HostKeys.hash_host(name) if hashed else name
    _write(file, [*lines, f"{shown} {key.get_name()} {key.get_base64()}"])


def remove(file: Path, name: str) -> None:
    """Takes a host out of every line; what the file was stays beside it as `.old`. Raises OSError."""
    lines = _lines(file)
    left = [kept for line in lines if (kept := _without(line, name)) is not None]
    if left != lines:
        _put(file.with_name(f"{file.name}.old"), lines)
        _write(file, left)


def _without(line: str, name: str) -> str | None:
    """The line without a host; None when it is of no other."""
    if _entry(line) is None:
        return line
    names, rest = line.split(maxsplit=1)
    left = [each for each in names.split(",") if not _is(each, name)]
    if len(left) == len(names.split(",")):
        return line
    return f"{','.join(left)} {rest}" if left else None


def _is(written: str, name: str) -> bool:
    return HostKeys.hash_host(name, written) == written if written.startswith("|1|") else written == name


def _entry(line: str) -> HostKeyEntry | None:
    """None for a comment, for what is no line of a host's key, and for a key of a kind that paramiko does not know."""
    if not line.strip() or line.lstrip()[0] in "#@":
        return None
    try:
        entry = HostKeyEntry.from_line(" ".join(line.split()))
        for name in entry.hostnames if entry else ():
            _is(name, "")
    except (SSHException, InvalidHostKey, ValueError, AssertionError):  # the last: a hash that is none
        return None
    return entry


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(errors="surrogateescape").splitlines()
    except FileNotFoundError:
        return []


def _write(file: Path, lines: Iterable[str]) -> None:
    """Whole or not at all. A link stays one: dotfiles are often kept elsewhere."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _put(file.resolve(), lines)


def _put(file: Path, lines: Iterable[str]) -> None:
    descriptor, new = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)  # 0600, as OpenSSH makes it
    try:
        with os.fdopen(descriptor, "w", errors="surrogateescape") as opened:
            opened.writelines(f"{line}\n" for line in lines)
            opened.flush()
            os.fsync(opened.fileno())
        if file.exists():
            Path(new).chmod(file.stat().st_mode & 0o777)
        Path(new).replace(file)
    except BaseException:
        Path(new).unlink(missing_ok=True)
        raise
