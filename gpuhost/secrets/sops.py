"""Files of secrets that sops encrypted: read through the program `sops`, which finds its key itself.

What sops prints is the dotenv file that it was given, line for line, so it reads as `.env` does: a value that holds
` #` or a quote wants quotes. Only `\\n` in a value without quotes differs: sops means, and we read, a line end.
"""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path

from gpuhost.errors import Problem, UserError
from gpuhost.secrets import envfile

TIMEOUT_S = 120  # a key behind a passphrase or a hardware token waits for a person


def read(path: Path) -> dict[str, str]:
    """NAME -> value of an encrypted env file; {} when there is none.

    A file that did not change is decrypted once a process. Raises UserError, which never quotes a value.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(Problem(f"{path} cannot be read: {error.strerror}", "mend it, or move it away")) from None
    return dict(_decrypted(path, found.st_mtime_ns, found.st_size, found.st_ino))


@cache
def _decrypted(path: Path, _mtime_ns: int, _size: int, _inode: int) -> dict[str, str]:
    # The flag, not the command `decrypt`: sops knows that one since 3.9 only, and the flag to this day.
    command = ["sops", "--decrypt", "--input-type", "dotenv", "--output-type", "dotenv", str(path)]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=TIMEOUT_S)
    except OSError as error:
        absent = "is not installed here" if isinstance(error, FileNotFoundError) else f"does not run: {error.strerror}"
        what = f"{path} is encrypted with sops, and the program `sops` {absent}"
        hint = "get it from https://getsops.io, and have its key at hand, such as by SOPS_AGE_KEY_FILE"
        raise UserError(Problem(what, hint)) from None
    except subprocess.TimeoutExpired:
        what = f"sops did not decrypt {path} within {TIMEOUT_S} s"
        hint = f"it may wait for a passphrase: see what it asks for: sops --decrypt {path} > /dev/null"
        raise UserError(Problem(what, hint)) from None
    if done.returncode:
        raise UserError(_refusal(path, done.returncode, done.stderr.decode(errors="replace")))
    try:
        return _values(path, done.stdout.decode())
    except UnicodeDecodeError:
        raise UserError(Problem(f"{path} holds something that is not UTF-8 text", f"mend it: sops {path}")) from None


def _values(path: Path, text: str) -> dict[str, str]:
    found = {}
    for binding in envfile.bindings(f"what {path} holds", text, f"look at its quotes: sops {path}"):
        if binding.key is not None and binding.value is not None:
            quoted = re.match(r"[^=]*=\s*['\"]", binding.original.string)
            found[binding.key] = binding.value if quoted else binding.value.replace("\\n", "\n")
    return found


def _refusal(path: Path, code: int, stderr: str) -> Problem:
    """What sops's exit code and words mean. Only what it says of keys is quoted.

    Its other errors can hold a value: `invalid dotenv input line: ...`, `Input string ... does not match sops' data
    format` for a line that somebody added by hand, and, with a MAC, a bare hash over all values.
    """
    match code:
        case 128:
            lines = re.findall(r"^ *(- )?\| (.*)$", stderr, re.MULTILINE)  # for each key a paragraph, wrapped
            said = "".join(("; " if first else " ") + line for first, line in lines).lstrip("; ") or "no key opens it"
            said = said if len(said) <= 300 else said[:297] + "..."
            hint = "have a key of this file at hand, such as by SOPS_AGE_KEY_FILE=/path/to/keys.txt"
            return Problem(f"sops cannot decrypt {path}: {said}", hint)
        case 25 | 51:
            what = f"{path} was damaged, or changed by other means than sops, since it was encrypted"
            return Problem(what, f"take back the last good one, and make the change with `sops {path}`")
        case 1 if "sops metadata not found" in stderr:
            hint = f"`sops --encrypt --in-place {path}`, with `--age RECIPIENT` or with a .sops.yaml that names the key"
            return Problem(f"{path} is not encrypted", hint)
        case 1 if "invalid dotenv input line" in stderr:
            what = f"{path} holds a line that is no `NAME=value`, which sops would not have written"
            return Problem(what, "take that line out (a merge may have left it), or take back the last good file")
        case _:
            hint = f"see what it says, which may hold a value: sops --decrypt {path} > /dev/null"
            return Problem(f"sops cannot decrypt {path} (exit code {code})", hint)
