"""Secrets: one source for each, and every place that needs it renders from there.

Sources, later ones win: `.env`, `<secrets_dir>/<host>.env`, the process environment. What can be generated is
generated at the first apply, into `<secrets_dir>/<host>.env` (0600, folder 0700, atomic, existing lines kept).
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets as entropy
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import bcrypt
from dotenv import dotenv_values

from .catalog import LABEL_KEY, Catalog, Secret
from .errors import Problem, UserError


class NotYet(Exception):
    """A generated secret is asked for before the first apply generated it."""


class SecretStore:
    """The secrets of one host, on the control side."""

    def __init__(self, catalog: Catalog, host: str, environ: Mapping[str, str] | None = None) -> None:
        self._declared = catalog.secrets
        self._environ = os.environ if environ is None else environ
        self._host = host
        self._shared = Path(".env")
        self.path = Path(catalog.secrets_dir) / f"{re.sub(r'[^A-Za-z0-9._-]', '_', host)}.env"

    def value(self, name: str) -> str:
        """The value of a secret. Raises NotYet when it is still to be generated, UserError when nobody gave it."""
        found = self._known().get(name)
        if found is not None:
            return found
        if self._declared[name].generate:
            raise NotYet(name)
        raise UserError(self._absent(name))

    def optional(self, name: str) -> str | None:
        """The value, or None when nobody gave it."""
        return self._known().get(name)

    def missing(self, names: Iterable[str]) -> list[Problem]:
        """A problem for each of `names` that only the operator can give, and did not. Raises UserError."""
        known = self._known()
        return [self._absent(name) for name in names if name not in known and not self._declared[name].generate]

    def tracked(self) -> list[Problem]:
        """A problem for each file of secrets that git tracks: it would leave with the next push."""
        return [
            Problem(f"{path} holds secrets and is tracked by git", f"git rm --cached {path}, then change what it held")
            for path in (self._shared, self.path)
            if path.exists() and _is_tracked(path)
        ]

    def out_of_step(self, names: Iterable[str]) -> list[Problem]:
        """A problem for each of `names` that no longer derives from its source: one of the two was changed alone."""
        known, found = self._known(), []
        for name in names:
            source = known.get(str(self._declared[name].derive_from))
            if source is not None and name in known and not _is_hash_of(known[name], source):
                what = f"`{name}` is not the hash of `{self._declared[name].derive_from}`"
                found.append(Problem(what, f"remove `{name}` from {self.path}: it is then made anew", self._host))
        return found

    def _absent(self, name: str) -> Problem:
        hint = f"write `{name}=...` into {self._shared} or {self.path}"
        return Problem(f"the secret `{name}` is not set", hint, self._host)

    def to_generate(self, names: Iterable[str]) -> list[str]:
        """Those of `names` (and what they derive from) that the first apply will generate, sources first."""
        known = self._known()
        absent = [name for name in names if name not in known]
        wanted = [name for name in self._with_sources(absent) if name not in known and self._declared[name].generate]
        return list(dict.fromkeys(wanted))

    def generate(self, names: Iterable[str]) -> None:
        """Generate what is missing, under a lock, and keep every line that is there."""
        with self._locked():
            missing = self.to_generate(names)
            made: dict[str, str] = {}
            for name in missing:
                made[name] = _new_value(self._declared[name], {**self._known(), **made})
            if made:
                text = self.path.read_text() if self.path.exists() else ""
                if text and not text.endswith("\n"):
                    text += "\n"
                _replace(self.path, text + "".join(f"{name}='{value}'\n" for name, value in made.items()))

    def fingerprint(self, values: Mapping[str, str]) -> str:
        """A keyed hash (HMAC-SHA256, hex) over names and values; it tells a change and gives nothing away."""
        text = json.dumps(dict(values), sort_keys=True).encode()
        return hmac.new(self.value(LABEL_KEY).encode(), text, hashlib.sha256).hexdigest()

    def _with_sources(self, names: Iterable[str]) -> Iterator[str]:
        for name in names:
            source = self._declared[name].derive_from
            if source:
                yield source
            yield name

    def _known(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for source in (_read(self._shared), _read(self.path), self._environ):
            for name, secret in self._declared.items():
                values = {alias: source[alias] for alias in (name, *secret.aliases) if source.get(alias)}
                if len(set(values.values())) > 1:
                    raise UserError(
                        Problem(
                            f"{' and '.join(values)} hold different values", "keep one of them: they are one secret"
                        )
                    )
                if values:
                    found[name] = next(iter(values.values()))
        return found

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.path.parent / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _new_value(secret: Secret, known: Mapping[str, str]) -> str:
    match secret.generate:
        case "bcrypt":
            return bcrypt.hashpw(known[str(secret.derive_from)].encode(), bcrypt.gensalt(12)).decode()
        case "password":
            return entropy.token_urlsafe(18)
        case "username":
            return "genai"
        case _:
            return entropy.token_urlsafe(32)


def _is_hash_of(hashed: str, password: str) -> bool:
    try:
        return bcrypt.checkpw(password.encode(), hashed.encode())
    except ValueError:  # no hash at all, or a password longer than bcrypt takes
        return False


def _read(path: Path) -> Mapping[str, str]:
    if not path.exists():
        return {}
    if path.stat().st_mode & 0o077:
        raise UserError(Problem(f"{path} can be read by others on this machine", f"chmod 600 {path}"))
    return {key: value for key, value in dotenv_values(path, interpolate=False).items() if value is not None}


def _is_tracked(path: Path) -> bool:
    # Whoever owns the checkout: a question about one file runs nothing that stands in it.
    ask = ["git", "-c", "safe.directory=*", "-C", str(path.parent), "ls-files", "--error-unmatch", "--", path.name]
    try:
        return subprocess.run(ask, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:  # no git: nothing is pushed from here
        return False


def _replace(path: Path, text: str) -> None:
    """Atomic, 0600 from the first byte, on disk before it takes the old one's place."""
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    new.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
