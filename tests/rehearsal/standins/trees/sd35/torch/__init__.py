"""Stand-in for PyTorch: what files/sd35 takes of it."""

from . import cuda as cuda

bfloat16, float32 = "bfloat16", "float32"


class Generator:
    def __init__(self, device: str) -> None:
        self.seed = 0

    def manual_seed(self, seed: int) -> "Generator":
        self.seed = seed
        return self
