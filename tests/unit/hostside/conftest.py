"""The hub that the tests of model files ask."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from hostside.models import download
from tests.rehearsal.standins.local import LocalHub

from .model_host import Host


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """Empty; programs in this process ask it, and wait for nothing between attempts."""
    server = LocalHub(tmp_path / "hub-data")
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(download, "PAUSES_S", (0.0, 0.0, 0.0, 0.0))
    yield server
    server.close()


@pytest.fixture
def host(tmp_path: Path, hub: LocalHub, capsys: pytest.CaptureFixture[str]) -> Host:
    return Host(tmp_path / "host", hub, capsys)
