"""Stand-in for NVML: the card that the container was given, from the stand-in toolkit's file of it."""

from pathlib import Path
from types import SimpleNamespace

MIB = 2**20
CARDS = Path("/usr/lib/nvidia-standin")


class NVMLError(Exception):
    pass


def nvmlInit() -> None:
    if not [*CARDS.glob("*.gpu")]:
        raise NVMLError("Driver Not Loaded")


def nvmlShutdown() -> None:
    pass


def nvmlDeviceGetHandleByIndex(index: int) -> Path:
    return sorted(CARDS.glob("*.gpu"))[index]


def nvmlDeviceGetMemoryInfo(card: Path) -> SimpleNamespace:
    fields = dict(line.split("=", 1) for line in card.read_text().splitlines())
    total, used = int(fields["total"]) * MIB, int(fields["used"]) * MIB
    return SimpleNamespace(total=total, used=used, free=total - used)
