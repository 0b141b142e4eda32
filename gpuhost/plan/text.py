"""A plan as text for people: a line for each thing that they have a name for, the rest counted. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby
from types import MappingProxyType
from typing import Any, Literal, TypeVar

from gpuhost.plan.change import Change, Resource
from gpuhost.plan.sizes import about
from gpuhost.plan.totals import Totals, lines
from hostside.wire import printable

Event = dict[str, Any]
Sign = Literal["+", "~", "-"]
_Thing = TypeVar("_Thing")
Style = Callable[[Sign, str], str]  # a line's beginning, as the reader's terminal shows it
# Events that say something of a host that is no problem.
NOTES = (
    *("skipped", "gpu", "driver", "kept", "exposed", "limit", "unpinned", "fetch"),
    *("unidentified", "unverified", "on_demand", "unused", "reclaimable"),
)
# What a plan and an apply say; whoever only looks has read it there.
_OF_A_PLAN = ("limit", "unpinned", "reclaimable")

_ADDS = {"build", "create", "fetch", "generate", "import", "install", "make", "pull"}
_REMOVES = {"remove"}
_NAMED = {"engine", "image", "install", "model", "network", "packages", "programs", "secret", "service", "stack"}
_OF_OTHERS = {"archive", "disable"}  # what is done with files that somebody else put there
_SHORT = 15  # changes of a host; so many are all listed
_ALIKE = 3  # changes that differ in the name alone; more share a line
_LABEL_WIDTH = 34
_INDENT = 4
_DIFF_COLUMNS = 160  # of a line in a diff; the label of a service's spec has thousands, and its fields are told anyway


@dataclass(frozen=True)
class Shown:
    """How a plan is shown. `everything`: nothing is only counted; `diffs`: what differs is shown below a change;
    `width`: columns of the terminal."""

    everything: bool = False
    diffs: bool = True
    width: int = 80
    style: Style = lambda sign, text: text


def note_lines(events: Iterable[Event], planned: bool) -> Iterator[str]:
    """What a run says that is no problem, what is the same for several hosts once, what is not pinned of a host in one
    line. `planned`: something may change."""
    notes: dict[str, list[str]] = {}
    unpinned: dict[str, list[str]] = {}
    for event in events:
        kind = event["event"]
        if kind not in NOTES or (kind in _OF_A_PLAN and not planned):
            continue
        if kind == "unpinned":
            unpinned.setdefault(event["host"], []).append(str(event["message"]).partition(":")[0])
        else:
            notes.setdefault(str(event["message"]), []).append(event["host"])
    for host, names in unpinned.items():
        line = f"not pinned, so another day may bring others: {', '.join(names)}; `gpuhost lock` pins"
        notes.setdefault(line, []).append(host)
    for message, hosts in notes.items():
        yield printable(f"{_of(hosts)}{message}")


def fitted(line: str, columns: int, indent: str = "  ") -> list[str]:
    """A line as several that fit, all but the first with this indent; no word is broken, and a sign at the beginning
    stays with what it is of."""
    rest = line.lstrip(" ")
    begin = line[: len(line) - len(rest)] + (rest[:2] if rest[:2] in ("+ ", "~ ", "- ") else "")
    whole = textwrap.TextWrapper(columns, begin, indent, break_on_hyphens=False, break_long_words=False)
    return whole.wrap(line[len(begin) :]) or [line]


def _of(hosts: Sequence[str]) -> str:
    return f"[{', '.join(dict.fromkeys(hosts))}] " if any(hosts) else "note: "


def sign(change: Change) -> Sign:
    """`+` something comes to be, `-` it goes, `~` it is there and changes."""
    if change.action in _REMOVES:
        return "-"
    return "+" if change.action in _ADDS else "~"


def plan_lines(
    changes: Iterable[Event], shown: Shown, totals: Mapping[str, Totals] = MappingProxyType({})
) -> Iterator[str]:
    """Each host with its changes by stage, their counts and what they cost together (`totals`, by host); hosts with the
    same changes together, stages that are as those of a host above named; counts over all."""
    every, above = list(changes), dict[tuple[str, ...], str]()
    for hosts, made in _by_host(every):
        yield printable(", ".join(hosts) + (":" if len(hosts) == 1 else f" (the same on all {len(hosts)}):"))
        yield from _stages(hosts[0], made, above, shown)
        yield counts(made)
        yield from _cost(hosts, totals, shown)
    if (several := len({change["host"] for change in every})) > 1:
        yield counts([Change.of(change) for change in every]).replace("Plan:", f"All {several} hosts:")


def is_counted(changes: Iterable[Event]) -> bool:
    """Whether of some changes the number alone is shown, unless everything is."""
    return any(len(made) > _SHORT and not all(map(_is_named, made)) for _, made in _by_host(changes))


def _stages(host: str, made: Sequence[Change], above: dict[tuple[str, ...], str], shown: Shown) -> Iterator[str]:
    """`above`: the lines of a stage, and what they are about -> the first host that has them; this one's are added."""
    short = shown.everything or len(made) <= _SHORT
    by_stage = _grouped(made, lambda change: change.stage)
    lines = {stage: [*_stage(stage, of_stage, short, shown)] for stage, of_stage in by_stage.items()}
    # What is only counted may be as much, and something else.
    told = {stage: [*lines[stage], *chain.from_iterable(each.key for each in by_stage[stage])] for stage in lines}
    anywhere = {stage: tuple(_without_host(line, host) for line in of_stage) for stage, of_stage in told.items()}
    for first, stages in groupby(lines, lambda stage: above.setdefault(anywhere[stage], host)):
        if first == host:
            yield from chain.from_iterable(lines[stage] for stage in stages)
        else:
            yield printable(f"  {', '.join(stages)}: as on {first}")


def _stage(stage: str, made: Sequence[Change], short: bool, shown: Shown) -> Iterator[str]:
    yield f"  {stage}"
    listed = [change for change in made if short or _is_named(change)]
    yield from _listed(listed, shown)
    yield from _counted([change for change in made if change not in listed], shown)


def _cost(hosts: Sequence[str], totals: Mapping[str, Totals], shown: Shown) -> Iterator[str]:
    """What the same changes cost on each of some hosts, once when that is the same."""
    alike = _grouped([host for host in hosts if host in totals], lambda host: tuple(lines(totals[host], shown.width)))
    for told, of in alike.items():
        if len(alike) > 1:
            yield printable(f"{', '.join(of)}:")
        yield from told


def counts(changes: Sequence[Change]) -> str:
    """`Plan: 12 to add, 3 to change, 1 to remove.`"""
    signs = [sign(change) for change in changes]
    return f"Plan: {signs.count('+')} to add, {signs.count('~')} to change, {signs.count('-')} to remove."


def _by_host(changes: Iterable[Event]) -> list[tuple[list[str], list[Change]]]:
    """Hosts with their changes. Where several are the same but for the name of the file of secrets, that is shown as
    HOST.env. Of what was measured on each, what took longest is shown."""
    plans: dict[str, list[Change]] = {}
    for change in changes:
        plans.setdefault(change["host"], []).append(Change.of(change))
    together: list[tuple[list[str], list[Change]]] = []
    for host, made in plans.items():
        anywhere = [_anywhere(change, host) for change in made]
        same = next((hosts for hosts, others in together if others == anywhere), None)
        if same is None:
            together.append(([host], anywhere))
        else:
            same.append(host)
    return [
        (hosts, plans[hosts[0]] if len(hosts) == 1 else list(map(_slowest, made, *(plans[host] for host in hosts))))
        for hosts, made in together
    ]


def _anywhere(change: Change, host: str) -> Change:
    """As it is compared with that of another host: without the host's name, and what was measured there."""
    impact = change.impact and replace(change.impact, disk_bytes=0, seconds=change.impact.seconds and 1.0)
    return replace(change, reason=_without_host(change.reason, host), impact=impact)


def _without_host(text: str, host: str) -> str:
    """The file of a host's secrets has its name."""
    return text.replace(f"/{host}.env", "/HOST.env")


def _slowest(change: Change, *on_hosts: Change) -> Change:
    seconds = [each.impact.seconds for each in on_hosts if each.impact and each.impact.seconds]
    return replace(change, impact=replace(change.impact, seconds=max(seconds))) if change.impact and seconds else change


def _is_named(change: Change) -> bool:
    """True for what people have a name for, and for what they must see: what differs in a thing that is there, what
    stops for it, what becomes of a file of somebody else's."""
    differs = bool(change.diff or change.text_diff) and sign(change) == "~"
    return change.resource.kind in _NAMED or differs or bool(_others(change)) or change.action in _OF_OTHERS


def _listed(changes: Sequence[Change], shown: Shown) -> Iterator[str]:
    """A line for each change; for those that differ in the name alone, one for all."""
    alike = _grouped(changes, _but_the_name)
    lines: dict[str, Change] = {}
    for change in changes:
        group = alike[_but_the_name(change)]
        lines.setdefault(_label(group if len(group) > _ALIKE else [change]), change)
    columns = min(_LABEL_WIDTH, max(map(len, lines), default=0))
    actions = max((len(change.action) for change in lines.values()), default=0)
    for label, change in lines.items():
        yield from _change_lines(change, f"{sign(change)} {label:{columns}}  {change.action:{actions}}", shown)


def _but_the_name(change: Change) -> tuple[Any, ...]:
    return (change.resource.kind, change.action, change.reason, change.diff, change.text_diff, *_others(change))


def _counted(changes: Sequence[Change], shown: Shown) -> Iterator[str]:
    """`+ 21 folders, 14 files`, a line for each sign."""
    for first, of_sign in _grouped(changes, sign).items():
        kinds = _grouped(of_sign, lambda change: change.resource.kind)
        numbers = [_number(len(group), kind) for kind, group in kinds.items()]
        yield shown.style(first, f"{' ' * _INDENT}{first} {', '.join(numbers)}")


def _change_lines(change: Change, begin: str, shown: Shown) -> Iterator[str]:
    """The change, and below it what differs and what stops for it."""
    indent = " " * _INDENT
    # A reason that has room for a few words beside its change stands there, else below it.
    hanging = len(indent + begin) + 2 if len(begin) <= shown.width // 2 else _INDENT + 6
    whole = printable(f"{indent}{begin}  {change.reason}")
    first, *more = fitted(whole, shown.width, " " * hanging)
    yield shown.style(sign(change), first)
    yield from more
    if shown.diffs:
        for difference in change.untold:
            yield from fitted(printable(f"{indent}    {difference.line()}"), shown.width, f"{indent}      ")
        yield from (_diff_line(line, f"{indent}    ", shown) for line in change.text_diff)
    if told := _away(change):
        yield printable(f"{indent}    {told}")
    stops = _others(change)
    stay = [name for name in stops if change.impact and name not in change.impact.restarts]
    if stops:
        yield printable(f"{indent}    stops for it: {', '.join(stops)}")
    if stay:
        yield printable(f"{indent}    and do not start again: {', '.join(stay)}")


def _away(change: Change) -> str:
    """For how long a service that runs is away."""
    impact = change.impact
    if impact is None or change.resource.name not in impact.stops or sign(change) == "-":
        return ""
    if change.resource.name not in impact.restarts:
        return "stops, and is not started again"
    if impact.seconds is None:
        return "stops until it is healthy again; its start was never measured here"
    return f"stops for about {about(impact.seconds)}, as at its last start"


def _diff_line(line: str, indent: str, shown: Shown) -> str:
    """As it is, for a line that is wrapped is none any more; of a very long one the beginning."""
    cut = (
        "" if shown.everything or len(line) <= _DIFF_COLUMNS else f" ... ({len(line) - _DIFF_COLUMNS} more characters)"
    )
    whole = printable(f"{indent}{line[:_DIFF_COLUMNS] if cut else line}{cut}")
    return shown.style("+" if line[0] == "+" else "-", whole) if line[:1] in ("+", "-") else whole


def _others(change: Change) -> list[str]:
    """The containers that a change stops besides itself."""
    return [name for name in (change.impact.stops if change.impact else ()) if name != change.resource.name]


def _label(changes: Sequence[Change]) -> str:
    """`service api`, `Docker Engine`, `secrets A, B`: what a line is about."""
    kind, names = changes[0].resource.kind, [_short(change.resource) for change in changes]
    if len(names) > 1:
        return printable(f"{_plural(kind)} {', '.join(names)}")
    bare = kind in ("packages", "engine") or names[0].startswith(kind)
    return printable(names[0] if bare else f"{kind} {names[0]}")


def _short(resource: Resource) -> str:
    """An install's folder is long, and its end says all."""
    return "/".join(resource.name.split("/")[-2:]) if resource.kind == "install" else resource.name


def _number(count: int, kind: str) -> str:
    """`21 folders`, `1 apt index`."""
    return f"{count} {kind if count == 1 else _plural(kind)}"


def _plural(kind: str) -> str:
    return {"apt index": "apt indexes"}.get(kind, f"{kind}s")


def _grouped(things: Iterable[_Thing], key: Callable[[_Thing], Any]) -> dict[Any, list[_Thing]]:
    groups: dict[Any, list[_Thing]] = {}
    for thing in things:
        groups.setdefault(key(thing), []).append(thing)
    return groups
