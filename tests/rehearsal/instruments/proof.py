"""The proof of the whole path, step by step, with its report: what `make rehearse` runs and CI repeats."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..world.freshhost import FreshHost
from ..world.snapshot import diff_snapshots, written
from .control import Control, Told

STAGES = ("engine", "gpu", "layout", "secrets", "models", "images", "installs", "stacks")


class NotProved(AssertionError):
    """A step of the proof failed; the message says which and what was seen."""


def expect(condition: bool, what: str, seen: object = "") -> None:
    """Raise NotProved unless the condition holds."""
    if not condition:
        raise NotProved(f"{what}: {seen}" if seen != "" else what)


@dataclass
class Proof:
    """Runs the steps on one host and keeps what was measured. `gpu`: the host has a GPU."""

    host: FreshHost
    gpu: bool = True
    phases_s: dict[str, float] = field(default_factory=dict)
    runs: list[dict[str, Any]] = field(default_factory=list)
    probes: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.control = Control(self.host)

    def run(self) -> None:
        """Bare host to answering services; nothing to do the second time; the same after a reboot."""
        planned = self.bare_plan()
        self.first_apply(planned)
        self.answers("verify")
        self.secrets_in_step()
        self.nothing_to_do()
        self.second_apply()
        self.survives_reboot()

    def bare_plan(self) -> Told:
        """The plan of a bare host lists every stage, exits 2, and leaves the host as it was."""
        self.host.ssh("sudo -n true")  # sudo leaves a file of its own in the home at its first use
        before, times, rules = self.host.snapshot(), self.host.times(), self.host.packet_filter()
        with self._phase("plan on the bare host"):
            told = self.control.plan()
        touched = written(times, self.host.times())
        expect(self.host.packet_filter() == rules, "a plan changes no rule of the packet filter")
        self._note("plan on the bare host", told)
        expect(told.code == 2, "the plan of a bare host exits 2", (told.code, told.errors, told.stderr))
        stages = {stage for stage, _, _ in told.changes}
        wanted = {stage for stage in STAGES if self.gpu or stage not in ("gpu", "installs", "models")}
        expect(stages == wanted, "the plan of a bare host lists every stage", sorted(wanted ^ stages))
        expect(not (changed := diff_snapshots(before, self.host.snapshot())), "a plan changes nothing", changed)
        expect(not touched, "a plan writes nothing, not even what is there", touched)
        return told

    def first_apply(self, planned: Told) -> None:
        """The apply does exactly what was planned."""
        with self._phase("apply on the bare host"):
            told = self.control.apply()
        self._note("apply on the bare host", told)
        expect(told.code == 0, "the first apply succeeds", (told.errors, told.stderr[-3000:]))
        expect(sorted(told.changes) == sorted(planned.changes), "performed equals planned", told.changes)

    def answers(self, phase: str) -> None:
        """Every service answers, without a deploy."""
        with self._phase(phase):
            told = self.control.verify()
        self._note(phase, told)
        expect(told.code == 0 and told.document is not None, "every service answers", (told.errors, told.stderr))
        observed = told.document["observed"] if told.document else []
        for seen in observed:
            for probe in seen["probes"]:
                self.probes.append({"phase": phase, "service": seen["service"], **probe})
        names = {seen["service"] for seen in observed}
        wanted = {"orchestrator", "comfyui-qwen"} if self.gpu else {"orchestrator"}
        expect(names == wanted, "the right services run", sorted(names))

    def secrets_in_step(self) -> None:
        """Every location of every secret holds the right value."""
        with self._phase("audit of the secrets"):
            told = self.control.secrets("audit")
        locations = told.document["locations"] if told.document else []
        expect(
            told.code == 0 and len(locations) > 8, "every secret is in sync in every location", (told.errors, locations)
        )

    def nothing_to_do(self) -> None:
        """A second plan is empty and exits 0."""
        with self._phase("second plan"):
            told = self.control.plan()
        self._note("second plan", told)
        expect(told.code == 0 and not told.changes, "a second plan finds nothing to do", told.changes or told.errors)

    def second_apply(self) -> None:
        """A second run changes nothing, seen from outside: by `gpuhost apply` and by plain pyinfra."""
        with self._unchanged():
            with self._phase("second apply"):
                told = self.control.apply()
            self._note("second apply", told)
            expect(told.code == 0 and not told.changes, "a second apply changes nothing", told.changes or told.errors)
            self._plain()

    def second_run(self) -> None:
        """The same where a plan is made instead of the apply, which would stop there."""
        with self._unchanged():
            self.nothing_to_do()
            self._plain()

    def survives_reboot(self) -> None:
        """Services come back by themselves."""
        with self._phase("reboot"):
            self.host.reboot()
        self.answers("verify after the reboot")
        with self._phase("plan after the reboot"):
            told = self.control.plan()
        self._note("plan after the reboot", told)
        expect(told.code == 0, "after a reboot there is nothing to do", told.changes or told.errors)

    def report(self) -> dict[str, Any]:
        """What was measured. Phases in seconds."""
        return {"host": self.host.name, "phases_s": self.phases_s, "runs": self.runs, "probes": self.probes}

    def _plain(self) -> None:
        with self._phase("second apply, plain pyinfra"):
            plain = self.control.pyinfra("-y")
        expect(plain.returncode == 0, "plain pyinfra succeeds", plain.stderr[-3000:])

    @contextmanager
    def _unchanged(self) -> Iterator[None]:
        before, rules = self.host.snapshot(), self.host.packet_filter()
        yield
        changed = diff_snapshots(before, self.host.snapshot())
        expect(not changed, "the host is the same before and after, seen from outside", changed)
        after = self.host.packet_filter()
        expect("table" in after and after == rules, "the packet filter's rules are the same", (rules, after))

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        print(f"{name} ...", flush=True)
        started = time.monotonic()
        try:
            yield
        finally:
            self.phases_s[name] = round(time.monotonic() - started, 2)
            print(f"{self.phases_s[name]:8.2f} s  {name}", flush=True)

    def _note(self, name: str, told: Told) -> None:
        changes = [" ".join(change) for change in told.changes]
        kind = "planned" if "plan" in name else "performed"
        self.runs.append({"run": name, "exit": told.code, kind: changes, "errors": told.errors})


def write_report(path: Path, document: dict[str, Any]) -> None:
    """Write the report as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")
