"""Which files of a repository a model is, as huggingface_hub's allow_patterns and ignore_patterns choose. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase


def chosen(paths: Iterable[str], allow: Sequence[str], ignore: Sequence[str]) -> list[str]:
    """The paths that one of `allow` matches and none of `ignore`, sorted. A pattern that ends in `/` is a folder.

    The rule of `huggingface_hub.utils.filter_repo_objects`, without its half second of import; a test compares them.
    """
    return sorted(path for path in paths if _matches(path, allow) and not _matches(path, ignore))


def _matches(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(path, f"{pattern}*" if pattern.endswith("/") else pattern) for pattern in patterns)
