"""How the suite is spread over the machine's cores: what shares a host stays together, the longest comes first."""

from __future__ import annotations

import pytest

REHEARSAL_LIMIT_S = 900
# Groups of rehearsals (marker xdist_group), the longest first; a worker takes the next when it is through with one.
# Files of unit tests come last and fill the gaps.
LONGEST_FIRST = ("vault", "deploy", "installer", "path", "troubled", "no gpu", "self", "stand-ins", "refused", "leaks")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A group and a time limit for every test, and the order of the groups."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
        if item.get_closest_marker("rehearsal") and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(REHEARSAL_LIMIT_S))
    items.sort(key=lambda item: _rank(item))


def _rank(item: pytest.Item) -> int:
    marker = item.get_closest_marker("xdist_group")
    assert marker
    return LONGEST_FIRST.index(marker.args[0]) if marker.args[0] in LONGEST_FIRST else len(LONGEST_FIRST)
