"""What `gpuhost rehearse --keep` prints."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace, TracebackType

import pytest

from tests.rehearsal import __main__ as rehearse


class KeptWorld:
    """A world that costs nothing."""

    id = "abc123"
    run_dir = Path("/nowhere")
    timings: dict[str, float] = {}  # noqa: RUF012

    def __init__(self, *given: object) -> None:
        pass

    def __enter__(self) -> KeptWorld:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        pass

    def boot(self, name: str, **wishes: object) -> SimpleNamespace:
        return SimpleNamespace(name=name, ssh_command="ssh somewhere", inventory="inventory.py")


def test_the_printed_command_removes_this_world_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    proof = SimpleNamespace(run=lambda: None, report=dict)
    fakes = {"World": KeptWorld, "prepare": lambda: None, "furnish": lambda world: None, "Proof": lambda host: proof}
    for name, fake in {**fakes, "write_report": lambda path, document: None}.items():
        monkeypatch.setattr(rehearse, name, fake)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(sys, "argv", ["rehearse", "--keep"])
    assert rehearse.main() == 0
    assert "remove it with: python -m tests.rehearsal.shell --clean abc123\n" in capsys.readouterr().out
