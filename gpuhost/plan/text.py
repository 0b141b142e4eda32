"""A plan as text for people: a line for each thing that they have a name for, the rest counted. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gpuhost.plan.change import Change
from hostside.wire import printable

Event = dict[str, Any]
Sign = Literal["+", "~", "-"]
Style = Callable[[Sign, str], str]  # a line's beginning, as the reader's terminal shows it
NOTES = ("skipped", "gpu", "limit", "unpinned", "on_demand")  # events that say something of a host that is no problem

_ADDS = {"build", "create", "fetch", "generate", "install", "make", "pull"}
_REMOVES = {"remove"}
_NAMED = {"engine", "image", "install", "model", "network", "packages", "secret", "service"}
_ALONE = 3  # of one kind in one stage; so many other things are named, more are counted
_LABEL_WIDTH = 34
_INDENT = 4


@dataclass(frozen=True)
class Shown:
    """How a plan is shown. `everything`: nothing is only counted; `diffs`: what differs is shown below a change;
    `width`: columns of the terminal."""

    everything: bool = False
    diffs: bool = True
    width: int = 80
    style: Style = lambda sign, text: text


def sign(change: Change) -> Sign:
    """`+` something comes to be, `-` it goes, `~` it is there and changes."""
    if change.action in _REMOVES:
        return "-"
    return "+" if change.action in _ADDS else "~"


def plan_lines(changes: Iterable[Event], shown: Shown) -> Iterator[str]:
    """Each host with its changes by stage and their counts; hosts with the same changes together."""
    for hosts, made in _by_host(changes):
        yield printable(", ".join(hosts) + (":" if len(hosts) == 1 else f" (the same on all {len(hosts)}):"))
        for stage, of_stage in _grouped(made, lambda change: change.stage).items():
            yield f"  {stage}"
            yield from _stage_lines(of_stage, shown)
        yield counts(made)


def counts(changes: Sequence[Change]) -> str:
    """`Plan: 12 to add, 3 to change, 1 to remove.`"""
    signs = [sign(change) for change in changes]
    return f"Plan: {signs.count('+')} to add, {signs.count('~')} to change, {signs.count('-')} to remove."


def _by_host(changes: Iterable[Event]) -> list[tuple[list[str], list[Change]]]:
    plans: dict[str, list[Change]] = {}
    for change in changes:
        plans.setdefault(change["host"], []).append(Change.of(change))
    together: list[tuple[list[str], list[Change]]] = []
    for host, made in plans.items():
        same = next((hosts for hosts, others in together if others == made), None)
        if same is None:
            together.append(([host], made))
        else:
            same.append(host)
    return together


def _stage_lines(changes: Sequence[Change], shown: Shown) -> Iterator[str]:
    of_a_kind = _grouped(changes, lambda change: (sign(change), change.resource.kind))
    counted = {key: group for key, group in of_a_kind.items() if not shown.everything and _only_counted(group)}
    listed = [change for change in changes if (sign(change), change.resource.kind) not in counted]
    labels = {change.resource: _label(change) for change in listed}
    columns = min(_LABEL_WIDTH, max((len(label) for label in labels.values()), default=0))
    actions = max((len(change.action) for change in listed), default=0)
    for change in listed:
        begin = f"{sign(change)} {labels[change.resource]:{columns}}  {change.action:{actions}}"
        yield from _change_lines(change, begin, shown)
    for first in ("+", "~", "-"):
        numbers = [_number(len(group), kind) for (of_sign, kind), group in counted.items() if of_sign == first]
        if numbers:
            yield shown.style(first, f"{' ' * _INDENT}{first} {', '.join(numbers)}")


def _only_counted(group: Sequence[Change]) -> bool:
    """Things without a name of their own, too many to be read; never one that stops a container besides itself."""
    return len(group) > _ALONE and group[0].resource.kind not in _NAMED and not any(map(_others, group))


def _change_lines(change: Change, begin: str, shown: Shown) -> Iterator[str]:
    """The change, and below it what differs and what stops for it."""
    indent = " " * _INDENT
    whole = f"{indent}{begin}  {change.reason}"
    # A reason that has room for a few words beside its change stands there, else below it.
    hanging = len(indent + begin) + 2 if len(begin) <= shown.width // 2 else _INDENT + 6
    first, *more = textwrap.wrap(
        printable(whole), shown.width, subsequent_indent=" " * hanging, break_on_hyphens=False, break_long_words=False
    ) or [whole]
    yield shown.style(sign(change), first)
    yield from more
    if shown.diffs:
        for difference in change.diff:
            yield printable(f"{indent}    {difference.line()}")
    stops = _others(change)
    stay = [name for name in stops if change.impact and name not in change.impact.restarts]
    if stops:
        yield printable(f"{indent}    stops for it: {', '.join(stops)}")
    if stay:
        yield printable(f"{indent}    and do not start again by themselves: {', '.join(stay)}")


def _others(change: Change) -> list[str]:
    """The containers that a change stops besides itself."""
    return [name for name in (change.impact.stops if change.impact else ()) if name != change.resource.name]


def _label(change: Change) -> str:
    kind, name = change.resource.kind, change.resource.name
    return printable(name if kind in ("packages", "engine") else f"{kind} {name}")


def _number(count: int, kind: str) -> str:
    """`21 folders`, `1 apt index`."""
    plurals: Mapping[str, str] = {"apt index": "apt indexes", "CDI specification": "CDI specifications"}
    return f"{count} {kind if count == 1 else plurals.get(kind, f'{kind}s')}"


def _grouped(changes: Iterable[Change], key: Callable[[Change], Any]) -> dict[Any, list[Change]]:
    groups: dict[Any, list[Change]] = {}
    for change in changes:
        groups.setdefault(key(change), []).append(change)
    return groups
