"""A converged host in seconds: a host that went the whole path is saved, and other scenarios start from a copy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..world.cache import cached, digest
from ..world.freshhost import FreshHost
from ..world.gpus import Gpu
from ..world.images import host_image
from ..world.run import run
from ..world.saved import KIND, SavedHost, drop_without_image, forget_old, image_of, makers, save
from ..world.world import World
from .control import Control
from .proof import Proof, expect

GPU = Gpu("NVIDIA GeForce RTX 3090", 24576)
SUITE = "trixie"
# For how long restart counts must stand still. The shipped value is at work wherever the whole path is gone.
QUICK: dict[str, object] = {"verify_window_s": 0.5}


def converged_host(world: World, name: str) -> FreshHost:
    """A copy of the converged host of this tree."""
    host = world.restore(saved_converged(world), name)
    host.write_inventory({**world.host_data(), **QUICK})
    return host


def saved_converged(world: World) -> SavedHost:
    """The converged host of this tree; when none is saved yet, one is made the long way first."""

    def make(folder: Path, image: str) -> None:
        host = world.boot("made", suite=SUITE, gpus=[GPU])
        Proof(host).run()
        _save(world, host, folder, image)
        world.destroy(host)

    return _saved(world, make)


def save_converged(world: World, host: FreshHost) -> None:
    """Keep a host that a proof left converged, unless one of this tree is kept already."""
    _saved(world, lambda folder, image: _save(world, host, folder, image))


def _saved(world: World, make: Callable[[Path, str], None]) -> SavedHost:
    """The saved host of this tree and this world's data, made by `make(folder, image)` when there is none."""
    key = digest(*makers(), host_image(SUITE), repr(GPU), repr(sorted(world.host_data().items())))
    drop_without_image(key)
    folder = cached(KIND, key, lambda folder: make(folder, image_of(key)), world.timings)
    forget_old()
    return SavedHost(folder)


def _save(world: World, host: FreshHost, folder: Path, image: str) -> None:
    """Save a copy of the host, after one apply of its own.

    A copied file has another inode, and a model's manifest knows the old one, so the product looks at that file again.
    Whatever is restored from the copy finds the inodes of the image's layers, the same each time.
    """
    draft = save(host, folder / "draft", f"{image}-draft")
    copy = world.restore(draft, f"{host.name}-copy")
    applied = Control(copy).apply()
    expect(applied.code == 0, "a copy of the host can be applied", applied.errors)
    save(copy, folder, image)
    world.destroy(copy)
    run(["docker", "image", "rm", draft.image])
    run(["rm", "-r", draft.folder])
