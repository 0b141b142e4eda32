"""What the tests of the server have in common."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.unit.sd35.serving import Cache, Fifo, serving, settings


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, Path]]:
    """One server for tests that leave it as it was, and its folder."""
    folder = tmp_path_factory.mktemp("sd35")
    Cache(folder).put()
    with serving(settings(folder)) as client:
        yield client, folder


@pytest.fixture
def api(shared: tuple[httpx.Client, Path]) -> httpx.Client:
    return shared[0]


@pytest.fixture(scope="module")
def stranger(shared: tuple[httpx.Client, Path]) -> Iterator[httpx.Client]:
    """A client of it that has not the token."""
    with httpx.Client(base_url=shared[0].base_url, trust_env=False) as client:
        yield client


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """Of a server of the test's own."""
    cache = Cache(tmp_path)
    cache.put()
    return cache


@pytest.fixture
def fifo(tmp_path: Path) -> Fifo:
    return Fifo(tmp_path / "fifo")
