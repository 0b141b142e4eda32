"""Sizes and durations as people read them."""

from __future__ import annotations

import pytest

from gpuhost.plan.sizes import about, size


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (99_900, "99.9 kB"),
        (100_000, "100 kB"),
        (999_999, "1000 kB"),
        (10**6, "1.0 MB"),
        (335_300_000, "335 MB"),
        (10**9, "1.0 GB"),
        (23_800_000_000, "23.8 GB"),
        (10**12, "1.0 TB"),
        (250 * 10**12, "250 TB"),
    ],
)
def test_a_size_has_two_or_three_digits(count: int, shown: str) -> None:
    assert size(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "1 s"),
        (0.4, "1 s"),
        (40.4, "40 s"),
        (89.4, "89 s"),
        (90, "2 min"),
        (720, "12 min"),
        (5399, "90 min"),
        (5400, "1.5 h"),
        (9000, "2.5 h"),
        (48 * 3600 - 1, "48.0 h"),
        (48 * 3600, "2 days"),
        (3 * 86400, "3 days"),
    ],
)
def test_a_duration_is_told_in_the_unit_that_suits_it(seconds: float, shown: str) -> None:
    assert about(seconds) == shown
