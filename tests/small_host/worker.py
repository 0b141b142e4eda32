"""A small host on this machine: the product's own stages, run by pyinfra in this process, with real files and shells.

It has a root of its own for what they write (a mount namespace), accounts of its own, and the `docker`, `systemctl` and
`nft` of programs.py. Reads situations as JSON lines, answers each with a line.

    unshare --mount --pid --mount-proc --fork --kill-child python -m tests.small_host.worker FOLDER
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from pyinfra.api.config import Config
from pyinfra.api.connect import connect_all, disconnect_all
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.host import Host
from pyinfra.api.inventory import Inventory
from pyinfra.api.operations import run_ops
from pyinfra.api.state import State, StateStage
from pyinfra.connectors.util import CommandOutput
from pyinfra.context import ctx_host, ctx_state

from gpuhost.plan import report
from gpuhost.plan.spec import canonical, digest
from gpuhost.project import PROJECT
from gpuhost.run import ahead, session
from gpuhost.run import data as data_names
from gpuhost.run.host_run import HostRun
from gpuhost.run.remote import Script
from gpuhost.run.stage import read_ahead
from tasks import layout, stacks
from tests.small_host.programs import CLIENT, DIES, PROGRAMS
from tests.small_host.situations import (
    ACCOUNTS,
    DAMAGES,
    DATA,
    NEW_NAME,
    ROOT,
    catalog_changes,
    secrets,
    wanted,
)
from tests.unit import sample

Event = dict[str, Any]
Seen = dict[str, str]
UNITS = Path("/etc/systemd/system")
# What must not be there unless a fresh host has it: compose files, secret files, units.
_NO_OTHERS = re.compile(
    rf"^{DATA}/stacks/(?!archived/)[^/]+/(docker-compose[^/]*\.yml|secrets/[^/]+/.+)$|^{UNITS}/gpuhost-[^/]+$"
)
FOREIGN_FILES = ("data/mine", "data/stacks/mine/note", "data/stacks/front/note", "data/outputs/mine", "tools/mine")


class Death:
    """What of a run's commands is still carried out: `left`, None for all; compose ends at `in_compose` in the last."""

    left: int | None = None
    in_compose: int | None = None
    done = 0
    file = Path()  # which tells compose


def _execute(self: Script, state: State, host: Host, connector_arguments: Any) -> tuple[bool, CommandOutput]:
    if Death.left is not None:
        if Death.done >= Death.left:
            return False, CommandOutput([])  # nobody is there any more who would run it
        if Death.done == Death.left - 1 and Death.in_compose is not None:
            Death.file.write_text(str(Death.in_compose))
    Death.done += 1
    try:
        return _whole(self, state, host, connector_arguments)
    finally:
        Death.file.unlink(missing_ok=True)


_whole = Script.execute


class SmallHost:
    """The host in this process's view of the file system."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._kept: dict[str, Path] = {}
        self._good: dict[str, tuple[Seen, dict[str, Event], Event]] = {}

    # -- making one -----------------------------------------------------------------------------------------------

    def mount(self) -> None:
        """What the product writes goes into folders of its own; nobody else sees them."""
        _sh("mount --make-rprivate /")
        for path in (Path(ROOT), UNITS, Path("/run")):
            own = self.folder / path.name
            own.mkdir()
            own.chmod(0o755)
            _sh(f"mount --bind {own} {path}")
        for name, line in (("passwd", "{0}:x:{1}:{1}::/:/usr/sbin/nologin\n"), ("group", "{0}:x:{1}:\n")):
            own, taken = self.folder / name, {str(uid) for uid in ACCOUNTS.values()}
            kept = [
                each for each in Path(f"/etc/{name}").read_text().splitlines(True) if not taken & {*each.split(":")}
            ]
            own.write_text("".join(kept) + "".join(line.format(*account) for account in ACCOUNTS.items()))
            _sh(f"mount --bind {own} /etc/{name}")
        programs = self.folder / "bin"
        programs.mkdir()
        for name in PROGRAMS:
            (programs / name).write_text(CLIENT.replace("@FOLDER@", str(self.folder)))
            (programs / name).chmod(0o755)
        serving = [sys.executable, "-m", "tests.small_host.programs", str(self.folder)]
        self._programs = subprocess.Popen(serving, cwd=PROJECT, stdin=subprocess.DEVNULL)
        while not (self.folder / "calls/all").exists():
            time.sleep(0.01)
        os.environ["PATH"] = f"{programs}:{os.environ['PATH']}"
        os.environ["SMALL_HOST"] = str(self.folder)

    def end(self) -> None:
        """Nobody answers for its programs any more."""
        self._programs.kill()
        self._programs.wait()

    def bare(self) -> None:
        """Nothing but what is nobody's of ours, and the programs that an earlier stage brings."""
        _emptied(Path(ROOT))
        _emptied(UNITS)
        networks = {"bridge": {"subnets": ["172.17.0.0/16"]}, "mine": {"subnets": ["172.29.0.0/16"]}}
        state = {"containers": {}, "networks": networks, "units": {}, "tables": {}}
        (self.folder / "state.json").write_text(json.dumps(state))
        for name in FOREIGN_FILES:
            path = Path(ROOT, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("mine\n")
            path.chmod(0o640)
        (UNITS / "mine.service").write_text("[Service]\nExecStart=/bin/true\n")
        _sh("docker create --name mine-stands --label mine=1 mine:1")
        _sh(f"install -d {ROOT}/tools/venv/bin {ROOT}/state; ln -s {PROJECT}/files/host {ROOT}/tools/programs")
        # Of the host programs the one that looks at folders runs; what the others say is no part of this.
        python = Path(ROOT, "tools/venv/bin/python")
        python.write_text(
            f'#!/bin/sh\ncase "$*" in *hostside.binds*) exec {sys.executable} "$@";; esac\n'
            'cat >/dev/null; echo "error: not on this host" >&2; exit 3\n'
        )
        python.chmod(0o755)

    def converged(self, data: Event) -> None:
        """The host as an apply on a bare one leaves it; made once, then copied."""
        key = digest(data)
        if key not in self._kept:
            self.bare()
            planned = self.plan(data)
            _expect(self.apply(data, planned), planned)
            self._good[key] = self.files(), self.containers(), self.loaded()
            kept = self.folder / f"kept-{key}"
            kept.mkdir()
            for path in (Path(ROOT), UNITS, self.folder / "state.json"):
                _sh(f"cp -a {path} {kept}/")
            self._kept[key] = kept
            return
        for path in (Path(ROOT), UNITS):
            _emptied(path)
            _sh(f"cp -a {self._kept[key]}/{path.name}/. {path}/")
        shutil.copy2(self._kept[key] / "state.json", self.folder / "state.json")

    # -- the product ----------------------------------------------------------------------------------------------

    def plan(self, data: Event) -> list[Event]:
        """The events of a plan."""
        return self._run(data, None)

    def apply(self, data: Event, planned: list[Event]) -> list[Event]:
        """The events of an apply with that plan as its allow-list."""
        return self._run(data, planned)

    def _run(self, data: Event, planned: list[Event] | None) -> list[Event]:
        told, allow = self.folder / "report.jsonl", self.folder / "allow.json"
        told.unlink(missing_ok=True)
        names = {data_names.REPORT_DATA: str(told)}
        if planned is not None:
            allow.write_text(json.dumps(report.allow_list([{"event": "host", "host": "@local"}, *planned])))
            names[data_names.ALLOW_DATA] = str(allow)
        run = sample.run(catalog_changes(data), secrets(data))
        state = State(Inventory((["@local"], names)), Config())
        session._current = None
        with ctx_state.use(state):
            connect_all(state)
            [host] = state.inventory
            with ctx_host.use(host):
                self._before(run)
                if planned is None:
                    state.set_stage(StateStage.Prepare)
                    read_ahead(run)  # a plan knows by then what it asks
                layout.layout(run)
                stacks.stacks(run)
            if planned is not None:
                with suppress(PyinfraError):  # it ends with one when no host is left
                    run_ops(state)
            disconnect_all(state)
        return report.read(told)

    @staticmethod
    def _before(run: HostRun) -> None:
        """What earlier stages have made."""
        for path in map(run.install_path, run.installs):
            if Path(path).parent.exists():
                Path(path).mkdir(exist_ok=True)

    # -- looking --------------------------------------------------------------------------------------------------

    def files(self) -> Seen:
        """path -> mode, owner, and what is in it; of what is made with chance, not that."""
        found = {}
        for top in (Path(ROOT), UNITS):
            for path in [top, *top.rglob("*")]:
                seen = path.lstat()
                if "programs" in path.parts:
                    continue
                text = str(path.readlink()) if path.is_symlink() else _hash(path) if path.is_file() else ""
                text = "" if path.name == "session-key.txt" and seen.st_size else text
                found[str(path)] = f"{seen.st_mode:o} {seen.st_uid}:{seen.st_gid} {text}"
        return found

    def containers(self) -> dict[str, Event]:
        """name -> what is there, but for ids and times."""
        held = json.loads((self.folder / "state.json").read_text())["containers"].values()
        return {
            doc["name"]: {key: each for key, each in doc.items() if key not in ("id", "started", "ended")}
            for doc in held
        }

    def loaded(self) -> Event:
        """What systemd and the kernel have of ours: what units run and with which text, the packet filter's rules."""
        held = json.loads((self.folder / "state.json").read_text())
        units = {name: [unit.get("active", False), unit.get("read")] for name, unit in held["units"].items()}
        return {"units": units, "rules": held["tables"].get(str(Path("/proc/self/ns/net").readlink()))}

    def damage(self, name: str, service: str, data: Event) -> None:
        """Something that somebody does to a service that is there; when there is nothing to do it to, nothing."""
        if service not in data["enabled"]:
            return
        renamed = NEW_NAME if service == "helper" and data["renamed"] else service
        entry = data["services"][service]
        (self.folder / f"network-{renamed}").write_text(entry["network"])
        variables = {**os.environ, "S": renamed, "T": entry["stack"]}
        subprocess.run(["sh", "-c", DAMAGES[name]], env=variables, capture_output=True, check=False)

    # -- the proof ------------------------------------------------------------------------------------------------

    def prove(self, situation: Event) -> Event:
        """`faults`: what is claimed and not so."""
        before = wanted(situation["before"])
        after = wanted(situation["after"]) if situation["moves"] else before
        self.converged(after)  # to know how it looks
        good_files, good_containers, good_loaded = self._good[digest(after)]
        self.converged(before)
        for name, service in situation["damages"]:
            self.damage(name, service, before)
        foreign = self._foreign()  # a folder that somebody removes may hold some of it
        damaged = self.files(), self.containers()
        planned = self.plan(after)
        faults = list(_problems("the plan", planned))
        if (self.files(), self.containers()) != damaged:
            faults.append("the plan changed something")
        died = 0
        if situation["dies"] is not None and not faults:
            Death.left, Death.in_compose, Death.done = situation["dies"], situation["in_compose"], 0
            events = self.apply(after, planned)
            Death.left, died = None, Death.done
            faults += _no_beginning(events, planned)
            planned = self.plan(after)
            faults += _problems("the plan after the death", planned)
        if not faults:
            faults += _faults(self.apply(after, planned), planned)
        if not faults and (second := _changes(self.plan(after), "change")):
            faults.append(f"the second plan is not empty: {_lines(second)}")
        if not faults:
            faults += _otherwise(good_files, self.files())
            faults += self._otherwise_run(good_containers, self.containers(), after)
            if (loaded := self.loaded()) != good_loaded:
                faults.append(f"loaded are {loaded}, on a fresh host {good_loaded}")
        if (now := self._foreign()) != foreign:
            faults.append(f"what is nobody's of ours was changed: {foreign} -> {now}")
        return {"faults": faults, "planned": _lines(_changes(planned, "change")), "died_after": died}

    def _foreign(self) -> list[str]:
        files = [self.files().get(f"{ROOT}/{name}", "gone") for name in FOREIGN_FILES]
        units = self.files().get(f"{UNITS}/mine.service", "gone")
        return [*files, units, canonical(self.containers().get("/mine-stands"))]

    @staticmethod
    def _otherwise_run(good: dict[str, Event], now: dict[str, Event], data: Event) -> Iterator[str]:
        """The containers are those of a fresh host; whether one on demand runs is nobody's concern."""
        demand = {f"/{name}" for name, entry in data["services"].items() if entry["start"] == "on-demand"}
        demand |= {f"/{NEW_NAME}"} if "/helper" in demand and data["renamed"] else set()
        for name in sorted(good.keys() | now.keys()):
            was, there = good.get(name), now.get(name)
            if was and there and name in demand:
                same = ("state", "has_read", "exit_code")
                there = {**there, **{key: was[key] for key in same}}
            if was != there:
                keys = [key for key in (was or there or {}) if (was or {}).get(key) != (there or {}).get(key)]
                yield f"the container {name} is not as on a fresh host: {keys}"


def _lines_of(file: str) -> list[str]:
    return Path(file).read_text().splitlines(keepends=True)


def _emptied(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def _sh(script: str) -> None:
    subprocess.run(["sh", "-c", script], check=True, capture_output=True)


def _key(event: Event) -> tuple[str, ...]:
    return (event["stage"], event["resource"]["kind"], event["resource"]["name"], event["action"])


def _changes(events: list[Event], kind: str) -> list[Event]:
    return [event for event in events if event["event"] == kind and event.get("phase", "plan") == "plan"]


def _lines(changes: list[Event]) -> list[str]:
    return [f"{each['action']} {each['resource']['name']}: {each['reason']}" for each in changes]


def _problems(what: str, events: list[Event]) -> Iterator[str]:
    for event in events:
        if event["event"] in ("problem", "failed"):
            yield f"{what}: {event.get('what') or _lines([event])}"


def _faults(events: list[Event], planned: list[Event]) -> list[str]:
    """Problems, and what was done otherwise than planned."""
    found = list(_problems("the apply", events))
    done, wanted = Counter(map(_key, _changes(events, "performed"))), Counter(map(_key, _changes(planned, "change")))
    if done != wanted and not found:
        found.append(f"performed is not planned: {sorted((done - wanted) + (wanted - done))}")
    return found


def _no_beginning(events: list[Event], planned: list[Event]) -> list[str]:
    """What was done before a death is how the plan begins, in its order."""
    done = [_key(event) for event in _changes(events, "performed")]
    begins = [_key(event) for event in _changes(planned, "change")][: len(done)]
    return [] if done == begins else [f"before the death {done} was done, and the plan begins with {begins}"]


def _otherwise(good: Seen, now: Seen) -> Iterator[str]:
    """What a fresh host has and this one has not, or otherwise."""
    foreign = {f"{ROOT}/{name}" for name in FOREIGN_FILES}
    ours = {str(folder) for path in good.keys() - foreign for folder in Path(path).parents}
    foreign |= {str(Path(path).parent) for path in foreign} - ours  # a folder that is there for its sake alone
    for path, seen in good.items():
        if now.get(path) != seen and path not in foreign:
            yield f"{path} is {now.get(path, 'gone')}, on a fresh host {seen}"
    for path in sorted(now.keys() - good.keys()):
        if _NO_OTHERS.search(path):
            yield f"{path} is there, on a fresh host not"


def _expect(events: list[Event], planned: list[Event]) -> None:
    if found := _faults(events, planned):
        raise AssertionError(found)


def main(folder: Path) -> None:
    """Prove what is asked for until nobody asks any more."""
    logging.disable(logging.CRITICAL)
    Script.execute = _execute  # type: ignore[method-assign]
    ahead.take_part()
    host, Death.file = SmallHost(folder), folder / DIES
    host.mount()
    answers, sys.stdout = sys.stdout, sys.stderr
    try:
        for line in sys.stdin:
            try:
                answer = host.prove(json.loads(line))
            except Exception:
                answer = {"faults": [traceback.format_exc()], "planned": [], "died_after": 0}
            print(json.dumps(answer), file=answers, flush=True)
    finally:
        host.end()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
