"""How the suite is spread over the cores: a file stays in one process, rehearsals that take longest come first."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

REHEARSAL_LIMIT_S = 1500
SAMPLE_SEED = os.environ.get("GPUHOST_SAMPLE_SEED", "20261128")
# The files of rehearsals, the longest first. But the whole path comes before all: when the cache is empty, others start
# from what it saves, and the four behind it do not. Files of unit tests come last and fill the gaps.
ORDER = (
    *("test_whole_path", "test_interrupts", "test_secrets", "test_secrets_kills", "test_troubles"),
    *("test_wsl2", "test_rebuild", "test_mirrors"),
    *("test_local", "test_all_services", "test_comfyui_installer", "test_damages", "test_without_gpu"),
    *("test_services", "test_vllm", "test_models_control", "test_models_fetch", "test_sideways", "test_binds"),
    *("test_broker", "test_lock", "test_host_layer", "test_takeover", "test_driver", "test_variants", "test_destroy"),
    "test_situations",
    *("test_models_neighbours", "test_deploy", "test_world", "test_refusals", "test_leak_scanner", "test_job"),
    *("test_shell",),
)
TIMINGS: list[tuple[str, dict[str, float]]] = []  # of each world: its id, and what took how many seconds
SHARE_A_HOST = {"test_secrets_kills": "test_secrets"}  # the vault


@pytest.hookimpl(tryfirst=True)  # before -m takes its choice
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The order of the files, the time limit of the rehearsals, and which of the sampled ones are left to the soak."""
    _leave_to_soak(items)
    for item in items:
        if _rehearsal(item) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(REHEARSAL_LIMIT_S))
    ranks = {name: rank for rank, name in enumerate(ORDER)}
    items.sort(key=lambda item: ranks.get(item.path.stem, len(ranks)) if _rehearsal(item) else len(ranks) + 1)


def _leave_to_soak(items: list[pytest.Item]) -> None:
    """Of a file marked `sampled(n)`: those marked `core`, and as many others by chance as make n, stay."""
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("sampled") and not item.get_closest_marker("soak"):
            files.setdefault(item.path, []).append(item)
    for path, found in files.items():
        [most] = (marker.args[0] for marker in found[0].iter_markers("sampled"))
        others = [item for item in found if not item.get_closest_marker("core")]
        left = max(0, min(len(others), len(found) - most))
        for item in random.Random(f"{SAMPLE_SEED} {path.name}").sample(others, left):
            item.add_marker(pytest.mark.soak)


def _rehearsal(item: pytest.Item) -> bool:
    return item.get_closest_marker("rehearsal") is not None


class _OneFileOneProcess(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
    """Gives whole files to processes, in the order above; files that share a host go together."""

    def _split_scope(self, nodeid: str) -> str:
        file = Path(nodeid.partition("::")[0])
        return str(file.with_stem(SHARE_A_HOST.get(file.stem, file.stem)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _OneFileOneProcess:
    """For every run with several processes."""
    return _OneFileOneProcess(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """What a worker told about its world; nothing when it crashed."""
    TIMINGS.extend(getattr(node, "workeroutput", {}).get("worlds", []))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Where the time of the worlds went."""
    for world_id, timings in TIMINGS:
        spent = ", ".join(f"{name} {seconds:g} s" for name, seconds in timings.items())
        terminalreporter.write_line(f"world {world_id}: {spent}")
