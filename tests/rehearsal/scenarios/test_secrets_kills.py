"""kill -9 at random moments of generate, rotate, sync: no secret lost, no torn file, the rerun converges."""

from __future__ import annotations

import json
import os
import random
import secrets as entropy
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import count
from pathlib import Path
from re import Pattern

import pytest

from gpuhost.secrets import envfile

from ..instruments import kills
from ..instruments.control import Told
from ..instruments.kills import OnHost, Victim
from ..instruments.vault import Vault
from ..world.machine import PROJECT
from ..world.run import run

pytestmark = pytest.mark.rehearsal
SEED = 20260307
KEPT_OUT = 5  # times that a command may end before its moment comes
NOTE = "# a colleague's note: \"two' quotes\n\n"
OWN = "  MY_OWN_SETTING = kept as it is   # with its comment\n"
TOKEN, KEY = "ORCHESTRATOR_TOKEN", "LABEL_HMAC_KEY"
LOST = ("VLLM_API_KEY_MICRO", "VLLM_API_KEY_MINI", "VLLM_API_KEY_MEDIUM", TOKEN)
ASKED = {TOKEN: (8193, "/services"), "COMFYUI_PASSWORD_HASH": (8188, "/system_stats")}


@dataclass(frozen=True)
class Kind:
    """What is killed. `changes`: the secrets that get another value; `runs`: how often it starts pyinfra."""

    words: tuple[str, ...]
    changes: tuple[str, ...]
    runs: int


KINDS = {
    "rotate-token": Kind(("rotate", TOKEN), (TOKEN,), 3),
    "rotate-password": Kind(("rotate", "COMFYUI_PASSWORD"), ("COMFYUI_PASSWORD", "COMFYUI_PASSWORD_HASH"), 3),
    "sync": Kind(("sync",), (TOKEN,), 2),
    "generate": Kind(("sync",), LOST, 2),
}


@dataclass(frozen=True)
class Moment:
    """When a command dies: `part` of its usual duration and `after_s` behind its `anchor`, "" for its start."""

    kind: str
    part: float = 0.0
    after_s: float = 0.0
    anchor: str = ""
    parent_only: bool = False

    def __str__(self) -> str:
        when = f"{self.part:.1%} + {self.after_s * 1000:.1f} ms behind {self.anchor or 'its start'}"
        return f"{self.kind}{', the parent only,' if self.parent_only else ''} at {when} (seed {SEED})"


def moments(kind: str, number: int, parent_only: bool = False) -> list[Moment]:
    """Random ones, one in each of `number` equal parts of the command's time."""
    chance = random.Random(f"{SEED} {kind} {parent_only}")
    return [Moment(kind, (part + chance.random()) / number, parent_only=parent_only) for part in range(number)]


def behind(anchor: str, kind: str, number: int, part: float = 0.0, spread_s: float = 0.0) -> list[Moment]:
    """Random ones in the time behind an event, which is too short for chance to meet it often."""
    chance = random.Random(f"{SEED} {kind} {anchor}")
    return [Moment(kind, chance.random() * part, chance.random() * spread_s, anchor) for _ in range(number)]


MOMENTS = [
    *moments("rotate-token", 6),
    *behind("retired", "rotate-token", 3, spread_s=0.012),
    *behind("settled", "rotate-token", 3, spread_s=0.02),
    *behind("rendered", "rotate-token", 2, part=0.2),
    *behind("created", "rotate-token", 3, spread_s=1.5),
    *moments("rotate-password", 3),
    *behind("retired", "rotate-password", 2, spread_s=0.4),
    *behind("created", "rotate-password", 2, spread_s=1.5),
    *moments("sync", 8),
    *behind("rendered", "sync", 2, part=0.3),
    *behind("created", "sync", 3, spread_s=1.5),
    *moments("generate", 7),
    *behind("written", "generate", 3, spread_s=0.02),
    *behind("created", "generate", 3, spread_s=1.5),
]
ORPHANS = [*moments("rotate-token", 2, True), *moments("sync", 2, True), *moments("generate", 1, True)]
assert (len(MOMENTS), len(ORPHANS)) == (50, 5)


@dataclass(frozen=True, repr=False)  # no failure shows a value
class State:
    """Control and host at one time. `text`: the control's file; `retired`: what was rotated away and is not proved."""

    text: str
    values: Mapping[str, str]
    retired: Mapping[str, list[str]]
    host: OnHost


@dataclass
class Scene:
    """The vault, and how long its commands usually take."""

    vault: Vault
    usual_s: dict[str, float] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=count)

    @cached_property
    def disk(self) -> Path:
        """The host's root folder, as this machine sees it."""
        shown = run(["docker", "inspect", "-f", "{{.State.Pid}}", self.vault.host.container])
        return Path("/proc", shown.stdout.strip(), "root")

    @property
    def file(self) -> Path:
        """The control's file of secrets."""
        return self.vault.secrets_file

    @property
    def retired_file(self) -> Path:
        """The control's file of what was rotated away."""
        return self.file.with_name(f"{self.vault.host.name}.retired.json")

    @property
    def temporary(self) -> Path:
        """Where the commands put what they will remove."""
        return Path(self.vault.control.environment["TMPDIR"])

    def state(self) -> State:
        """As it is now; the control's files must be whole and private."""
        for path in self.file.parent.iterdir():
            assert path.stat().st_mode & 0o177 == 0, f"{path.name} has mode {path.stat().st_mode & 0o7777:o}"
        assert self.file.parent.stat().st_mode & 0o777 == 0o700
        text = envfile.read_private(self.file)
        retired = envfile.read_private(self.retired_file)
        assert text is not None, "the control's file is gone"
        loaded = {} if retired is None else json.loads(retired)
        return State(text, envfile.read(self.file), loaded, kills.look(self.vault.host))

    def start(self, kind: str) -> Victim:
        """The command of a kind, as a person would start it."""
        inventory = str(self.vault.host.inventory)
        command = [sys.executable, "-m", "gpuhost.cli.main", "secrets", *KINDS[kind].words, "--yes", "-i", inventory]
        environment = {**os.environ, "NO_COLOR": "1", **self.vault.control.environment}
        return Victim(command, PROJECT, environment, self.vault.host.run_dir / f"said-{next(self._numbers)}.txt")

    def rerun(self, kind: str) -> Told:
        """The same command, undisturbed."""
        return self.vault.control.secrets(*KINDS[kind].words)

    def live(self, victim: Victim, moment: Moment) -> None:
        """Let a command live until its moment."""
        if moment.anchor == "settled":
            victim.live(0, self.retired_file.exists)
        event = self._event(moment.anchor) if moment.anchor else None
        victim.live(moment.part * self.usual_s[moment.kind] + moment.after_s, event)

    def _event(self, anchor: str) -> Callable[[], bool]:
        """Whether it has happened; the host's disk is looked at from here, so that the look takes no time."""
        text, env_file = envfile.read_private(self.file), self.disk / "srv/genai/stacks/orchestrator/.env.docker"
        written, containers = env_file.stat().st_mtime_ns, self.disk / "var/lib/docker/containers"
        known = set(containers.iterdir())
        events: dict[str, Callable[[], bool]] = {
            "retired": self.retired_file.exists,
            "settled": lambda: not self.retired_file.exists(),
            "written": lambda: envfile.read_private(self.file) != text,
            "rendered": lambda: env_file.stat().st_mtime_ns != written,
            "created": lambda: not known.issuperset(containers.iterdir()),
        }
        return events[anchor]


@pytest.fixture(scope="module")
def scene(vault: Vault) -> Iterator[Scene]:
    """Every moment finds it converged. The control's file holds what only its operator knows the meaning of."""
    made = Scene(vault)
    original = envfile.read_private(made.file)
    assert original is not None
    marked = f"{NOTE}{original}{OWN}".replace(f"\n{TOKEN}=", f"\n{OWN}{NOTE}export {TOKEN}=")
    envfile.replace(made.file, marked)
    began = time.monotonic()
    assert vault.control.secrets("audit").code == 0
    audit_s = time.monotonic() - began  # one run of pyinfra: the pace of this machine today
    made.usual_s = {name: audit_s * 1.5 * kind.runs for name, kind in KINDS.items()}
    yield made
    text = (
        (envfile.read_private(made.file) or "")
        .replace(OWN, "")
        .replace(NOTE, "")
        .replace(f"export {TOKEN}=", f"{TOKEN}=")
    )
    envfile.replace(made.file, text)
    vault.secrets()


def test_killed_at_a_sample_of_moments(scene: Scene) -> None:
    """One of each kind, where most was found: between two files, between two containers, right after a write."""
    chance = random.Random(SEED)
    for kind, anchor in (("rotate-token", "retired"), ("sync", "created"), ("generate", "written")):
        die_and_run_again(
            scene, chance.choice([each for each in MOMENTS if (each.kind, each.anchor) == (kind, anchor)])
        )
    converged(scene)


@pytest.mark.soak
@pytest.mark.parametrize("number", range(len(MOMENTS)))
def test_killed_at_every_moment(scene: Scene, number: int) -> None:
    die_and_run_again(scene, MOMENTS[number])
    converged(scene)


@pytest.mark.soak
@pytest.mark.parametrize("number", range(len(ORPHANS)))
def test_the_parent_is_killed_and_its_child_lives_on(scene: Scene, number: int) -> None:
    die_and_run_again(scene, ORPHANS[number])
    converged(scene)


def die_and_run_again(scene: Scene, moment: Moment) -> None:
    """The command dies, nothing is lost or torn; the same command again makes all right."""
    try:
        before, victim = _killed(scene, moment)
        now = scene.state()
        _check_control(moment.kind, before, now)
        _check_host(scene, moment.kind, before, now)
        _check_leftovers(scene, before, now)
        print(f"{moment}: {_where(before, now)}")
        began = time.monotonic()
        told = scene.rerun(moment.kind)
        if moment.parent_only:
            told = _behind_an_orphan(scene, moment, victim, told)
        assert told.code == 0, (told.errors, told.stderr[-3000:])
        scene.usual_s[moment.kind] = time.monotonic() - began if not moment.parent_only else scene.usual_s[moment.kind]
        _check_rerun(scene, moment.kind, before, now)
    except BaseException as error:
        error.add_note(str(moment))
        scene.vault.control.apply()  # the next moment begins with a converged host,
        scene.rerun(moment.kind)  # and with nothing left to prove
        raise


def _killed(scene: Scene, moment: Moment) -> tuple[State, Victim]:
    """The state before, and the command that was killed at its moment."""
    for _ in range(KEPT_OUT):
        before = scene.state()
        _prepare(scene, moment.kind, before)
        victim, began = scene.start(moment.kind), time.monotonic()
        scene.live(victim, moment)
        if victim.kill(moment.parent_only):
            return before, victim
        assert victim.code == 0, victim.said[-3000:]
        scene.usual_s[moment.kind] = time.monotonic() - began
        moment = replace(moment, part=moment.part * 0.9, after_s=moment.after_s / 2)
    raise AssertionError("the command ended before its moment, every time")


def _prepare(scene: Scene, kind: str, before: State) -> None:
    """What makes the command necessary."""
    if kind == "sync":
        value = {TOKEN: entropy.token_urlsafe(32)}
        envfile.replace(scene.file, envfile.with_values(before.text, value))
    elif kind == "generate":
        envfile.replace(scene.file, kills.without(before.text, LOST))


def _expected(kind: str, before: State) -> list[Pattern[str]]:
    """What the control's file may be after the death of a command, byte for byte."""
    if kind == "generate":
        return [kills.appended(kills.without(before.text, LOST), LOST)]
    unchanged = [] if kind == "sync" else [kills.rotated(before.text, ())]
    return [*unchanged, kills.rotated(before.text, KINDS[kind].changes)]


def _check_control(kind: str, before: State, now: State) -> None:
    assert any(each.fullmatch(now.text) for each in _expected(kind, before)), "the control's file is torn"
    for name, value in before.values.items():
        if name not in KINDS[kind].changes:
            assert now.values.get(name) == value, f"{name} is lost"
    if kind.startswith("rotate"):
        settled = not now.retired
        for name in KINDS[kind].changes:
            known = {now.values[name], *now.retired.get(name, [])}
            assert settled or before.values[name] in known, f"the old {name} is forgotten, and not proved refused"
        assert settled or set(now.retired) == set(KINDS[kind].changes)
    else:
        assert not now.retired


def _check_host(scene: Scene, kind: str, before: State, now: State) -> None:
    torn = kills.torn(before.host, now.host, before.values, now.values, now.values[KEY])
    assert not torn, torn
    for container, name, value in now.host.held(now.values.keys() | before.values.keys()):
        known = {now.values.get(name), *now.retired.get(name, [])}
        if not kind.startswith("rotate"):
            known.add(before.values[name])  # that of before is the operator's to know: he changed it
        assert value in known, f"{container} runs with a {name} that nobody knows"
    if kind.startswith("rotate") and not now.retired and now.values != before.values:
        _refused_and_taken(scene, kind, before, now)


def _check_leftovers(scene: Scene, before: State, now: State) -> None:
    """What the dead left in its folder of temporary files is no secret."""
    ever = {value.encode() for state in (before, now) for name, value in state.values.items() if len(value) > 15}
    for path in scene.temporary.rglob("*"):
        if path.is_file():
            assert not [value for value in ever if value in path.read_bytes()], f"{path} holds a secret"


def _behind_an_orphan(scene: Scene, moment: Moment, victim: Victim, told: Told) -> Told:
    """The rerun met the child, which works on, or did not; when it was refused, then in a sentence."""
    worked = victim.wait_for_children()
    if told.code == 0:
        return told
    print(f"{moment}: the rerun was refused ({'beside' if worked else 'after'} the child): {told.errors}")
    assert told.code == 1 and told.errors, told.stderr[-3000:]
    for error in told.errors:
        assert error["what"] and error["hint"] and "does not know why" not in error["what"], error
    return scene.rerun(moment.kind)


def _check_rerun(scene: Scene, kind: str, before: State, killed: State) -> None:
    after = scene.state()
    assert sorted(path.name for path in scene.file.parent.iterdir()) == [".lock", scene.file.name]
    assert not after.host.leftovers(), after.host.leftovers()
    assert any(each.fullmatch(after.text) for each in _expected(kind, before))
    assert set(after.values) == set(before.values)
    assert sorted(each["name"] for each in after.host.containers) == ["comfyui-qwen", "orchestrator"]
    for container, name, value in after.host.held(after.values):
        assert value == after.values[name], f"{container} still runs with another {name}"
    for name in KINDS[kind].changes:
        assert after.values[name] != before.values[name], f"{name} is still the old one"
        going_on = name not in killed.retired or killed.values[name] not in killed.retired[name]
        if name in killed.values and (killed.retired or not kind.startswith("rotate")) and going_on:
            assert after.values[name] == killed.values[name], f"{name} was made anew, though it was new already"
    _refused_and_taken(scene, kind, before, after)


def _refused_and_taken(scene: Scene, kind: str, before: State, now: State) -> None:
    for name in ASKED.keys() & set(KINDS[kind].changes):
        answers = [scene.vault.status(*ASKED[name], state.values[name]) for state in (before, now)]
        assert answers == [401, 200], f"the old and the new {name} get {answers}"


def converged(scene: Scene) -> None:
    """All is in sync, and there is nothing to do."""
    with ThreadPoolExecutor() as pool:
        audit, plan = pool.submit(scene.vault.control.secrets, "audit"), pool.submit(scene.vault.control.plan)
    assert audit.result().code == 0, (audit.result().document, audit.result().stderr[-3000:])
    assert plan.result().code == 0 and not plan.result().changes, (plan.result().changes, plan.result().errors)


def _where(before: State, now: State) -> str:
    """How far it came, for who reads along."""
    files = [path for path, file in now.host.files.items() if file != before.host.files.get(path)]
    ids = [f"{each['name']} {each['state']}" for each in now.host.containers]
    control = [name for name in before.values if now.values.get(name) != before.values[name]]
    return (
        f"control: {len(control)} changed, retired: {len(now.retired)}; host: {len(files)} files changed, "
        f"{ids}, at work: {len(now.host.at_work)}, leftovers: {now.host.leftovers()}"
    )
