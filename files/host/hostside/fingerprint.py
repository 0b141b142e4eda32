"""The keyed fingerprint of a secret: it tells that a value changed and gives nothing else away. Standard library."""

from __future__ import annotations

import hashlib
import hmac
import json


def fingerprint(key: str, name: str, value: str) -> str:
    """HMAC-SHA256 (64 hex digits) over the JSON of [name, value]; ASCII, so that any text has one."""
    return hmac.new(key.encode(), json.dumps([name, value]).encode(), hashlib.sha256).hexdigest()
