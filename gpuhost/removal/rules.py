"""What is taken off a host, thing by thing, and what stays. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from gpuhost.engine.containers import Container
from gpuhost.plan.change import Change, Resource
from gpuhost.removal.facts import Ours

STAGE = "destroy"


@dataclass(frozen=True)
class Known:
    """What gpuhost writes on a host. `units`: unit -> its file, those that start others first; `stacks`: stack -> its
    files; `programs`: files and whole folders of ours below the folder of the tools; `secret`: files that hold one."""

    units: Mapping[str, str] = field(default_factory=dict)
    stacks: Mapping[str, Sequence[str]] = field(default_factory=dict)
    programs: Sequence[str] = ()
    whole: Sequence[str] = ()
    tools: str = ""
    secret: frozenset[str] = frozenset()

    @property
    def files(self) -> list[str]:
        """All files."""
        return [*self.units.values(), *(file for files in self.stacks.values() for file in files), *self.programs]


def reconcile(
    known: Known,
    found: Ours,
    containers: Sequence[Container],
    table: str,
    data: Callable[[str], str] = lambda service: "where it is",
) -> list[Change]:
    """What is to be removed, in order: what starts services, they, what they ran in. `data`: service -> where its data
    is. A container of `docker compose run`, or of a copy, is somebody's own."""
    there = set(found.files)
    units = [unit for unit, file in known.units.items() if file in there]
    services = sorted({each.service for each in containers if not each.own})
    changes = [_remove("unit", unit, "its file, and what it runs") for unit in units]
    changes += [_remove("service", name, f"its container; its data stays, {data(name)}") for name in services]
    changes += [_remove("network", name, "gpuhost made it") for name in found.networks]
    changes += [_remove("firewall", table, "its rules are loaded")] if found.rules else []
    changes += [_remove("image", tag, "gpuhost built it") for tag in found.images]
    for stack, files in known.stacks.items():
        if count := len(there & set(files)):
            what = "compose file, `.env.docker`, configuration, secrets"
            changes.append(_remove("stack", stack, f"{_files(count)}: {what}"))
    count = len(there & set(known.programs))
    if count or set(known.whole) & set(found.folders):
        changes.append(_remove("programs", known.tools, f"{_files(count)} of ours and their Python environment"))
    return changes


def _remove(kind: str, name: str, reason: str) -> Change:
    return Change(STAGE, Resource(kind, name), "remove", reason)


def _files(count: int) -> str:
    return f"{count} file{'s' if count != 1 else ''}"
