"""An operator's secret files in one file behind a passphrase, to outlive the machine that they are on. Pure.

The format is age's (https://age-encryption.org/v1, passphrase), and inside is a plain tar: `age -d FILE | tar xf -`
opens it without us. Packing and unpacking each cost scrypt's second of a core and its half GiB of memory.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping

from pyrage import DecryptError
from pyrage import passphrase as sealed

from gpuhost.errors import Problem, UserError

MAX_BYTES = 16 * 2**20
# age measures how fast the machine is just now and refuses what it would take long to check: on a busy machine that may
# be its own file, so it is asked more than once.
TOO_MUCH_WORK = "Excessive work"
TRIES = 5


def pack(files: Mapping[str, bytes], passphrase: str) -> bytes:
    """One encrypted archive of name -> content; the names are relative, such as `secrets/gpu1.env`.

    Raises UserError for what unpack() would refuse, and without a passphrase.
    """
    if not passphrase:
        raise UserError(Problem("an archive without a passphrase protects nothing", "give a long passphrase"))
    inside = _to_tar(files)
    if len(inside) > MAX_BYTES:
        raise UserError(_too_large())
    packed: bytes = sealed.encrypt(inside, _text(passphrase))
    return packed


def unpack(data: bytes, passphrase: str) -> dict[str, bytes]:
    """name -> content of an archive.

    Raises UserError for a wrong passphrase, for what is damaged or no age file, and for a tar that holds anything but
    relative plain files, or more than 16 MiB of them. No error quotes what is inside, beyond a name.
    """
    if not data.startswith(b"age-encryption.org/"):
        raise UserError(Problem("this is no age file", "give the file that an export wrote"))
    if len(data) > 2 * MAX_BYTES:  # age adds far less than that: not worth a try
        raise UserError(_too_large())
    inside = _opened(data, _text(passphrase))
    if len(inside) > MAX_BYTES:
        raise UserError(_too_large())
    return _from_tar(inside)


def _opened(data: bytes, passphrase: str, tries: int = TRIES) -> bytes:
    """What is sealed inside. Raises UserError."""
    try:
        opened: bytes = sealed.decrypt(data, passphrase)
    except DecryptError as error:
        if tries > 1 and str(error).startswith(TOO_MUCH_WORK):
            return _opened(data, passphrase, tries - 1)
        raise UserError(_refusal(str(error))) from None
    return opened


def _text(passphrase: str) -> str:
    try:
        passphrase.encode()
    except UnicodeEncodeError:  # what a terminal gave was not in its own encoding
        raise UserError(Problem("the passphrase is not UTF-8 text", "type it on a UTF-8 terminal")) from None
    return passphrase


def _refusal(said: str) -> Problem:
    """What rage's words mean. Those that are not here are all of a damaged file."""
    if said.startswith("Decryption failed"):
        hint = "type the one that it was packed with; if this is it, the archive is damaged: take another copy"
        return Problem("the passphrase does not open this archive", hint)
    if said.startswith("No matching keys found"):
        hint = "give the file that an export wrote; `age -d -i KEY FILE` opens this one"
        return Problem("this age file was encrypted to a key, not with a passphrase", hint)
    if said.startswith(TOO_MUCH_WORK):
        hint = "`age -d FILE | tar xf -` may take that time; if this machine made it, it is damaged: take another copy"
        return Problem("the passphrase of this archive takes this machine too long to check", hint)
    return Problem("this archive is damaged", "take another copy of it")


def _too_large() -> Problem:
    return Problem(f"this is more than the {MAX_BYTES >> 20} MiB that an archive may hold", "pack secret files only")


def _to_tar(files: Mapping[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8") as tar:
        for name, content in sorted(files.items()):
            if not _is_relative(name):
                raise UserError(_not_plain(name))
            member = tarfile.TarInfo(name)  # whose times and owners are all 0
            member.size, member.mode = len(content), 0o600
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def _from_tar(data: bytes) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:", encoding="utf-8") as tar:
            for member in tar:
                plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse()
                if not plain or member.size < 0 or not _is_relative(member.name) or member.name in found:
                    raise UserError(_not_plain(member.name))
                content = tar.extractfile(member)
                found[member.name] = content.read() if content else b""
            whole = not data[tar.offset :].strip(b"\0")  # tarfile takes a broken header for the end
    except (tarfile.TarError, ValueError, OverflowError):
        whole = False
    if not whole:
        raise UserError(Problem("what is inside this age file is no tar", "give the file that an export wrote"))
    return found


def _is_relative(name: str) -> bool:
    return name.isprintable() and not {"", ".", ".."} & set(name.split("/"))


def _not_plain(name: str) -> Problem:
    hint = "give the file that an export wrote; `age -d FILE | tar tvf -` shows what another one holds"
    return Problem(f"the archive's {name[:100]!r} is no plain file with a relative name of its own", hint)
