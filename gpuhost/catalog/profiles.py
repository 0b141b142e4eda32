"""Variants of a whole catalogue, from the same entries: `profile`, the switches of logins, `expose`. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpuhost.catalog.types import Catalog, Network, Service

TEST_NETWORK = ipaddress.IPv4Network("172.25.0.0/16")
TEST_LOGS: dict[str, Any] = {"log_size": "5m", "log_files": 2}
EVERY_ADDRESS = "0.0.0.0"  # that is what `expose` asks for


def without_switches(data: Mapping[str, Any]) -> dict[str, Any]:
    """The data with `switched_off` in the place of its switches, which are True or False: fields that the `auth` of a
    service names (`switch`). What is neither is left where it is, and refused as a field that nobody knows."""
    entries = data.get("services")
    auths = (
        [entry.get("auth") for entry in entries.values() if isinstance(entry, dict)]
        if isinstance(entries, dict)
        else []
    )
    names = {auth["switch"] for auth in auths if isinstance(auth, dict) and isinstance(auth.get("switch"), str)}
    switches = {name: data[name] for name in names if isinstance(data.get(name), bool)}
    rest = {name: value for name, value in data.items() if name not in switches}
    off = sorted(name for name, on in switches.items() if not on)
    return {**rest, "switched_off": off} if off else rest


def applied(catalog: Catalog) -> Catalog:
    """The catalogue as its three fields want it; to be checked again."""
    services = {name: _service(catalog, name, entry) for name, entry in catalog.services.items()}
    networks = _test_networks(catalog) if catalog.profile == "test" else catalog.networks
    return catalog.model_copy(update={"services": services, "networks": networks})


def _service(catalog: Catalog, name: str, entry: Service) -> Service:
    changes: dict[str, Any] = {}
    if entry.auth and entry.auth.switch in catalog.switched_off:
        kept = {file: seed for file, seed in entry.seeds.items() if seed.renew_with != entry.auth.token}
        changes |= {"auth": None, "secret_files": {}, "seeds": kept}
    if name in catalog.expose and ipaddress.ip_address(entry.bind).is_loopback:
        changes["bind"] = EVERY_ADDRESS
    if catalog.profile == "test":
        # Whoever tests starts one, looks, stops it: Docker starts none of them, at boot or after a failure.
        changes |= {"start": "on-demand", **TEST_LOGS}
        changes |= {field: value for field, value in entry.test.model_dump().items() if value is not None}
    return entry.model_copy(update=changes) if changes else entry


def _test_networks(catalog: Catalog) -> dict[str, Network]:
    """Each gets a /24 of the test network, in the order of the data."""
    subnets = TEST_NETWORK.subnets(new_prefix=24)
    next(subnets)  # .0 looks like the whole
    pairs = zip(catalog.networks.items(), subnets, strict=False)
    return {name: entry.model_copy(update={"subnet": str(subnet)}) for (name, entry), subnet in pairs}
