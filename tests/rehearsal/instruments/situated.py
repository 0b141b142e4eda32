"""The proof that in a generated situation the plan is what the apply then does, whatever comes together."""

from __future__ import annotations

import os
import random
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from ..world.machine import PROJECT
from .control import Told, as_operator
from .damaged import Snapshot, touched, unexplained, unseen
from .damages import Damage, breaking, fits, said
from .kills import Victim
from .proof import Proof, expect
from .situations import Situation, expected, merged

Change = dict[str, Any]
# What a death leaves for the next run to mend, of which no plan before it knew.
_LEFT_BY_DEATH = r"interrupted|cut off|not read it|not finished|before its files|was not checked|not what .* says|never"


@dataclass
class Situated:
    """One host on which situations are proved one after another. `site`: its data without any of their changes;
    `holds`: the changes that hold on the converged host, None when nobody knows what it is like; `good`: how it then
    looks, when somebody looked."""

    proof: Proof
    site: dict[str, Any]
    holds: tuple[str, ...] | None = ()
    good: Snapshot | None = None
    _numbers: Iterator[int] = field(default_factory=count)

    def prove(self, situation: Situation) -> None:
        """Everything that is claimed of a plan, in this situation."""
        started = time.monotonic()
        self.bring(situation.before)
        wanted = expected(situation)
        self.holds, good, self.good = None, self.good or self.proof.host.snapshot(), None
        try:
            self._prove(situation, wanted.damages, good)
        finally:
            undone = [self.proof.host.root(damage.undo) for damage in wanted.damages if damage.undo]
        expect(all(each.rc == 0 for each in undone), "what is nobody's to repair was still there", undone)
        self.holds = situation.after
        if any(damage.undo for damage in wanted.damages):
            self.good = None
        _tell(f"{time.monotonic() - started:.1f} s")

    def bring(self, changes: tuple[str, ...]) -> None:
        """The host is converged, with these changes of its data."""
        if self.holds == changes:
            return
        self.holds = self.good = None
        self._write(changes)
        for _ in range(2):  # what a failed situation left may take two
            ended = self.proof.control.apply()
            if ended.code == 0:
                break
        expect(ended.code == 0, "the host is brought to where the situation begins", ended.errors)
        self.holds = changes

    def _prove(self, situation: Situation, damages: Sequence[Damage], good: Snapshot) -> None:
        host, control = self.proof.host, self.proof.control
        failed = [command for command in breaking(damages) if host.root(command).rc != 0]
        wanted = expected(situation)
        expect(wanted.overlap or not failed, "what is done to the host can be done", failed)
        self._write(situation.after)
        # What somebody broke is no part of it, when all of that is to be repaired; the services have gone on since.
        damaged = host.snapshot() if any(map(_leaves_something, damages)) else good
        plan = control.plan()
        expect(plan.code in (0, 2), "the plan is made", (plan.code, plan.errors, plan.stderr[-2000:]))
        _tell(f"{len(plan.changes)} changes", end="; ")
        missing = unseen(plan, wanted.sure)
        expect(not missing, "the plan has what is sure", "\n".join(missing))
        strange = _strange(plan, damages) if wanted.overlap else unexplained(plan, damages)
        expect(not strange, "the plan has nothing that nobody asked for", "\n".join(strange))
        planned = [plan]
        if situation.end and len(plan.changes) > 1:
            planned.append(self._after_death(situation, plan))
        elif any(damage.first for damage in damages):
            planned.append(self._after_finding_out(damages))
        told = control.apply()
        expect(told.code == 0, "one apply repairs, and every service answers", (told.errors, told.stderr[-2000:]))
        done = [*told.changes, *(_already_done(told) if situation.end else [])]
        other = sorted(set(done) ^ set(planned[-1].changes))
        expect(sorted(done) == sorted(planned[-1].changes), "performed equals planned", other)
        second = control.plan()
        expect(second.code == 0 and not second.changes, "the second plan is empty", _lines(second) or second.errors)
        every = Told(2, {"changes": [each for one in planned for each in (one.document or {})["changes"]]}, "")
        self.good = host.snapshot()
        end = _without_pulled(self.good, every)
        left = list(touched(good, damaged, end, damages, every))
        expect(not left, "everything is as it was, and nothing else was touched", "\n".join(left))

    def _after_finding_out(self, damages: Sequence[Damage]) -> Told:
        """The plan after an apply that found out what only the next one may do."""
        ended = self.proof.control.apply()
        whats = [error["what"] for error in ended.errors]
        for damage in damages:
            if damage.first:
                found = any(re.search(damage.first, what) for what in whats)
                expect(ended.code == 1 and found, damage.name, whats)
        return self.proof.control.plan()

    def _after_death(self, situation: Situation, plan: Told) -> Told:
        """The plan after an apply that died: what it began stands at the beginning of the first plan, in its order, and
        what is planned now was planned before, or is what such a death leaves."""
        chance = random.Random(str(situation))
        number = max(1, round(situation.moment * len(plan.changes)))
        host = self.proof.host
        command = ["-m", "gpuhost.cli.main", "apply", "--yes", "-i", str(host.inventory)]
        said_file = host.run_dir / f"died-{next(self._numbers)}.txt"
        environment = {**os.environ, "NO_COLOR": "1", "XDG_STATE_HOME": str(host.run_dir / "state")}
        victim = Victim([*as_operator(host), sys.executable, *command], PROJECT, environment, said_file)
        victim.live(chance.random() ** 2 * 3, lambda: victim.said.count("doing: ") >= number)
        ended = victim.interrupt() if situation.end == "Ctrl-C" else victim.kill()
        text = victim.said
        _tell(f"{situation.end}{'' if ended else ' came late'} at {text.count('doing: ')}", end="; ")
        for word in ("Traceback", "KeyboardInterrupt", "defect of gpuhost", "does not know why"):
            expect(word not in text, f"no `{word}` after {situation.end}", text[-3000:])
        order = _out_of_order(text, plan)
        expect(not order, "what was done is how the plan begins", "\n".join(order))
        then = self.proof.control.plan()
        expect(then.code in (0, 2), "a plan is made after the death", (then.errors, then.stderr[-2000:]))
        known = {(stage, name) for stage, name, _ in plan.changes}
        new = [
            f"{change['stage']}: {change['action']} {change['resource']['name']}: {said(change)}"
            for change in (then.document or {})["changes"]
            if (change["stage"], change["resource"]["name"]) not in known
            and not re.search(_LEFT_BY_DEATH, change["reason"])
        ]
        expect(not new, "after a death the plan has nothing new", "\n".join(new))
        return then

    def _write(self, changes: Sequence[str]) -> None:
        """The site's data, with these changes."""
        self.proof.host.write_inventory(merged(changes, self.site))


def _leaves_something(damage: Damage) -> bool:
    """Whether it adds what stays, or what a repair removes."""
    return bool(damage.stays or damage.undo or damage.goes or any("image:" in lane for lane in damage.lanes))


def _tell(text: str, end: str = "\n") -> None:
    print(text, end=end, flush=True)


def _already_done(told: Told) -> list[tuple[str, str, str]]:
    listed = (told.document or {}).get("already_done", [])
    return [(change["stage"], change["resource"]["name"], change["action"]) for change in listed]


def _lines(told: Told) -> list[str]:
    return [
        f"{change['stage']}: {change['action']} {change['resource']['name']}: {said(change)}"
        for change in (told.document or {}).get("changes", [])
    ]


def _strange(plan: Told, damages: Sequence[Damage]) -> list[str]:
    """The lines of things that nothing of the situation concerns; what is done with one that something concerns may be
    otherwise when several things come together."""
    keys = [key for damage in damages for key in (*(seen.key for seen in damage.seen), *damage.also)]
    changes: list[Change] = (plan.document or {})["changes"]
    return [
        line
        for line, change in zip(_lines(plan), changes, strict=True)
        if not any(fits((stage, name, change["action"]), change) for stage, name, _ in keys)
    ]


def _out_of_order(text: str, plan: Told) -> list[str]:
    """What was announced otherwise than a beginning of the plan. Packages are installed by an operation of pyinfra's,
    which announces nothing."""
    own = [change for change in (plan.document or {})["changes"] if change["resource"]["kind"] != "packages"]
    lines = [f"{change['stage']}: {change['action']} {change['resource']['name']}: " for change in own]
    announced = re.findall(r"^\[\S+\] doing: (.*)$", text, re.MULTILINE)
    found = [
        f"began `{line}` where the plan has `{wanted}`"
        for line, wanted in zip(announced, lines, strict=False)
        if not line.startswith(wanted)
    ]
    return found + [f"began `{line}` beyond the plan" for line in announced[len(lines) :]]


def _without_pulled(end: Snapshot, plan: Told) -> Snapshot:
    """The host without the images that the plan was to pull, which Docker lists by a shorter name."""
    pulled = {name.removeprefix("docker.io/") for stage, name, action in plan.changes if action == "pull"}
    return {**end, "images": [line for line in end["images"] if line.split()[0] not in pulled]}
