"""What is to be made, as it goes from the server to the process that holds the model. Standard library."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Wanted:
    """One job. The picture number i (from 0) is made with the seed `seed + i`, so each can be made again alone."""

    prompt: str
    negative_prompt: str
    width: int
    height: int
    steps: int
    guidance_scale: float
    count: int
    seed: int


@dataclass(frozen=True)
class Source:
    """Where the model lies and how it is held. `offload`: its parts wait in the host's memory and are on the GPU one
    after another, which takes more host memory and time, and less GPU memory."""

    folder: str
    device: str
    offload: bool
