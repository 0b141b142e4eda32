"""Secrets: one source for each, and every location that needs it renders from there.

Sources, later ones win: `.env`, `<secrets_dir>/<host>.sops.env` (read through sops), `<secrets_dir>/<host>.env`, the
process environment. What can be generated is generated at the first apply, into `<secrets_dir>/<host>.env` (0600,
folder 0700, atomic, existing lines kept). A value that was rotated away stays in `<secrets_dir>/<host>.retired.json`
until its refusal is proved.
"""

from __future__ import annotations

import json
import os
import re
import secrets as entropy
import subprocess
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

import bcrypt

from gpuhost.catalog.checks import LABEL_KEY
from gpuhost.catalog.types import Catalog, Secret
from gpuhost.errors import Problem, UserError, suggest
from gpuhost.secrets import envfile, sops
from hostside.fingerprint import fingerprint as keyed_fingerprint

ENVIRONMENT = "the environment"
BCRYPT_BYTES = 72  # what bcrypt looks at
_PASSWORD_BYTES = 18
# Powers of two. As long as we generate them nobody guesses one at any speed, and every plan and login pays for more.
_ROUNDS, _ROUNDS_OF_LONG, _LONG = 12, 10, 4 * _PASSWORD_BYTES // 3  # characters
_IN_HEADERS = re.compile(r"[!-~]([ -~]*[!-~])?")


class NotYet(Exception):
    """A generated secret is asked for before the first apply generated it."""


class SecretStore:
    """The secrets of one host, on the control side. `site`: the folder of the inventory, to which `.env` and
    `secrets_dir` are relative."""

    def __init__(
        self, catalog: Catalog, host: str, environ: Mapping[str, str] | None = None, site: Path = Path()
    ) -> None:
        self.host = host
        self.folder = site / catalog.secrets_dir
        stem = re.sub(r"[^A-Za-z0-9._-]", "_", host)
        self.path = self.folder / f"{stem}.env"
        self.encrypted = self.folder / f"{stem}.sops.env"
        self._retired = self.folder / f"{stem}.retired.json"
        self.shared = site / ".env"
        self._declared = catalog.secrets
        self._environ = os.environ if environ is None else environ
        self._read: tuple[object, dict[str, tuple[str, str]]] | None = None  # of files as they then were
        self._checks: dict[tuple[str, str], Callable[[], bool]] = {}  # (hash, password) -> what waits for the answer

    # -- reading -------------------------------------------------------------------------------------------------------

    def value(self, name: str) -> str:
        """The value of a secret. Raises NotYet when it is still to be generated, UserError when nobody gave it."""
        found = self.optional(name)
        if found is not None:
            return found
        if self._declared[name].generate:
            raise NotYet(name)
        raise UserError(self._absent(name))

    def optional(self, name: str) -> str | None:
        """The value, or None when nobody gave it."""
        found = self.known().get(name)
        return found[0] if found else None

    def source(self, name: str) -> str | None:
        """Where the value comes from: a path, or `the environment`; None when nobody gave it."""
        found = self.known().get(name)
        return found[1] if found else None

    def masked(self, names: Collection[str] | None = None) -> list[str]:
        """Every value, or those of `names`, that is known or was rotated away, and that is to be seen nowhere: the name
        of a user is a word like others."""
        chosen = [name for name, secret in self._declared.items() if secret.generate != "username"]
        if names is not None:
            chosen = [name for name in chosen if name in names]
        known, retired = self.known(), self.retired()
        values = [known[name][0] for name in chosen if name in known]
        return [*values, *(value for name, old in retired.items() if names is None or name in names for value in old)]

    def retired(self) -> dict[str, list[str]]:
        """name -> the values that were rotated away and that every service must refuse; {} when all is proved."""
        text = envfile.read_private(self._retired)
        try:
            return dict(json.loads(text)) if text else {}
        except ValueError:
            what = f"{self._retired} is not as gpuhost wrote it"
            hint = "move it away: that the values in it are refused is then not proved"
            raise UserError(Problem(what, hint, self.host)) from None

    def files(self) -> list[Path]:
        """The files that hold this host's secrets, those that exist."""
        found = (self.shared, self.encrypted, self.path, self._retired)
        return [path for path in found if path.exists()]

    def missing(self, names: Iterable[str]) -> list[Problem]:
        """A problem for each of `names` that only the operator can give, and did not. Raises UserError."""
        known = self.known()
        return [self._absent(name) for name in names if name not in known and not self._declared[name].generate]

    def mismatched(self, names: Iterable[str]) -> list[Problem]:
        """A problem for each of `names` that does not derive from its source (one of the two was changed alone), and
        for each that cannot."""
        known = self.known()
        return [
            self._too_long(str(source))
            for name in names
            if name not in known and (source := self._declared[name].derive_from) and _too_long(known.get(source))
        ] + [
            Problem(
                f"`{name}` is not the hash of `{self._declared[name].derive_from}`",
                f"remove `{name}` from {self.source(name)}: it is then made anew",
                self.host,
            )
            for name in names
            if not self.derives(name)
        ]

    def unfit(self, names: Iterable[str], sent: Iterable[str]) -> list[Problem]:
        """A problem for each of `names` whose value no service would take or, of those that are `sent`, nobody could
        send."""
        return [*self.too_short(names), *self.unsendable(sent)]

    def too_short(self, names: Iterable[str]) -> list[Problem]:
        """A problem for each of `names` that its user would refuse, and only when it starts."""
        found = ((name, self._declared[name].min_chars, self.optional(name)) for name in names)
        return [
            Problem(
                f"`{name}` has fewer than {least} characters, which its service refuses",
                f"write a longer one into {self.source(name)}: `openssl rand -hex 32`",
                self.host,
            )
            for name, least, value in found
            if value is not None and len(value) < least
        ]

    def unsendable(self, names: Iterable[str]) -> list[Problem]:
        """A problem for each of `names`, which travel in HTTP headers, that none can carry as it is."""
        return [
            Problem(
                f"`{name}` has characters that an HTTP header does not carry: nobody could send it",
                f"write signs of ASCII, without spaces around them, into {self.source(name)}: `openssl rand -hex 32`",
                self.host,
            )
            for name in names
            if (value := self.optional(name)) and not _IN_HEADERS.fullmatch(value)
        ]

    def _too_long(self, name: str) -> Problem:
        what = f"`{name}` is longer than {BCRYPT_BYTES} bytes, which bcrypt cannot take"
        return Problem(what, f"write a shorter one into {self.source(name)}", self.host)

    def derives(self, name: str) -> bool:
        """False when a secret should be the hash of another one and is not."""
        pair = self._derivation(name)
        return pair is None or self._checks.get(pair, partial(_is_hash_of, *pair))()

    def check_hashes(self, begin: Callable[[Callable[[], bool]], Callable[[], bool]]) -> None:
        """Begin what `derives` waits for: a quarter of a second of the processor each. `begin`: starts a work, gives
        what waits for its end. Raises UserError."""
        for pair in filter(None, map(self._derivation, self._declared)):
            self._checks[pair] = begin(partial(_is_hash_of, *pair))

    def _derivation(self, name: str) -> tuple[str, str] | None:
        """The hash and the password, where both are there."""
        known = self.known()
        source = known.get(str(self._declared[name].derive_from))
        return (known[name][0], source[0]) if source and name in known else None

    def fingerprint(self, name: str, value: str) -> str:
        """The keyed fingerprint (64 hex) of a name and a value, as the host's programs make it too. Raises NotYet."""
        return keyed_fingerprint(self.value(LABEL_KEY), name, value)

    def file_key(self) -> str:
        """The key of the hashes over whole files of secrets (64 hex, derived); "" before the label key is generated."""
        try:
            return self.fingerprint("", "files")
        except NotYet:
            return ""

    # -- writing -------------------------------------------------------------------------------------------------------

    def to_generate(self, names: Iterable[str]) -> list[str]:
        """Those of `names` (and what they derive from) that the next apply will generate, sources first.

        A password is left alone when its hash is given: a new one would not match.
        """
        known = self.known()
        hashed = {self._declared[name].derive_from for name in known}
        absent = [name for name in names if name not in known and name not in hashed]
        wanted = [name for name in self._with_sources(absent) if name not in known and self._declared[name].generate]
        return list(dict.fromkeys(wanted))

    def generate(self, names: Iterable[str]) -> None:
        """Generate what is missing, under a lock, and keep every line that is there."""
        with envfile.locked(self.folder):
            made = self._new_values(self.to_generate(names))
            if made:
                envfile.replace(self.path, envfile.with_values(self._text(), made))

    def renewable(self, name: str) -> list[str]:
        """What a rotation of `name` renews: it, and what derives from it. Raises UserError when it cannot be."""
        if name not in self._declared:
            raise UserError(Problem(f"there is no secret `{name}`", suggest(name, list(self._declared), "secret")))
        declared, source = self._declared[name], self.source(name)
        if declared.generate is None:
            how = declared.renew or "write the new value where the old one stands, then `gpuhost secrets sync`"
            raise UserError(Problem(f"`{name}` is yours: nobody else can make a new one", how, self.host))
        if declared.generate == "username":
            what = f"`{name}` is a user name: it is no secret that wears out"
            raise UserError(
                Problem(what, f"write another one into {self.path}, then `gpuhost secrets sync`", self.host)
            )
        if source is None:
            raise UserError(Problem(f"`{name}` is not generated yet", "`gpuhost apply` does that", self.host))
        names = [name, *(key for key, secret in self._declared.items() if secret.derive_from == name)]
        names = [key for key in names if self.source(key) is not None]
        for key in names:
            if self.source(key) != str(self.path):
                what = f"`{key}` comes from {self.source(key)}, which is yours"
                raise UserError(Problem(what, "write a new value there, then `gpuhost secrets sync`", self.host))
        if declared.generate == "bcrypt" and self.source(str(declared.derive_from)) is None:
            what = f"`{name}` cannot be made anew: its `{declared.derive_from}` is not known here"
            raise UserError(Problem(what, f"write both into {self.path}, then `gpuhost secrets sync`", self.host))
        return names

    def rotate(self, name: str) -> None:
        """Put a new value in the place of a generated one, and of what derives from it; the old ones are retired.

        Called again before forget(), it goes on with the same new value. Raises UserError as renewable().
        """
        with envfile.locked(self.folder):
            names, retired = self.renewable(name), self.retired()
            old = {key: self.value(key) for key in names}
            if self.is_rotating(names):
                return
            retired |= {key: list(dict.fromkeys([*retired.get(key, []), value])) for key, value in old.items()}
            envfile.replace(self._retired, json.dumps(retired) + "\n")
            envfile.replace(self.path, envfile.with_values(self._text(), self._as_written(self._new_values(names))))

    def is_rotating(self, names: Iterable[str]) -> bool:
        """True when each of them has a new value already, and that the old one is refused is still to be proved."""
        retired = self.retired()
        return all(key in retired and self.value(key) not in retired[key] for key in names)

    def forget(self, proved: Mapping[str, Iterable[str]]) -> None:
        """Forget these retired values (name -> values): every service refuses them. Others stay, which another run
        may have retired meanwhile."""
        with envfile.locked(self.folder):
            left = {
                name: [value for value in values if value not in proved.get(name, [])]
                for name, values in self.retired().items()
            }
            left = {name: values for name, values in left.items() if values}
            if left:
                envfile.replace(self._retired, json.dumps(left) + "\n")
            elif self._retired.exists():
                envfile.remove(self._retired)

    def _text(self) -> str:
        return envfile.read_private(self.path) or ""

    def _as_written(self, values: Mapping[str, str]) -> dict[str, str]:
        """The values under the names under which this host's file holds them: an alias stays an alias."""
        there = envfile.read(self.path)
        found: dict[str, str] = {}
        for name, value in values.items():
            names = [alias for alias in (name, *self._declared[name].aliases) if alias in there] or [name]
            found |= dict.fromkeys(names, value)
        return found

    def _new_values(self, names: Iterable[str]) -> dict[str, str]:
        """A new value for each of `names`, sources before what derives from them."""
        known = {name: value for name, (value, _) in self.known().items()}
        made: dict[str, str] = {}
        for name in names:
            problems = self.mismatched([name])
            if problems and name not in known:
                raise UserError(*problems)
            made[name] = _new_value(self._declared[name], {**known, **made})
        return made

    def _absent(self, name: str) -> Problem:
        hint = f"write `{name}=...` into {self.shared} or {self.path}"
        return Problem(f"the secret `{name}` is not set", hint, self.host)

    def _with_sources(self, names: Iterable[str]) -> Iterator[str]:
        for name in names:
            source = self._declared[name].derive_from
            if source:
                yield source
            yield name

    def known(self) -> Mapping[str, tuple[str, str]]:
        """name -> (value, source), the last source's; the same mapping as long as no file of a source changes: a plan
        asks hundreds of times."""
        files = tuple(map(_seen, (self.shared, self.encrypted, self.path)))
        if self._read is None or self._read[0] != files:
            self._read = (files, self._from_sources())
        return self._read[1]

    def _from_sources(self) -> dict[str, tuple[str, str]]:
        sources = {
            str(self.shared): envfile.read(self.shared),
            str(self.encrypted): sops.read(self.encrypted),
            str(self.path): envfile.read(self.path),
            ENVIRONMENT: self._environ,
        }
        found: dict[str, tuple[str, str]] = {}
        for where, source in sources.items():
            for name, secret in self._declared.items():
                values = {alias: source[alias] for alias in (name, *secret.aliases) if source.get(alias)}
                if len(set(values.values())) > 1:
                    what = f"{' and '.join(values)} hold different values ({where})"
                    raise UserError(Problem(what, "keep one of them: they are one secret"))
                if values:
                    found[name] = (next(iter(values.values())), where)
        return found


def tracked(stores: Iterable[SecretStore]) -> list[Problem]:
    """A problem for each file of secrets that git tracks: it would leave with the next push. Of what several hosts have
    together git is asked once."""
    places = [place for each in stores for place in ((each.shared.parent, each.shared.name), (each.folder, "."))]
    return [
        Problem(f"{path} holds secrets and is tracked by git", f"{_untrack(path)}, then change what it held")
        for place in dict.fromkeys(places)
        for path in _tracked(*place)
        if path.name.endswith((".env", ".retired.json")) and not path.name.endswith(".sops.env")
    ]


def _seen(path: Path) -> tuple[int, ...] | None:
    """What changes when a file does, or who may read it; None when it cannot be looked at."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size, found.st_mode


def _new_value(secret: Secret, known: Mapping[str, str]) -> str:
    match secret.generate:
        case "bcrypt":
            password = known[str(secret.derive_from)]
            rounds = _ROUNDS_OF_LONG if len(password) >= _LONG else _ROUNDS
            return bcrypt.hashpw(password.encode(), bcrypt.gensalt(rounds)).decode()
        case "password":
            return entropy.token_urlsafe(_PASSWORD_BYTES)
        case "username":
            return "genai"
        case _:
            return entropy.token_urlsafe(32)


def _too_long(found: tuple[str, str] | None) -> bool:
    return found is not None and len(found[0].encode()) > BCRYPT_BYTES


def _is_hash_of(hashed: str, password: str) -> bool:
    try:
        return bcrypt.checkpw(password.encode(), hashed.encode())
    except ValueError:  # no hash at all, or a password longer than bcrypt takes
        return False


def _untrack(path: Path) -> str:
    """The command, wherever the person stands."""
    return f"git -C {path.parent} rm --cached {path.name}" if path.is_absolute() else f"git rm --cached {path}"


def _tracked(folder: Path, name: str) -> list[Path]:
    """What git tracks of a folder's file `name`; `.`: of the whole folder."""
    # Whoever owns the checkout: a question about files runs nothing that stands in it.
    ask = ["git", "-c", "safe.directory=*", "-C", str(folder), "ls-files", "-z", "--", name]
    try:
        done = subprocess.run(ask, capture_output=True, check=False, text=True)
    except FileNotFoundError:  # no git: nothing is pushed from here
        return []
    return [folder / path for path in done.stdout.split("\0") if path]
