"""Generated situations: some of the table of damages on a converged host, other data in the site's files, and sometimes
an apply that dies on the way. Drawn by number, so that each can be done again; what is drawn is told as JSON, from
which it can be done again with something left out."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from ..world.scenery import ENABLED, group_data
from .damages import (
    DAEMON_JSON,
    DAMAGES,
    DATA,
    ENGINE_WRITTEN,
    PACKAGED,
    STACKS,
    STATE,
    TOOLS,
    UNIT_FILE,
    Damage,
    Key,
    O,
    Q,
    Seen,
    apart,
)

End = Literal["", "kill -9", "Ctrl-C"]
Data = Mapping[str, Any]
OTHER, SECOND = "conductor", "qwen3-micro"  # a name that the shipped catalogue does not have, and one that it has
RULES = f"{TOOLS}/firewall.nft"
_ACCOUNTS = ("/etc/passwd*", "/etc/shadow*", "/etc/group*", "/etc/gshadow*", "/etc/subuid*", "/etc/subgid*")


@dataclass(frozen=True)
class DataChange:
    """Something else in the site's data. `data`: made from the shipped services, merged into what is there; `seen`: the
    lines that the plan must have when it comes; `back`: when it goes again; `also`: lines that may follow; `lanes`: as
    a damage's, towards other changes; `touches`: towards damages; `changed`: patterns of paths that it makes others;
    `without`: a regular expression of what is not there while it holds.
    """

    name: str
    data: Callable[[Mapping[str, Any]], Data]
    seen: tuple[Seen, ...]
    lanes: tuple[str, ...]
    back: tuple[Seen, ...] = ()
    also: tuple[Key, ...] = ()
    touches: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    without: str = ""


@dataclass(frozen=True)
class Situation:
    """`before`, `after`: names of the data changes that hold on the converged host, and then; `damages`: by name, in
    the table's order; `end`: of the first apply; `moment`: which part of its changes it begins, and how far on."""

    before: tuple[str, ...] = ()
    damages: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    end: End = ""
    moment: float = 0.0

    def __str__(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Situation:
        """The situation that was told; what is left out is nothing."""
        known: dict[str, Any] = {name: tuple(each) if isinstance(each, list) else each for name, each in told.items()}
        return cls(**known)


# -- other data --------------------------------------------------------------------------------------------------------

_EVERY = ("create", "write", "correct", "remove", "archive")
# What a change of one service's entry brings along: the files of its stack, and those that name all services.
_FILES: tuple[Key, ...] = (("stacks", f"{STACKS}/*", "|".join(_EVERY)), ("stacks", UNIT_FILE, "write"))


def value(name: str, service: str, entry: Mapping[str, Any], words: str, *touches: str) -> DataChange:
    """A service's entry says something else, so that its container is made anew; `words`: the field that differs."""
    seen = (Seen("stacks", service, "recreate", words),)
    return DataChange(
        name,
        lambda _: {"services": {service: dict(entry)}},
        seen,
        (f"{service}.{next(iter(entry))}",),
        seen,
        _FILES,
        (service, f"tree:{STACKS}/{service}", *touches),
        (f"{STACKS}/*", UNIT_FILE),
    )


def _both(service: str, action: str) -> tuple[Seen, ...]:
    return (Seen("stacks", service, action),)


_LOAD = ("layout", "gpuhost", "load")
_RULES_TOO: tuple[Key, ...] = (("layout", RULES, "write"), _LOAD)
_NEW: tuple[Key, ...] = (
    *_FILES,
    *_RULES_TOO,
    ("layout", "*", "create|correct"),
    ("stacks", f"{DATA}/*", "create|correct"),
    ("stacks", "/etc/systemd/system/gpuhost-broker.*", "write"),
    ("stacks", "gpuhost-broker.*", "enable"),
)
_NEW_FILES = (f"{STACKS}*", UNIT_FILE, RULES, f"{DATA}/services*", f"{DATA}/outputs*", *_ACCOUNTS, *PACKAGED)
_ALL_FILES = (*_NEW_FILES, "/etc/systemd/system/gpuhost-broker.*")
_MODEL_FILES = (f"{DATA}/cache/huggingface/*", f"{DATA}/models/*", f"{STATE}/models/*", f"{STATE}/revisions.json")
_REVISIONS: Key = ("models", f"{STATE}/revisions.json", "create|write")  # which commit `main` was
_OF_SERVICES = (f"tree:{DATA}/services", f"tree:{DATA}/outputs")
_SWAP = (Seen("stacks", O, "recreate", "ports"), Seen("stacks", Q, "recreate", "ports"))
_DOCKER = Seen("engine", DAEMON_JSON, "write", "log-opts.max-file")
_OPEN = Seen("layout", RULES, "write", "content differs")

CHANGES = [
    value("less memory", O, {"memory": "1g"}, "memory"),
    value("fewer cores", O, {"cpus": 1}, "cpus"),
    value("fewer processes", O, {"pids": 200}, "pids"),
    value("a variable more", O, {"environment": {"MORE": "of it"}}, "MORE"),
    value("a longer time to stop", O, {"stop_timeout_s": 31}, "stop_grace_period|stop_timeout"),
    value("shorter logs", O, {"log_files": 2}, "logging"),
    value("another port", Q, {"port": 8288}, "ports"),
    value("open to the network", Q, {"bind": "0.0.0.0"}, "ports", f"file:{RULES}"),
    value("another argument", Q, {"arguments": ["--max-upload-size=99"]}, "command"),
    value("one core", Q, {"cpus": 1}, "cpus"),
    value("less shared memory", Q, {"shm": "8g"}, "shm"),
    value("another health check", Q, {"health": {"interval_s": 20}}, "healthcheck"),
    value("one more shipped file", Q, {"shipped_files": {"more.json": "workflows/flux-1-dev.json"}}, "."),
    value("on demand", Q, {"start": "on-demand"}, "restart"),
    DataChange(
        "another start order",
        lambda _: {"services": {O: {"start_order": 99}}},
        (Seen("stacks", UNIT_FILE, "write", "content differs"),),
        (f"{O}.start_order",),
        (Seen("stacks", UNIT_FILE, "write", "content differs"),),
        (),
        ("unit",),
        (UNIT_FILE,),
    ),
    DataChange(
        "ports swapped",
        lambda _: {"services": {O: {"port": 8188}, Q: {"port": 8193}}},
        _SWAP,
        (f"{O}.port", f"{Q}.port"),
        _SWAP,
        _FILES,
        (O, Q, f"tree:{STACKS}"),
        (f"{STACKS}/*", UNIT_FILE),
    ),
    DataChange(
        "a service disabled",
        lambda _: {"enabled_services": [O]},
        _both(Q, "remove"),
        (Q, "enabled"),
        _both(Q, "create"),
        (*_NEW, ("models", "*", "link|verify|fetch"), ("gpu", "*", "prove|refresh")),
        (Q, "unit", "network", "account", f"tree:{STACKS}", f"file:{RULES}", *_OF_SERVICES),
        _ALL_FILES,
        "comfyui|[Mm]odel|install|outputs|huggingface",
    ),
    DataChange(
        "a service enabled",
        lambda _: {"enabled_services": [*ENABLED, SECOND]},
        _both(SECOND, "create"),
        ("enabled",),
        _both(SECOND, "remove"),
        (*_NEW, ("images", "*", "pull"), ("models", SECOND, "fetch|link|verify"), _REVISIONS),
        ("model", "network", "unit", "account", f"tree:{STACKS}", f"file:{RULES}", *_OF_SERVICES),
        (*_ALL_FILES, *_MODEL_FILES),
    ),
    DataChange(
        "a service renamed",
        lambda shipped: {
            "services": {O: None, OTHER: {**shipped[O], "stack": OTHER}},
            "enabled_services": [OTHER, Q],
        },
        (*_both(O, "remove"), *_both(OTHER, "create")),
        (O, "enabled"),
        (*_both(OTHER, "remove"), *_both(O, "create")),
        _NEW,
        (O, "unit", "network", "broker", "account", f"tree:{STACKS}", f"file:{RULES}", *_OF_SERVICES),
        _ALL_FILES,
        O,
    ),
    DataChange(
        "a service in another stack",
        lambda _: {"services": {O: {"stack": OTHER}}},
        (Seen("stacks", O, "recreate", f"moves from stack {O} to {OTHER}"),),
        (O,),
        (Seen("stacks", O, "recreate", f"moves from stack {OTHER} to {O}"),),
        _NEW,
        (O, "unit", f"tree:{STACKS}"),
        _ALL_FILES,
        O,
    ),
    DataChange(
        "one network for both",
        lambda _: {"services": {Q: {"network": O}}},
        (Seen("stacks", Q, "recreate", "networks"),),
        (f"{Q}.network",),
        (Seen("stacks", Q, "recreate", "networks"),),
        (*_FILES, *_RULES_TOO),
        (Q, f"tree:{STACKS}/{Q}", f"file:{RULES}", "network"),
        (f"{STACKS}/*", RULES),
    ),
    DataChange(
        "a way out",
        lambda _: {"networks": {O: {"egress": True}}},
        (_OPEN, Seen(*_LOAD)),
        (f"{O}.egress",),
        (_OPEN, Seen(*_LOAD)),
        (*_FILES, ("stacks", O, "recreate")),
        (O, f"tree:{STACKS}/{O}", f"file:{RULES}", "network"),
        (f"{STACKS}/*", RULES),
    ),
    DataChange(
        "another setting of Docker's",
        lambda _: {"engine_config": {"log-opts": {"max-file": "5"}}},
        (_DOCKER, Seen("engine", "dockerd", "restart", "daemon.json changes")),
        ("engine",),
        (_DOCKER, Seen("engine", "dockerd", "restart", "daemon.json changes")),
        (),
        ("daemon.json", "dockerd"),
        (DAEMON_JSON, ENGINE_WRITTEN),
    ),
    DataChange(
        "a model less",
        lambda shipped: {"services": {Q: {"models": [each for each in shipped[Q]["models"] if "vae" not in each]}}},
        (),
        (f"{Q}.models",),
        (),
        (*_FILES, ("stacks", Q, "recreate"), ("models", "*", "link|verify")),
        ("model", Q, f"tree:{STACKS}/{Q}"),
        (f"{STACKS}/*",),
    ),
    DataChange(
        "a model more",
        lambda shipped: {"services": {Q: {"models": [*shipped[Q]["models"], "qwen3-micro"]}}},
        (),
        (f"{Q}.models",),
        (),
        (*_FILES, ("models", SECOND, "fetch|link|verify"), ("stacks", Q, "recreate"), _REVISIONS),
        ("model", Q, f"tree:{STACKS}/{Q}"),
        (f"{STACKS}/*", *_MODEL_FILES),
    ),
    DataChange(
        "what no host has to know",
        lambda _: {"verify_window_s": 0.6, "services": {Q: {"memory_least": "20g"}}},
        (),
        ("nothing",),
    ),
]
BY_NAME = {each.name: each for each in CHANGES}
DAMAGE = {each.name: each for each in DAMAGES}


def merged(changes: Iterable[str], site: Data) -> dict[str, Any]:
    """The names of the site's data with these changes."""
    shipped = group_data()["services"]
    made: dict[str, Any] = dict(site)
    for name in changes:
        made = _merged(made, BY_NAME[name].data(shipped))
    return made


def _merged(one: Any, other: Any) -> Any:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return {**one, **{key: _merged(one.get(key), each) for key, each in other.items()}}
    return other


# -- drawing -----------------------------------------------------------------------------------------------------------


def drawn(seed: int, number: int) -> Situation:
    """The situation of a number; it begins with the data with which the one before ended."""
    chance = random.Random(f"{seed} {number}")
    before = _changes(seed, number - 1) if number else ()
    after = _changes(seed, number)
    strict = chance.random() < 1 / 2  # whether what is broken is apart, so that each line is looked for
    moving = [BY_NAME[name] for name in {*before, *after}]
    chosen: list[Damage] = []
    most = chance.randint(1, 5)
    for damage in chance.sample(DAMAGES, len(DAMAGES)):
        if len(chosen) < most and _possible(damage, before, after) and _together(damage, chosen, moving, strict):
            chosen.append(damage)
    end: End = chance.choice(("", "", "", "kill -9", "Ctrl-C"))
    if any(damage.first for damage in chosen):
        end = ""
    names = tuple(damage.name for damage in sorted(chosen, key=DAMAGES.index))
    return Situation(before, names, after, end, round(chance.random(), 3) if end else 0.0)


def _changes(seed: int, number: int) -> tuple[str, ...]:
    chance = random.Random(f"data {seed} {number}")
    chosen: list[DataChange] = []
    most = chance.choice((0, 1, 1, 2, 2))
    for change in chance.sample(CHANGES, len(CHANGES)):
        if len(chosen) < most and all(_apart(change.lanes, other.lanes) for other in chosen):
            chosen.append(change)
    return tuple(change.name for change in sorted(chosen, key=CHANGES.index))


def _possible(damage: Damage, before: Sequence[str], after: Sequence[str]) -> bool:
    """Whether there is on the host what it breaks; and what somebody did to a container may come before that goes, but
    nobody repairs the files of a service that goes."""
    of_container = all(lane.split(".")[0] in (O, Q, "dockerd", "needs audit") for lane in damage.lanes)
    names = [*before, *(() if of_container else after)]
    text = " ".join([damage.shell, *damage.compose, *damage.lanes])
    return not any(each and re.search(each, text) for each in (BY_NAME[name].without for name in names))


def _together(damage: Damage, chosen: Sequence[Damage], moving: Sequence[DataChange], strict: bool) -> bool:
    """Whether it can come to the others. What is nobody's to repair, or takes a second apply, is always apart."""
    if "slow" in damage.lanes and any("slow" in other.lanes for other in chosen):
        return False
    bound = [other for other in (damage, *chosen) if other.undo or other.first or "alone" in other.lanes]
    others = chosen if strict or damage in bound else [other for other in chosen if other in bound]
    fits = all(apart(damage, other) for other in others)
    return fits and (not (strict or damage in bound) or all(apart(damage, as_damage(each)) for each in moving))


def _apart(one: Sequence[str], other: Sequence[str]) -> bool:
    return apart(Damage("", lanes=tuple(one)), Damage("", lanes=tuple(other)))


def as_damage(change: DataChange) -> Damage:
    """What a data change concerns, as the lanes of a damage."""
    return Damage(change.name, lanes=change.touches)


# -- what must be seen -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Expected:
    """`sure`: damages, and data changes as such, whose lines the plan must have; `also`: lines that may follow from
    anything there is; `damages`: all, with what may be otherwise than before. `overlap`: something is in the way of
    something else, so that nobody knows which lines there are."""

    damages: list[Damage]
    sure: list[Damage] = field(default_factory=list)
    overlap: bool = False


def expected(situation: Situation) -> Expected:
    """What the plan of a situation must say, and what may be otherwise when all is done."""
    damages = [DAMAGE[name] for name in situation.damages]
    coming = [BY_NAME[name] for name in situation.after if name not in situation.before]
    going = [BY_NAME[name] for name in situation.before if name not in situation.after]
    moved = [replace(as_damage(each), seen=each.seen, also=each.also, changed=each.changed) for each in coming]
    moved += [replace(as_damage(each), seen=each.back, also=each.also, changed=each.changed) for each in going]
    every = [*damages, *moved]
    sure = [each for each in damages if all(apart(each, other) for other in every if other is not each)]
    # Of what moves in the data the same is said whatever somebody broke elsewhere.
    sure += [each for each in moved if all(apart(each, other) for other in damages)] if _plain(coming, going) else []
    return Expected(every, sure, overlap=len(sure) < len(every))


def _plain(coming: Sequence[DataChange], going: Sequence[DataChange]) -> bool:
    """Whether no change of the data hides what another one does."""
    every = [*coming, *going]
    return all(_apart(one.lanes, other.lanes) for one in every for other in every if one is not other)
