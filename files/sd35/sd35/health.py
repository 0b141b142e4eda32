"""What `/health` says. Pure."""

from __future__ import annotations

from typing import Literal

from sd35.model import State
from sd35.settings import Device, Load

Status = Literal["ok", "loading", "stopping", "model missing", "model failed", "no GPU"]


def status(state: State, was_ready: bool, load: Load, device: Device, gpu: bool, stopping: bool) -> Status:
    """`ok`: a picture that is asked for now is made, be it after the model was loaded (again)."""
    if stopping:
        return "stopping"
    if device == "cuda" and not gpu:
        return "no GPU"
    match state:
        case "missing":
            return "model missing"
        case "failed":
            return "model failed"
        case "loading" if load == "start" and not was_ready:
            return "loading"
        case "unloaded" if load == "start" and not was_ready:
            return "loading"  # is about to
    return "ok"
