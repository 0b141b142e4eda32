"""What clients send, and what of it becomes a job. Pure: neither files nor the clock; `random_seed` is given."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from sd35.refusals import Refusal
from sd35.settings import Limits
from sd35.wanted import Wanted

MULTIPLE = 16  # of pixels: the VAE makes 8 of one latent, the transformer takes patches of 2
SIDE_MIN = 256
PROMPT_CHARS = 4000  # the encoders read the first 77 (CLIP) and 256 (T5) tokens of it
GUIDANCE_MAX = 30.0
SEED_MAX = 2**32 - 1
DEFAULT_STEPS = 28
DEFAULT_GUIDANCE = 7.0


class _Body(BaseModel):
    # Strict: `"28"` and `true` are no numbers. Protected names: `model` is a field of OpenAI's.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=())


class Generate(_Body):
    """`POST /generate`."""

    prompt: str
    negative_prompt: str | None = None
    width: int = 1024
    height: int = 1024
    num_inference_steps: int = DEFAULT_STEPS
    guidance_scale: float = Field(default=DEFAULT_GUIDANCE, allow_inf_nan=False)
    num_images: int = 1
    seed: int | None = None

    def wanted(self, limits: Limits, random_seed: Callable[[], int]) -> Wanted:
        """The job. Raises `Refusal`."""
        _within("num_images", self.num_images, 1, limits.images)
        return _checked(self, (self.width, self.height), ("width", "height"), self.num_images, limits, random_seed)


class Images(_Body):
    """`POST /v1/images/generations`. What OpenAI's has and this model cannot do is accepted where it asks for what is
    done anyhow; the last four are additions of ours, under the names of `/generate`."""

    prompt: str
    model: str | None = None
    n: int | None = 1
    size: str | None = "auto"
    response_format: str | None = "b64_json"
    output_format: Literal["png"] | None = None
    quality: Literal["auto", "standard"] | None = None
    background: Literal["auto", "opaque"] | None = None
    stream: Literal[False] | None = None
    user: str | None = None
    negative_prompt: str | None = None
    num_inference_steps: int = DEFAULT_STEPS
    guidance_scale: float = Field(default=DEFAULT_GUIDANCE, allow_inf_nan=False)
    seed: int | None = None

    def wanted(self, limits: Limits, random_seed: Callable[[], int], repo: str) -> Wanted:
        """The job. Raises `Refusal`."""
        if self.model not in (None, repo, model_id(repo)):
            message = f"the model `{self.model}` is not here, `{model_id(repo)}` is"
            raise Refusal(404, "model_not_found", message, "model")
        if self.response_format not in (None, "b64_json"):
            message = "pictures are given as `b64_json`: files are served at no address"
            raise Refusal(400, "unsupported_value", message, "response_format")
        count = 1 if self.n is None else self.n
        _within("n", count, 1, limits.images)
        return _checked(self, _size(self.size or "auto"), ("size", "size"), count, limits, random_seed)


def model_id(repo: str) -> str:
    """The model's name for clients."""
    return repo.partition("/")[2]


def _size(text: str) -> tuple[int, int]:
    if text == "auto":
        return 1024, 1024
    found = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", text)
    if not found:
        raise Refusal(400, "invalid_value", "`size` is `auto` or WIDTHxHEIGHT such as `1024x1024`", "size")
    return int(found[1]), int(found[2])


def _checked(
    body: Generate | Images,
    size: tuple[int, int],
    names: tuple[str, str],
    count: int,
    limits: Limits,
    random_seed: Callable[[], int],
) -> Wanted:
    width, height = size
    for what, param, pixels in zip(("the width", "the height"), names, size, strict=True):
        if not SIDE_MIN <= pixels <= limits.side or pixels % MULTIPLE:
            message = f"{what} is a multiple of {MULTIPLE} from {SIDE_MIN} to {limits.side}, not {pixels}"
            raise Refusal(400, "invalid_value", message, param)
    if width * height > limits.pixels:
        message = f"{width}x{height} are {width * height} pixels, more than {limits.pixels}"
        raise Refusal(400, "invalid_value", message, names[0])
    _within("num_inference_steps", body.num_inference_steps, 1, limits.steps)
    _within("guidance_scale", body.guidance_scale, 0, GUIDANCE_MAX)
    if body.seed is not None:
        _within("seed", body.seed, 0, SEED_MAX)
    if not body.prompt.strip():
        raise Refusal(400, "invalid_value", "`prompt` is empty", "prompt")
    negative = body.negative_prompt or ""
    for param, text in (("prompt", body.prompt), ("negative_prompt", negative)):
        if len(text) > PROMPT_CHARS:
            message = f"`{param}` has {len(text)} characters, more than {PROMPT_CHARS}"
            raise Refusal(400, "invalid_value", message, param)
        if re.search("[\ud800-\udfff]", text):
            raise Refusal(400, "invalid_value", f"`{param}` holds half of a character", param)
    seed = random_seed() if body.seed is None else body.seed
    return Wanted(body.prompt, negative, width, height, body.num_inference_steps, body.guidance_scale, count, seed)


def _within(param: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise Refusal(400, "invalid_value", f"`{param}` is from {least:g} to {most:g}, not {value:g}", param)
