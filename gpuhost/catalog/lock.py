"""`lock.json`: what every name in the data stood for when somebody looked, and since then means. Written by `gpuhost
lock`, reviewed as a diff.

It lies in the folder of the site; what the site's does not name, the one beside gpuhost's own group_data may.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic_core import ErrorDetails

from gpuhost.catalog.messages import refuse
from gpuhost.errors import Problem, UserError

FILE = "lock.json"
_FAULTS_SHOWN = 3
_MAX_BYTES = 64 << 20


def _path_in_repository(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\0" in path:
        refuse(f"`{path}` is no path in a repository", "write it as the repository's page shows it")
    return path


Commit = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
RepositoryPath = Annotated[str, AfterValidator(_path_in_repository)]
# One package in one version, and the sha256 of each of its files: pip takes no other.
LockedRequirement = Annotated[
    str,
    StringConstraints(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9.!+_-]+( ; [^\n\r\\#]+?)?( --hash=sha256:[0-9a-f]{64})+$"
    ),
]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class LockedFile(_Entry):
    """A file of a repository. `size`: bytes; `sha256`: of files in LFS, else None; `git_sha1`: git's blob id."""

    size: int = Field(ge=0)
    sha256: Sha256 | None
    git_sha1: Commit


class LockedModel(_Entry):
    """A repository at the commit that its revision was."""

    commit: Commit
    files: dict[RepositoryPath, LockedFile]


class LockedImage(_Entry):
    """`digest`: of the manifest that the reference named; of an image for several platforms that of their list.
    `download_bytes`: of an image that hosts pull, its layers for linux/amd64 as they are sent; None when nobody knows.
    """

    digest: Digest
    download_bytes: int | None = Field(default=None, ge=0)


class LockedInstall(_Entry):
    """The packages of an install. `subject` (in the file `for`): the digest of the parts of its entry that they were
    resolved from; an entry that says something else is another one."""

    subject: Sha256 = Field(alias="for")
    requirements: list[LockedRequirement] = Field(min_length=1)


class Lock(_Entry):
    """A lock.json. `models`: repository -> revision as in the data -> what it was; `images`: reference as in the data;
    `installs`: name."""

    version: Literal[1]
    models: dict[str, dict[str, LockedModel]] = {}
    images: dict[str, LockedImage] = {}
    installs: dict[str, LockedInstall] = {}


EMPTY = Lock(version=1)


@dataclass(frozen=True)
class Pins:
    """What is locked for a site. `own`: its lock.json; `shipped`: gpuhost's; `shown`: the own one's name for people."""

    own: Lock = EMPTY
    shipped: Lock = EMPTY
    shown: str = FILE

    def merged(self) -> Lock:
        """All that counts, in one."""
        models = {
            repo: {**self.shipped.models.get(repo, {}), **self.own.models.get(repo, {})}
            for repo in {**self.shipped.models, **self.own.models}
        }
        images = {**self.shipped.images, **self.own.images}
        return Lock(version=1, models=models, images=images, installs={**self.shipped.installs, **self.own.installs})

    def digest(self, reference: str) -> str | None:
        """The digest of an image, by its reference as in the data."""
        found = self.own.images.get(reference) or self.shipped.images.get(reference)
        return found.digest if found else None

    def image_bytes(self, reference: str) -> int | None:
        """What pulling an image downloads at most, by its reference as in the data."""
        found = self.own.images.get(reference) or self.shipped.images.get(reference)
        return found.download_bytes if found else None

    def model(self, repo: str, revision: str) -> LockedModel | None:
        """What a revision of a repository is."""
        return self.own.models.get(repo, {}).get(revision) or self.shipped.models.get(repo, {}).get(revision)

    def requirements(self, install: str, subject: str) -> Sequence[str] | None:
        """The packages of an install whose entry has the digest `subject`; None when none are locked for it."""
        found = [lock.installs.get(install) for lock in (self.own, self.shipped)]
        return next((each.requirements for each in found if each and each.subject == subject), None)

    def stale(self, install: str, subject: str) -> bool:
        """True when the site's lock.json speaks of another entry of this name: a lock that somebody made is not passed
        over in silence."""
        return install in self.own.installs and self.own.installs[install].subject != subject


NONE = Pins()


def read(folder: Path, shipped: Path, shown: str = FILE) -> Pins:
    """The locks of a site (`folder`) over gpuhost's own (in the folder `shipped`). Raises UserError."""
    own = _read(folder / FILE, shown)
    if folder.resolve() == shipped.resolve():
        return Pins(own, shown=shown)
    return Pins(own, _read(shipped / FILE, f"gpuhost's own {FILE}"), shown)


def _read(file: Path, shown: str) -> Lock:
    try:
        with file.open("rb") as handle:
            content = handle.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return EMPTY
    except OSError as error:
        raise UserError(Problem(f"{shown} cannot be read: {error.strerror}", "make it a file of yours")) from None
    hint = "`gpuhost lock` writes it: take back what was changed by hand, or remove it and lock anew"
    if len(content) > _MAX_BYTES:
        raise UserError(Problem(f"{shown} is larger than {_MAX_BYTES >> 20} MiB", hint))
    try:
        json.loads(content, object_pairs_hook=_unique)
        return Lock.model_validate_json(content)
    except ValidationError as error:
        raise UserError(*(Problem(f"{shown}: {fault}", hint) for fault in _faults(error))) from None
    except (ValueError, RecursionError) as error:
        raise UserError(Problem(f"{shown} is not JSON: {error}", hint)) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A name that stands twice (a merge that went wrong) would be taken once, in silence."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"`{next(name for name in names if names.count(name) > 1)}` stands twice")
    return found


def _faults(error: ValidationError) -> list[str]:
    return [_fault(fault) for fault in error.errors()[:_FAULTS_SHOWN]]


def _fault(fault: ErrorDetails) -> str:
    where = f"`{'.'.join(map(str, fault['loc']))}`: " if fault["loc"] else ""
    if fault["type"] == "string_pattern_mismatch":
        shown = str(fault["input"])
        return f"{where}`{shown if len(shown) <= 60 else shown[:57] + '...'}` is not of the right form"
    return f"{where}{fault['msg'][0].lower()}{fault['msg'][1:]}"


def text(lock: Lock) -> str:
    """As it is written: sorted and indented, so that a diff of two shows what moved."""
    content = lock.model_dump(mode="json", by_alias=True)
    for image in content["images"].values():
        if image["download_bytes"] is None:
            del image["download_bytes"]
    content = {"version": content.pop("version"), **{kind: content[kind] for kind in sorted(content)}}
    ordered = {key: _ordered(value) for key, value in content.items()}
    return json.dumps(ordered, indent=2, ensure_ascii=False) + "\n"


def _ordered(value: Any) -> Any:
    """Names sorted; the fields of an entry as its type has them, which are few, stand sorted as well."""
    if isinstance(value, Mapping):
        return {key: _ordered(each) for key, each in sorted(value.items())}
    return value


def write(folder: Path, lock: Lock) -> None:
    """Replace the lock.json of a site at one moment, whole. Raises UserError."""
    file = folder / FILE
    # What a link points to is replaced, the link stays.
    path = file.resolve()
    new = path.with_name(f".{path.name}.new")
    try:
        with new.open("w", encoding="utf-8") as handle:
            handle.write(text(lock))
            handle.flush()
            os.fsync(handle.fileno())
        new.replace(path)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise UserError(
            Problem(f"{file} cannot be written: {error.strerror}", "make room, or the folder yours")
        ) from None
