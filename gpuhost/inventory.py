"""group_data as pyinfra reads it, checked for every host of an inventory before any is contacted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pyinfra.api.host import Host
from pyinfra_cli.inventory import _get_group_data, make_inventory

from .catalog import Catalog, load, suggest
from .errors import Problem, UserError

# Keys that pyinfra's connectors and gpuhost's own command line read from host data.
_FOREIGN = ("ssh_", "_", "gpuhost_", "docker_identifier", "chroot_", "local_", "vagrant_", "terraform_")


def catalog_of(host: Host) -> Catalog:
    """The catalogue of a host. Raises UserError."""
    return _validated(host, Path.cwd() / "group_data")


def check(inventory: str, overrides: Mapping[str, Any]) -> None:
    """Validate the data of every host of an inventory. Raises UserError with every problem once."""
    folders = [Path.cwd() / "group_data", Path(inventory).resolve().parent / "group_data"]
    found: list[Problem] = []
    for host in make_inventory(inventory, override_data=dict(overrides), cwd=str(Path.cwd())):
        try:
            _validated(host, *folders)
        except UserError as error:
            found += [problem for problem in error.problems if problem not in found]
    if found:
        raise UserError(*found)


def _validated(host: Host, *folders: Path) -> Catalog:
    data = host.data.dict()
    own = {key: value for key, value in data.items() if not key.startswith(_FOREIGN)}
    file_of = _file_finder(own, folders)
    unknown = [key for key in own if key not in Catalog.model_fields]
    if unknown:
        known = list(Catalog.model_fields)
        raise UserError(
            *(
                Problem(f"{file_of(key)}: `{key}` is not a field that gpuhost knows", suggest(key, known, "field"))
                for key in unknown
            )
        )
    return load(own, file_of)


def _file_finder(data: Mapping[str, Any], folders: tuple[Path, ...]) -> Callable[[str], str]:
    """Which file of group_data gave a key its value; the inventory when none did."""
    places: dict[str, str] = {}
    for folder in folders:
        for group, values in _get_group_data(str(folder)).items():
            for key, value in values.items():
                if key in data and data[key] == value:
                    places[key] = f"{folder.name}/{group}.py"
    return lambda key: places.get(key, "group_data/all.py" if key not in data else "the inventory")
