"""What differs in a folder, in words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gpuhost.files.trees import differences, first_difference
from hostside.protocol.trees import TreeDifference, TreeEntry, TreeSeen

FILE = TreeEntry("file", 0o644, 10001, 10001, "a" * 64, 41)
LINK = TreeEntry("link", 0o777, 10001, 10001, "python3", 0)


def seen(*first: TreeDifference, more: int = 0) -> TreeSeen:
    return TreeSeen("recorded", 7, len(first) + more, list(first), 0, "")


@pytest.mark.parametrize(
    ("recorded", "found", "sentence", "before", "after"),
    [
        (FILE, None, "is gone", None, "a file"),
        (None, LINK, "was added", "a link", None),
        (
            FILE,
            replace(FILE, size=0, text="", mode=0o600),
            "has 0 bytes, not 41",
            "0 bytes, mode 600",
            "41 bytes, mode 644",
        ),
        (FILE, replace(FILE, text="b" * 64), "has other bytes", f"sha256 {'b' * 12}", f"sha256 {'a' * 12}"),
        (FILE, replace(FILE, text=""), "cannot be read", "sha256 unreadable", f"sha256 {'a' * 12}"),
        (FILE, replace(FILE, mode=0o4755, text=""), "has mode 4755, not 644", "mode 4755", "mode 644"),
        (FILE, replace(FILE, uid=0, text=""), "belongs to 0:10001, not 10001:10001", "owner 0:10001", None),
        (FILE, replace(LINK, mode=0o644), "is a link, not a file", "a link", "a file"),
        (LINK, replace(LINK, text="/bin/sh"), "leads to /bin/sh, not python3", "-> /bin/sh", "-> python3"),
        (
            replace(LINK, kind="folder", text=""),
            replace(LINK, kind="mount", text=""),
            "is a mount, not a folder",
            "a",
            "",
        ),
    ],
)
def test_one_difference(
    recorded: TreeEntry | None, found: TreeEntry | None, sentence: str, before: str | None, after: str | None
) -> None:
    told = seen(TreeDifference("code/x.py", recorded, found))
    assert first_difference(told) == f"code/x.py {sentence}"
    [difference] = differences(told)
    assert difference.field == "code/x.py"
    assert (difference.before or "").startswith(before or "") and (difference.after or "").startswith(after or "")
    assert (difference.before is None, difference.after is None) == (found is None, recorded is None)


def test_what_was_not_read_is_not_said_to_have_other_bytes() -> None:
    [difference] = differences(seen(TreeDifference("x", FILE, replace(FILE, mode=0o600, text=""))))
    assert (difference.before, difference.after) == ("mode 600", "mode 644")


@pytest.mark.parametrize(("more", "others"), [(0, ""), (1, " and 1 more differs"), (4000, " and 4000 more differ")])
def test_how_many_more(more: int, others: str) -> None:
    assert first_difference(seen(TreeDifference("x", FILE, None), more=more)) == f"x is gone{others}"
