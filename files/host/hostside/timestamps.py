"""Docker's timestamps. Standard library."""

from __future__ import annotations

import calendar
import re
import time

_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?Z", re.ASCII)


def unix_ns(text: str) -> int:
    """A timestamp of Docker's as Unix nanoseconds, to the last digit; 0: there is none, or it is Go's zero time.

    (Python 3.10's fromisoformat knows neither Z nor nanoseconds.)
    """
    found = _TIME.fullmatch(text)
    if found is None or found[1].startswith("0001"):
        return 0
    try:
        whole_s = calendar.timegm(time.strptime(found[1], "%Y-%m-%dT%H:%M:%S"))
    except ValueError:  # a 13th month
        return 0
    return whole_s * 10**9 + int((found[2] or "").ljust(9, "0")[:9])
