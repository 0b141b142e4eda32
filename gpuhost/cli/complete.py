"""What a shell completes beside commands and options: names that stand in the inventory and in the data.

A shell asks at each TAB: what cannot be read completes to nothing, in silence.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpuhost.catalog.inventory import Site
    from gpuhost.catalog.types import Catalog

Completer = Callable[..., list[str]]


def completed_by(action: argparse.Action, names: Completer) -> None:
    """Let an argument be completed by these names."""
    action.completer = names  # type: ignore[attr-defined]  # argcomplete looks for it there


def hosts(parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """The hosts of the inventory."""
    return _names(parsed_args, lambda site: site.catalogs)


def services(parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """The services that some host has enabled."""
    return _names(parsed_args, lambda site: _of_each(site, lambda catalog: catalog.enabled()))


def secrets(parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """The secrets of the data."""
    return _names(parsed_args, lambda site: _of_each(site, lambda catalog: catalog.secrets))


def renewable(parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """Those of them that gpuhost makes anew: what it generated, but for user names."""

    def of(catalog: Catalog) -> list[str]:
        return [name for name, each in catalog.secrets.items() if each.generate not in (None, "username")]

    return _names(parsed_args, lambda site: _of_each(site, of))


def lockable(parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """The images, installs and models of the data."""
    return _names(parsed_args, lambda site: _of_each(site, lambda each: [*each.images, *each.installs, *each.models]))


def _of_each(site: Site, names: Callable[[Catalog], Iterable[str]]) -> set[str]:
    return {name for catalog in site.catalogs.values() for name in names(catalog)}


def _names(parsed: argparse.Namespace, names: Callable[[Site], Iterable[str]]) -> list[str]:
    from gpuhost.cli.site import site
    from gpuhost.errors import UserError
    from gpuhost.run.data import INVENTORY

    options = argparse.Namespace(inventory=getattr(parsed, "inventory", None) or INVENTORY, limit=[], pyinfra=[])
    try:
        return sorted(names(site(options)))
    except (UserError, OSError):
        return []
