"""What the server needs to know before it starts, from its environment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar, cast, get_args

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

HOST = "0.0.0.0"  # inside the container; which host address publishes it is the compose file's decision
PORT = 8000
TOKEN_VARIABLE = "SD35_API_KEY"  # noqa: S105 - the variable's name, not its value
TOKEN_LENGTH_MIN = 32

Load = Literal["start", "first-request"]
Offload = Literal["none", "model"]
Device = Literal["cuda", "cpu"]
T = TypeVar("T")


class SettingsError(Exception):
    """The server must not start. `str()` is one sentence, `hint` says what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True)
class Limits:
    """What a client may ask for, and how much of it waits or is remembered."""

    pixels: int = 1536 * 1024
    side: int = 1536
    steps: int = 100
    images: int = 4
    queue: int = 16
    history: int = 200


@dataclass(frozen=True)
class Settings:
    """`model` at `revision` (a commit or a branch) is read from the Hugging Face cache, never downloaded."""

    token: str = field(repr=False)
    model: str = "stabilityai/stable-diffusion-3.5-large"
    revision: str = "main"
    load: Load = "first-request"
    offload: Offload = "none"
    device: Device = "cuda"
    cache: Path = Path("/cache/huggingface/hub")
    outputs: Path = Path("/outputs")
    limits: Limits = Limits()


def read(environ: Mapping[str, str]) -> Settings:
    """Raises `SettingsError` for the first thing that is wrong."""
    default = Settings("")
    return Settings(
        token=_token(environ),
        model=_repository(environ, "SD35_MODEL", default.model),
        # It becomes a folder's name in the cache.
        revision=_revision(environ, "SD35_REVISION", default.revision),
        load=_choice(environ, "SD35_LOAD", default.load, Load),
        offload=_choice(environ, "SD35_OFFLOAD", default.offload, Offload),
        device=_choice(environ, "SD35_DEVICE", default.device, Device),
        cache=Path(environ["HF_HOME"]) / "hub" if "HF_HOME" in environ else default.cache,
        outputs=Path(environ.get("SD35_OUTPUTS", str(default.outputs))),
        limits=Limits(
            pixels=_number(environ, "SD35_MAX_PIXELS", default.limits.pixels),
            side=_number(environ, "SD35_MAX_SIDE", default.limits.side),
            steps=_number(environ, "SD35_MAX_STEPS", default.limits.steps),
            images=_number(environ, "SD35_MAX_IMAGES", default.limits.images),
            queue=_number(environ, "SD35_QUEUE", default.limits.queue),
            history=_number(environ, "SD35_HISTORY", default.limits.history),
        ),
    )


def _token(environ: Mapping[str, str]) -> str:
    token = environ.get(TOKEN_VARIABLE, "").strip()
    if not token:
        raise SettingsError(
            f"`{TOKEN_VARIABLE}` is not set, and nothing is served without a token",
            f"set `{TOKEN_VARIABLE}` to at least {TOKEN_LENGTH_MIN} random characters: `openssl rand -hex 32`",
        )
    if len(token) < TOKEN_LENGTH_MIN:
        raise SettingsError(
            f"`{TOKEN_VARIABLE}` has {len(token)} characters, fewer than {TOKEN_LENGTH_MIN}",
            "make a longer one: `openssl rand -hex 32`",
        )
    return token


def _repository(environ: Mapping[str, str], name: str, default: str) -> str:
    value = environ.get(name, default)
    try:
        validate_repo_id(value)
    except HFValidationError:
        owner = None
    else:
        owner = value.rpartition("/")[0]
    if not owner:
        raise SettingsError(f"`{name}` is `{value}`", f"write a repository of the hub, such as `{default}`")
    return value


def _revision(environ: Mapping[str, str], name: str, default: str) -> str:
    value = environ.get(name, default)
    if not re.fullmatch(r"[\w-][\w.-]*", value, re.ASCII):
        raise SettingsError(f"`{name}` is `{value}`", f"write a commit or a branch, such as `{default}`")
    return value


def _choice(environ: Mapping[str, str], name: str, default: T, choices: object) -> T:
    known = get_args(choices)
    value = environ.get(name, default)
    if value not in known:
        raise SettingsError(f"`{name}` is `{value}`", f"write one of {', '.join(f'`{each}`' for each in known)}")
    return cast(T, value)


def _number(environ: Mapping[str, str], name: str, default: int) -> int:
    value = environ.get(name, str(default))
    if not re.fullmatch(r"[1-9][0-9]{0,8}", value):
        raise SettingsError(f"`{name}` is `{value}`", f"write a whole number from 1, such as {default}")
    return int(value)
