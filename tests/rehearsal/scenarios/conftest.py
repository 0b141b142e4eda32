"""Fixtures of the rehearsals: one world for the session, hosts on request."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ...conftest import TIMINGS
from ..instruments.vault import Vault
from ..world.cache import locked
from ..world.freshhost import FreshHost
from ..world.machine import prepare
from ..world.scenery import furnish
from ..world.world import World, clean

_worlds: list[World] = []


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The session's world; removed at its end."""
    if os.geteuid() != 0:
        pytest.exit(
            "error: rehearsals need root (they boot hosts in containers)\nhint: sudo make test, or make unit", 1
        )
    prepare()
    with locked("clean"):
        clean(kept=False)  # what a session that was killed has left
    with World(tmp_path_factory.mktemp("world")) as made:
        _worlds.append(made)
        yield made


@pytest.fixture(scope="session")
def furnished(world: World) -> World:
    """The world, with what the product's own catalogue names."""
    furnish(world)
    return world


@pytest.fixture(scope="session")
def vault(furnished: World) -> Iterator[Vault]:
    """A deployed host whose secrets are canaries; the tests that use it leave it converged."""
    made = Vault.deploy(furnished)
    yield made
    made.stop_watching()
    furnished.destroy(made.host)


@pytest.fixture(autouse=True)
def _well_behaved(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test ordered, the next one finds well-behaved stand-ins."""
    yield
    if _worlds and "world" in request.fixturenames:
        _worlds[0].behave()


@pytest.fixture
def boot(world: World) -> Iterator[Callable[..., FreshHost]]:
    """World.boot, for hosts that go with the test."""
    booted: list[FreshHost] = []

    def boot_one(name: str, **wishes: Any) -> FreshHost:
        booted.append(world.boot(name, **wishes))
        return booted[-1]

    yield boot_one
    for host in booted:
        world.destroy(host)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where the time went, for the process that prints: this one, or that which started it as a worker."""
    told = [(world.id, world.timings) for world in _worlds]
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["worlds"] = told
    else:
        TIMINGS.extend(told)
