"""How the hosts of a run tell each other what they have, and how bytes get from one to another."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gevent  # type: ignore[import-untyped]
import pytest

from gpuhost.models import exchange
from gpuhost.models.decided import Decided
from gpuhost.models.neighbours import Given, HostModels, MissingFile, MissingModel, Turn, Turns
from tests.rehearsal.world.machine import PROJECT

BLOB = ("acme/A", "0" * 64)
LACKS = HostModels({}, [MissingModel("A", [MissingFile(BLOB, 10, "at")])])
HAS = HostModels({BLOB: "old"})


class Hosts:
    """Hosts of a run, each prepared in a greenlet of its own as pyinfra does it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *names: str, pool: int = 10) -> None:
        self.notes: list[str] = []
        self.turns: dict[str, Turns] = {}
        self._hosts = [SimpleNamespace(name=name) for name in names]
        active = list(reversed(self._hosts))  # a set, in any order
        pools, every = SimpleNamespace(size=pool), self._hosts
        self._state = SimpleNamespace(active_hosts=active, activated_hosts=every, inventory=every, pool=pools)
        monkeypatch.setattr(exchange, "state", self._state)
        monkeypatch.setattr(exchange, "_meeting", exchange._Meeting())
        monkeypatch.setattr(exchange, "note", lambda event, message: self.notes.append(message))
        monkeypatch.setattr(exchange, "host", SimpleNamespace(name=""))
        self._monkeypatch = monkeypatch

    def prepare(self, *told: tuple[str, HostModels | None], fails: str = "") -> None:
        """Hosts say what they have, in this order, with others at work in between; `fails`: it is out of the run."""

        def one(name: str, seen: HostModels | None) -> None:
            run = SimpleNamespace(decided=Decided(shared=seen)) if name != fails else None
            exchange._meeting.say(name, run)  # type: ignore[arg-type]
            if run is None:
                self._state.active_hosts = [each for each in self._state.active_hosts if each.name != name]
                return
            self.turns[name] = exchange._meeting.turns().get(name, {})

        greenlets = []
        for name, seen in told:
            greenlets.append(gevent.spawn(one, name, seen))
            gevent.sleep(0.01)
        assert len(gevent.joinall(greenlets, timeout=5)) == len(greenlets), "one waits for ever"


TAKEN = {"A": Turn(2, {BLOB: Given("a", "at")})}


def test_all_are_heard_before_anything_is_decided_and_who_was_first_decides_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for order in (("a", "b"), ("b", "a")):
        hosts = Hosts(monkeypatch, "a", "b")
        hosts.prepare(*((name, LACKS) for name in order))
        assert hosts.turns == {"a": {"A": Turn()}, "b": TAKEN}


def test_one_that_fails_or_shares_nothing_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = Hosts(monkeypatch, "a", "b", "c")
    hosts.prepare(("c", LACKS), ("b", None), ("a", HAS), fails="a")
    assert hosts.turns == {"b": {}, "c": {"A": Turn()}}


def test_hosts_that_are_prepared_one_after_the_other_wait_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """pyinfra's --parallel."""
    hosts = Hosts(monkeypatch, "a", "b", pool=1)
    assert exchange.turns() == {} and "each fetches its own from the hub" in hosts.notes[0]


# In a process of its own, as pyinfra is one: gevent changes all of it. This machine gives to itself.
LOCAL = """
from gevent import monkey
monkey.patch_all()
import json, sys, subprocess
from types import SimpleNamespace as Some
from pyinfra.api import Config, Inventory, State
from pyinfra.context import ctx_host, ctx_state
from gpuhost.models import exchange
from gpuhost.models.neighbours import Given, Turn
from gpuhost.models.rules import PlannedFile, PlannedModel
from hostside.protocol.models import ModelFile

told = json.loads(sys.argv[1])
state = State(Inventory((["@local"], {})), Config())
state.active_hosts = set(state.inventory)
program = f"{sys.executable} -I -B -m hostside.model_peer"
paths = Some(model_peer_command=program, hub_cache=told["cache"])
exchange._meeting.say("@local", Some(paths=paths, catalog=Some(account=None)))
exchange._as_account = lambda account: "env"
exchange.note = lambda event, message: print(json.dumps(message))
file = ModelFile("A", "acme/A", "c" * 40, "x", 10, "0" * 64, None, [], "fetch", False)
blob = ("acme/A", "0" * 64)
planned = [PlannedModel("A", [PlannedFile(file, "w", 10, told["giver"])], None)]
turns = {"A": Turn(1, {blob: Given(told["giver"], told["at"])})}
with ctx_state.use(state), ctx_host.use(state.inventory.get_host("@local")):
    with exchange.givers(planned, turns) as ways:
        for url in ways.to(file):
            ask = ["curl", "-sS", "-w", " %{http_code}", "-r", "0-9", "-H", f"Authorization: Bearer {ways.secret}"]
            answer = subprocess.run([*ask, f"{url}/acme/A/resolve/{'c' * 40}/x"], capture_output=True, text=True)
            print(json.dumps(answer.stdout))
    left = subprocess.run(["curl", "-s", *(ways.to(file) or ["http://127.0.0.1:1"])]).returncode
    print(json.dumps(left))
"""


def run(tmp_path: Path, **over: str) -> list[Any]:
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub/x").write_bytes(b"0123456789")
    told = {"cache": str(tmp_path), "at": "x", "giver": "@local"} | over
    line = [sys.executable, "-c", textwrap.dedent(LOCAL), json.dumps(told)]
    done = subprocess.run(line, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return [json.loads(each) for each in done.stdout.splitlines()]


def test_a_local_host_gives_and_takes_while_it_is_needed(tmp_path: Path) -> None:
    assert run(tmp_path) == ["0123456789 206", 7]  # curl's 7: nobody listens there any more


def test_what_a_neighbour_has_not_is_refused(tmp_path: Path) -> None:
    assert run(tmp_path, at="y") == [" 404", 7]


def test_a_neighbour_that_is_out_of_the_run_is_told_about(tmp_path: Path) -> None:
    [said, left] = run(tmp_path, giver="gone")
    assert said == "models: gone cannot give any now, so the hub is asked: gone is out of the run" and left == 7
