"""What is done to the engine, in order."""

from __future__ import annotations

import pytest

from gpuhost.engine import operations as engine
from gpuhost.engine.facts import DockerReading
from tests.unit.apt.test_operations import Seen


def test_a_masked_engine_is_unmasked_before_it_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd starts no unit that is masked."""
    seen = Seen(monkeypatch, engine, DockerReading(installed=True, at_boot="masked", config={"debug": True}), True)
    assert seen.of(engine.configured, wanted={"debug": True}, backups="/backups") == ["dockerd", "docker.service"]
    enable, restart = seen.scripts
    assert enable == "systemctl unmask docker.service && systemctl enable docker.service"
    assert "systemctl restart docker" in restart
