"""What a guide of docs/howto shows, so that a rehearsal types it as it stands there."""

from __future__ import annotations

import re

from ..world.machine import PROJECT

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def shown(page: str, language: str) -> list[str]:
    """The blocks of a guide in a language, in their order."""
    text = (PROJECT / "docs/howto" / f"{page}.md").read_text()
    return [block for found, block in BLOCK.findall(text) if found == language]
