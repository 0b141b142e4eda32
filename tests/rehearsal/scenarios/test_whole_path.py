"""From a bare host to answering services: the whole path, seen from outside."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ..instruments.converged import GPU, save_converged
from ..instruments.proof import Proof
from ..world.freshhost import FreshHost
from ..world.world import World

pytestmark = pytest.mark.rehearsal
Boot = Callable[..., FreshHost]


def test_the_whole_path_is_proved_and_a_second_run_changes_nothing(furnished: World) -> None:
    """Always from a bare host, whatever the cache holds; what comes out is saved for the other scenarios."""
    proved = Proof(furnished.boot("ws1", gpus=[GPU]))
    proved.run()
    performed = next(run["performed"] for run in proved.runs if run["run"] == "apply on the bare host")
    assert len(performed) > 50
    assert {(probe["service"], probe["name"], probe["status"]) for probe in proved.probes} >= {
        ("comfyui-qwen", "/system_stats is refused without a token", 401),
        ("comfyui-qwen", "/system_stats answers with the token", 200),
        ("orchestrator", "/services is refused without a token", 401),
        ("orchestrator", "/services answers with the token", 200),
    }
    save_converged(furnished, proved.host)
    furnished.destroy(proved.host)
