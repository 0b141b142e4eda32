"""Takes secrets out of text before it leaves the host, where a log line or an answer may quote what we sent; and out of
what a plan shows of a file. Standard library."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

MASK = "[redacted]"

# Secrets that we were not given but recognise: a container that still has an older token logs that one.
_KNOWN_SHAPES = re.compile(r"\$2[aby]\$\d\d\$[./A-Za-z0-9]{53}|hf_[A-Za-z0-9]{30,}|(?<=Bearer )[^\s\"']{16,}")
_SHORTEST_FRAGMENT = 8  # a shorter piece of base64 is found in innocent text


class Redactor:
    """Replaces the given secrets, in every form in which programs print them, and what looks like one."""

    def __init__(self, secrets: Iterable[str]) -> None:
        forms = {form for secret in secrets if secret for form in _forms(secret)}
        # The longest first: the header's whole value before the token inside it.
        self._forms = sorted(forms, key=len, reverse=True)

    def text(self, text: str) -> str:
        for form in self._forms:
            text = text.replace(form, MASK)
        return _KNOWN_SHAPES.sub(MASK, text)


def header_secrets(value: str) -> list[str]:
    """What is secret in a header's value: `Bearer TOKEN` -> the whole and the token alone."""
    return [value, value.partition(" ")[2]]


def _forms(secret: str) -> set[str]:
    raw = secret.encode()
    plain = {secret, quote(secret, safe=""), quote_plus(secret), json.dumps(secret)[1:-1], repr(secret)[1:-1]}
    encoded = {form for shift in range(3) for form in _base64_forms(raw, shift)}
    return plain | {form for form in encoded if len(form) >= _SHORTEST_FRAGMENT}


def _base64_forms(raw: bytes, shift: int) -> set[str]:
    """The secret's own base64 digits when `shift` (mod 3) other bytes stand before it, as in `user:secret`.

    Digits that mix in bits of a neighbour, before or behind, are left out: they are not the same from case to case.
    """
    first = -(-shift * 8 // 6)
    last = (shift + len(raw)) * 8 // 6
    return {encode(b"\0" * shift + raw).decode()[first:last] for encode in (base64.b64encode, base64.urlsafe_b64encode)}
