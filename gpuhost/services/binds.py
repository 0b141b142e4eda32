"""What containers have of the host's folders and files: whether it is still what lies there. Pure."""

from __future__ import annotations

from hostside.protocol import Held


def is_lost(held: Held) -> bool:
    """True when the container has another thing than what lies at the source now: that was removed or made anew.

    What cannot be seen inside, because the process ended meanwhile, says nothing.
    """
    return held.held is not None and held.held != held.now


def lost_reason(held: Held) -> str:
    """In words, for one that is lost."""
    what = "was removed" if held.now is None else "was made anew"
    return f"{held.source} {what} after it started: it holds the old one as {held.target}"
