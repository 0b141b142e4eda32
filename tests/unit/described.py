"""A JSON document that a command printed, read by what describes it (docs/reference/json.md)."""

from __future__ import annotations

import json
from typing import Any

from gpuhost.plan.schema import DOCUMENTS


def described(name: str, text: str) -> Any:
    """The document. Raises pydantic's ValidationError for a field that the description lacks, or has otherwise."""
    DOCUMENTS[name].model_validate_json(text)
    return json.loads(text)
