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


@pytest.mark.parametrize(
    ("owner", "own"),
    [(("600", "root", "docker"), "600 root docker"), (None, "644 root root")],
    ids=["somebody's", "new"],
)
def test_who_may_read_daemon_json_is_the_operators_affair(
    monkeypatch: pytest.MonkeyPatch, owner: tuple[str, str, str] | None, own: str
) -> None:
    reading = DockerReading(installed=True, active=True, at_boot="enabled", config={}, config_owner=owner)
    seen = Seen(monkeypatch, engine, reading, True)
    assert "/etc/docker/daemon.json" in seen.of(engine.configured, wanted={"debug": True}, backups="/backups")
    [put] = [script for script in seen.scripts if "put /etc/docker/daemon.json" in script]
    assert put.endswith(f"put /etc/docker/daemon.json {own}")
