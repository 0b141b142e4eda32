"""A file as it should be, and why it must be written. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from gpuhost.files.facts import BYTES_MAX, FileState
from gpuhost.plan.change import Change, Resource


@dataclass(frozen=True)
class FileSpec:
    """A file as it should be. `content` is asked for when needed and may raise NotYet (a secret to be generated).

    `secret`: it may hold one, so its hash is keyed.
    """

    path: str
    content: Callable[[], str]
    mode: str = "644"
    user: str = "root"
    group: str = "root"
    secret: bool = False


def plain(path: str, text: str, mode: str = "644", user: str = "root", group: str = "root") -> FileSpec:
    """A file whose content is known already."""
    return FileSpec(path, lambda: text, mode, user, group)


def reason(wanted: FileSpec, content: str | None, observed: FileState | None, key: str = "") -> str | None:
    """Why a file must be written, None when it is right. `content` None: it holds a secret still to be generated;
    `key`: of the observed hash, when the file may hold a secret."""
    if observed is None:
        return "it does not exist"
    if observed.kind not in ("regular file", "regular empty file"):
        return f"a {observed.kind} is in its place"
    if content is None:
        return "it holds a secret that will be generated"
    if not same(wanted, content, observed, key):
        return "the content differs"
    if observed.mode != wanted.mode:
        return f"the mode is {observed.mode}, not {wanted.mode}"
    if (observed.user, observed.group) != (wanted.user, wanted.group):
        return f"the owner is {observed.user}:{observed.group}, not {wanted.user}:{wanted.group}"
    return None


def encoded(content: str) -> bytes:
    """The bytes of a content; of a file that is no UTF-8 text those that it had."""
    assert len(content) <= BYTES_MAX, "a host reads no more of a file"
    return content.encode("utf-8", "surrogateescape")


def same(wanted: FileSpec, content: str | None, observed: FileState | None, key: str = "") -> bool:
    """True when the content is right, whoever owns or may read it."""
    if content is None or observed is None:
        return False
    return hashlib.sha256(encoded((key if wanted.secret else "") + content)).hexdigest() == observed.sha256


def reconcile(
    stage: str,
    wanted: Sequence[FileSpec],
    contents: Mapping[str, str | None],
    observed: Mapping[str, FileState],
    key: str = "",
    scope: Literal["", "rendered"] = "",
) -> list[Change]:
    """The files to write, in order."""
    changes = []
    for spec in wanted:
        found = observed.get(spec.path)
        why = reason(spec, contents[spec.path], found, key)
        if why:
            changes.append(Change(stage, Resource("file", spec.path), "write" if found else "create", why, scope=scope))
    return changes
