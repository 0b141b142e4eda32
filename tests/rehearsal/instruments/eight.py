"""A converged host whose site enables all that is shipped: eight services, on three GPUs. What they need comes with the
next apply."""

from __future__ import annotations

import hashlib
import runpy

from ..standins import sd35
from ..world.scenery import group_data, weights
from ..world.world import World
from .converged import GPU, converged_host
from .proof import Proof

TOKEN = "hf_of_the_rehearsal"  # noqa: S105


def eight_services(world: World, name: str) -> Proof:
    """A copy of a host that went the whole path, with another site."""
    proof, shipped = Proof(converged_host(world, name)), group_data()
    host = proof.host
    data = runpy.run_path(str(host.run_dir / "group_data" / "all.py"))
    named = {name: value for name, value in data.items() if not name.startswith("_") and name != "enabled_services"}
    # The stand-ins' files have hashes of their own.
    hashes = {
        name: {"sha256": dict.fromkeys(model["sha256"], hashlib.sha256(weights(name)).hexdigest())}
        for name, model in shipped["models"].items()
        if "sha256" in model
    }
    images = {"sd35": {"args": {"BASE_IMAGE": sd35.BASE_IMAGE}}}
    # Nor do they need the memory of the real ones, which this machine may not have.
    small = {name: {"memory_least": "1g"} for name, entry in shipped["services"].items() if entry.get("memory_least")}
    host.write_inventory({**named, "models": hashes, "images": images, "services": small})
    world.hub_grant(TOKEN, [])
    proof.control.environment["HF_TOKEN"] = TOKEN
    host.set_gpus([GPU, GPU, GPU])
    return proof
