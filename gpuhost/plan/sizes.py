"""Sizes and durations as people read them. Pure."""

from __future__ import annotations


def size(count: int) -> str:
    """`23.8 GB`, `335 MB`, `512 B`; powers of ten, as the hub shows them."""
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            value = count / factor
            return f"{value:.1f} {unit}" if value < 100 else f"{value:.0f} {unit}"
    return f"{count} B"


def about(seconds: float) -> str:
    """`40 s`, `12 min`, `2.5 h`, `3 days`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{round(seconds / 86400)} days"
