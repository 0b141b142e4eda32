"""Deploys that end early, one after the other on the same host, by kill -9 or by Ctrl-C at chosen moments."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Literal

from ..world.machine import PROJECT
from .control import as_operator
from .kills import Victim
from .proof import Proof, expect

Signal = Literal["kill -9", "Ctrl-C"]
DOING = "doing: "  # what a run says of each change before it makes it
PLANNING_S = 4.0
SURELY_PLANNING_S = 1.0


@dataclass
class Interrupted:
    """A host whose deploys are interrupted. `chance`: of the moments; `changes`: how many a whole deploy would make."""

    proof: Proof
    chance: random.Random
    changes: int
    made: int = 0
    _numbers: Iterator[int] = field(default_factory=count)

    def by(self, signal: Signal, left: int) -> bool:
        """Start a deploy and end it at a moment such that `left` more find something to do; False when it was faster.

        A moment is some time behind the announcement of a change; one in eight lies in the planning, and so do those
        that come when all may be done.
        """
        number, delay_s = self._moment(left)
        victim = self._start()
        victim.live(delay_s, lambda: victim.said.count(DOING) >= number if number else True)
        ended = victim.interrupt() if signal == "Ctrl-C" else victim.kill()
        said = victim.said
        self.made += said.count(DOING)
        print(f"{signal} {delay_s:.2f} s behind change {number}: {said.count(DOING)} announced", flush=True)
        for word in ("Traceback", "KeyboardInterrupt", "defect of gpuhost", "does not know why"):
            expect(word not in said, f"no `{word}` after {signal}", said[-3000:])
        if not ended:
            expect(victim.code == 0, "a deploy that was faster succeeds", said[-3000:])
        elif signal == "Ctrl-C" and victim.code != 0:  # 0: the step at hand was the last
            expect(victim.code == 130, "Ctrl-C ends it with exit code 130", (victim.code, said[-3000:]))
            expect("stopped from the keyboard" in said, "Ctrl-C is told in a sentence", said[-3000:])
        return ended

    def finish(self) -> None:
        """The next deploy goes on to the end: exit 0, every service answers, and there is nothing left to do."""
        told = self.proof.control.apply()
        expect(told.code == 0, "the rerun succeeds", (told.errors, told.stderr[-3000:]))
        self.proof.answers("verify after the interruptions")
        self.proof.secrets_in_step()
        self.proof.nothing_to_do()

    def _moment(self, left: int) -> tuple[int, float]:
        """(how many changes are announced, seconds behind that)."""
        if self.made >= self.changes:  # what is left may be nothing: only its planning is sure to come
            return 0, self.chance.random() * SURELY_PLANNING_S
        if self.chance.random() < 1 / 8:
            return 0, self.chance.random() * PLANNING_S
        most = max(1, (self.changes - self.made) // (left + 1))
        return self.chance.randint(1, most), self.chance.random() ** 2 * 3

    def _start(self) -> Victim:
        host = self.proof.host
        command = ["-m", "gpuhost.cli.main", "apply", "--yes", "-i", str(host.inventory)]
        line = [*as_operator(host), sys.executable, *command]
        said = host.run_dir / f"interrupted-{next(self._numbers)}.txt"
        environment = {**os.environ, "NO_COLOR": "1", "XDG_STATE_HOME": str(host.run_dir / "state")}
        return Victim(line, PROJECT, environment, said)
