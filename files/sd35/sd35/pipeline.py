"""The model itself, by diffusers. Imported by nobody but the process that holds it: torch alone takes seconds."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import diffusers
import torch
import transformers
from diffusers import StableDiffusion3Pipeline

from sd35.wanted import Source, Wanted


class Pipeline:
    """A loaded model."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe

    def picture(self, wanted: Wanted, seed: int, on_step: Callable[[int], None]) -> bytes:
        """A PNG. `on_step` is told each step that is done, from 1; what it raises ends the work."""

        def ended(_: Any, step: int, __: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            on_step(step + 1)
            return tensors

        made = self._pipe(
            prompt=wanted.prompt,
            negative_prompt=wanted.negative_prompt,
            width=wanted.width,
            height=wanted.height,
            num_inference_steps=wanted.steps,
            guidance_scale=wanted.guidance_scale,
            # On the CPU, so that a seed gives the same noise on every card.
            generator=torch.Generator("cpu").manual_seed(seed),
            callback_on_step_end=ended,
        )
        png = io.BytesIO()
        made.images[0].save(png, "PNG")
        return png.getvalue()

    def rest(self) -> None:
        """Gives back what the last job took beyond the model."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def load(source: Source) -> Pipeline:
    """Raises whatever diffusers and torch raise."""
    if source.device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("torch sees no GPU")
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    pipe = StableDiffusion3Pipeline.from_pretrained(
        source.folder,
        dtype=torch.bfloat16 if source.device == "cuda" else torch.float32,
        local_files_only=True,
        use_safetensors=True,  # other formats of weights can run code
        # Each part goes where it stays: the host's memory never holds them all.
        device_map=None if source.offload else source.device,
    )
    pipe.set_progress_bar_config(disable=True)
    if source.offload:
        pipe.enable_model_cpu_offload(device=source.device)
    return Pipeline(pipe)
