"""The end of a run: what is asked, what is told, what may then be forgotten, and where everything is."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest

from gpuhost.catalog.types import Catalog
from gpuhost.engine.containers import Container
from gpuhost.errors import Problem
from gpuhost.run import output
from gpuhost.run.remote import Completed
from gpuhost.secrets import envfile
from gpuhost.verify import operations as verify
from gpuhost.verify.addresses import Forward, command_line, lines, local_ports, login_lines, tunnel, verdict_lines
from hostside.protocol.verify import ServiceSeen, VerifyRequest
from hostside.wire import from_json, to_json
from tests.unit import sample
from tests.unit.verify.test_verdict import seen

TOKENS = {"API_TOKEN": "t", "LOGIN_HASH": "h"}
RETIRED = Path("secrets/host.retired.json")


def line(service: str, port: int = 9001, **over: Any) -> str:
    return to_json(replace(seen(**over), service=service, port=port, log_tail=["last words"])) + "\n"


def absent(service: str) -> str:
    return to_json(ServiceSeen(service, "s", 1, 1.0, "absent", 0.0, None, [], [])) + "\n"


@dataclass
class Stage:
    """One host's turn. `output`, `ok`: of the program that looks; `only`: the stages that this run is limited to."""

    output: str = ""
    ok: bool = True
    executing: bool = True
    only: frozenset[str] | None = None
    containers: tuple[Container, ...] = ()
    data: dict[str, Any] = field(default_factory=dict)
    name: str = "gpu1"
    failed: list[Problem] = field(default_factory=list)
    reported: list[Problem] = field(default_factory=list)
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    before: dict[str, Catalog] = field(default_factory=dict)
    catalogs: dict[str, Catalog] = field(default_factory=dict)

    def play(self, operation: Any, changes: dict[str, Any] | None = None, **secrets: str) -> list[tuple[str, str]]:
        """What is told of the host, the last failing it."""
        run = sample.run(changes, secrets or TOKENS)
        self.catalogs = {**self.before, self.name: run.catalog}
        list(operation._inner(run))
        return [(each.what, each.hint) for each in (*self.reported, *self.failed)]

    def look(self, script: str, stdin: str, live: bool) -> Completed:
        assert script.endswith(" -m hostside.verify")
        assert live and output._shown["[gpu1] "]("{}") is None  # what it waits for is shown, its answer is not
        self.asked = [each.name for each in from_json(VerifyRequest, stdin).services]
        return Completed(self.ok, self.output, self.output)

    def add(self, event: str, host: str, **fields: Any) -> None:
        assert host == self.name
        self.events.append((event, fields))


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Stage:
    """A run that executes."""
    made = Stage()
    monkeypatch.chdir(tmp_path)

    class Host:
        data = SimpleNamespace(dict=lambda: made.data)
        log = made.log.append
        print_prefix = "[gpu1] "

        @property
        def name(self) -> str:
            return made.name

        def get_fact(self, fact: type, parts: tuple[str, ...]) -> SimpleNamespace:
            assert parts == ("containers",)
            return SimpleNamespace(containers=made.containers)

    class State:
        @property
        def is_executing(self) -> bool:
            return made.executing

    monkeypatch.setattr(verify, "host", Host())
    monkeypatch.setattr(verify, "state", State())
    monkeypatch.setattr(verify, "current", lambda: SimpleNamespace(report=made))
    monkeypatch.setattr(verify, "only", lambda: made.only)
    monkeypatch.setattr(
        verify, "note", lambda event, message, **rest: made.add(event, made.name, message=message, **rest)
    )
    monkeypatch.setattr(verify, "site", lambda: SimpleNamespace(catalogs=made.catalogs))
    monkeypatch.setattr(verify, "run_now", made.look)
    monkeypatch.setattr(verify, "report_problem", made.reported.append)
    monkeypatch.setattr(
        verify,
        "failing",
        lambda what, hint, detail=(): made.failed.append(Problem(what, hint, made.name, tuple(detail))),
    )
    return made


def retire(**values: list[str]) -> None:
    RETIRED.parent.mkdir(mode=0o700)
    envfile.replace(RETIRED, json.dumps(values))


# --- Services ---------------------------------------------------------------------------------------------------------


def test_services_that_answer(stage: Stage) -> None:
    stage.output = "noise\n" + line("api") + line("painter", 9002)
    assert stage.play(verify.answering) == []
    assert stage.asked == ["api", "painter"]
    observed = [fields["service"] for event, fields in stage.events if event == "observed"]
    assert observed == ["api", "painter"]
    assert stage.events[-1] == ("verdict", {"ok": True, "services": ["api", "painter"], "failed": []})
    assert stage.log == ["verified: api answers on port 9001", "verified: painter answers on port 9002"]


def test_a_plan_asks_nothing(stage: Stage) -> None:
    stage.executing = False
    assert stage.play(verify.answering) == [] and stage.asked == [] and stage.events == []


def test_a_host_without_services_is_asked_nothing(stage: Stage) -> None:
    assert stage.play(verify.answering, {"enabled_services": []}) == [] and stage.events == []


def test_every_service_that_fails_is_told(stage: Stage) -> None:
    """pyinfra ends with the first command that fails: the last one is that."""
    retire(API_TOKEN=["old"])
    stage.output = absent("api") + absent("painter")
    assert [what for what, _ in stage.play(verify.answering)] == ["api: no container", "painter: no container"]
    assert (len(stage.reported), len(stage.failed)) == (1, 1)
    assert stage.events[-1] == ("verdict", {"ok": False, "services": ["api", "painter"], "failed": ["api", "painter"]})
    assert stage.log == [] and RETIRED.exists()  # nothing is proved


def test_a_service_that_fails_beside_one_that_answers(stage: Stage) -> None:
    stage.output = line("api") + line("painter", state="exited", exit_code=3, outcome="dead")
    assert [what for what, _ in stage.play(verify.answering)] == ["painter: exited with code 3: the program failed"]
    assert stage.failed[0].detail == ("last words",) and stage.failed[0].host == "gpu1"


@pytest.mark.parametrize(
    ("over", "cause"),
    [
        ({"state": "exited", "exit_code": 1, "outcome": "dead"}, "exited with code 1: the program failed"),
        ({"state": "paused", "exit_code": 0}, "is paused (exit code 0)"),
        ({"started_at_after": "later", "exit_code": 9}, "was started anew while it was watched (5 s) (exit code 9)"),
        ({"health": "unhealthy", "health_log": "no"}, "unhealthy: no"),
    ],
)
def test_the_exit_code_is_told_once(stage: Stage, over: dict[str, Any], cause: str) -> None:
    stage.output = line("api", **over) + line("painter")
    assert [what for what, _ in stage.play(verify.answering)] == [f"api: {cause}"]


@pytest.mark.parametrize(
    ("only", "left"),
    [(None, False), (frozenset({"stacks", "verify"}), False), (frozenset({"verify"}), True)],
)
def test_old_values_are_forgotten_when_every_service_refused_them(
    stage: Stage, only: frozenset[str] | None, left: bool
) -> None:
    """Only a run that made the containers, too, proves that none was left with an old one."""
    retire(API_TOKEN=["old"])
    stage.output, stage.only = line("api") + line("painter"), only
    assert stage.play(verify.answering) == [] and RETIRED.exists() is left


def test_a_service_of_which_nothing_is_said_is_not_verified(stage: Stage) -> None:
    stage.output = absent("api")
    assert stage.play(verify.answering) == [
        ("the services could not be observed: the program says nothing of painter", "run it again")
    ]


def test_a_line_of_another_version_is_one_sentence(stage: Stage) -> None:
    stage.output = '{"service": "api"}\n'
    [(what, hint)] = stage.play(verify.answering)
    assert what == "the services could not be observed: the message has no field `stack`" and "gpuhost apply" in hint


@pytest.mark.parametrize(
    ("output", "what", "hint"),
    [
        ("error: Docker does not answer: x\nhint: look\n", "Docker does not answer: x", "look"),
        ("sh: 1: /opt/x: not found", "sh: 1: /opt/x: not found", "`gpuhost apply` installs the program that looks"),
        ("python: No module named h", "python: No module named h", "`gpuhost apply` installs the program that looks"),
        ("error: \x1b[2Jgone\nhint: \x9b\n", "\\x1b[2Jgone", "\\x9b"),
    ],
)
def test_why_nothing_was_seen(stage: Stage, output: str, what: str, hint: str) -> None:
    stage.output, stage.ok = output, False
    assert stage.play(verify.answering) == [(f"the services could not be observed: {what}", hint)]


def test_before_the_first_apply_there_is_no_secret(stage: Stage) -> None:
    [(what, hint)] = stage.play(verify.answering, OTHER="x")
    assert "is still to be generated" in what and hint == "`gpuhost apply`" and stage.asked == []


def started(name: str, state: str = "running", own: Literal["", "run", "copy"] = "") -> Container:
    return Container(f"id-{name}", name, name, "front", state, None, {}, own, 1.0)


@pytest.mark.parametrize(
    ("containers", "asked"),
    [
        ((), ["api"]),
        ((started("painter", "exited"),), ["api"]),
        ((started("painter", own="run"),), ["api"]),  # somebody's own
        ((started("painter"),), ["api", "painter"]),
    ],
)
def test_what_runs_on_demand_answers_when_somebody_started_it(
    stage: Stage, containers: tuple[Container, ...], asked: list[str]
) -> None:
    stage.containers, stage.output = containers, line("api") + line("painter")
    assert stage.play(verify.answering, {"services.painter.start": "on-demand"}) == []
    assert stage.asked == asked
    notes = [fields for event, fields in stage.events if event == "on_demand"]
    waiting = {
        "message": "not started, they run on demand (`docker start NAME` there): painter",
        "services": ["painter"],
    }
    assert notes == ([] if "painter" in asked else [waiting])


# --- Addresses --------------------------------------------------------------------------------------------------------


def told(stage: Stage, changes: dict[str, Any] | None = None) -> list[str]:
    stage.play(verify.addresses, changes)
    assert {event for event, _ in stage.events} <= {"address", "login"}
    return [fields["message"] for event, fields in stage.events if event == "address"]


def test_addresses_of_this_machine(stage: Stage) -> None:
    stage.name = "@local"
    assert told(stage, {"services.api.bind": "::1", "services.painter.bind": "0.0.0.0"}) == [
        "api: http://[::1]:9001",
        "painter: http://0.0.0.0:9002",
    ]
    assert stage.events[0][1] == {"message": "api: http://[::1]:9001", "service": "api", "port": 9001}


def test_addresses_of_a_remote_host(stage: Stage) -> None:
    assert told(stage) == [
        "api: http://127.0.0.1:9001",
        "painter: http://127.0.0.1:9002",
        "from your machine: ssh -N -L 9001:127.0.0.1:9001 -L 9002:127.0.0.1:9002 gpu1",
    ]


def test_what_listens_to_everybody_is_reached_by_the_hosts_name(stage: Stage) -> None:
    stage.data |= {"ssh_hostname": "10.0.0.7", "ssh_user": "me", "ssh_port": "2222", "ssh_key": "/k"}
    assert told(stage, {"services.api.bind": "::", "services.painter.bind": "127.0.0.2"}) == [
        "api: http://10.0.0.7:9001",
        "painter: http://127.0.0.2:9002",
        "from your machine: ssh -N -L 9002:127.0.0.2:9002 -p 2222 -i /k me@10.0.0.7",
    ]
    stage.events.clear()
    stage.data.clear()
    both = {"services.api.bind": "0.0.0.0", "services.painter.bind": "0.0.0.0"}
    assert told(stage, both) == ["api: http://gpu1:9001", "painter: http://gpu1:9002"]


def test_what_somebody_types_to_log_in_is_named(stage: Stage) -> None:
    """Not a hash, but what it is made of; nothing of a service that lets everybody in."""
    told(stage)
    found = {fields["service"]: fields["secrets"] for event, fields in stage.events if event == "login"}
    assert found == {"api": ["API_TOKEN"], "painter": ["LOGIN_USER", "LOGIN_PASSWORD"]}
    events = [{"event": event, "host": "gpu1", **fields} for event, fields in stage.events]
    assert login_lines(events, " -i lab") == [
        "to log in: `gpuhost secrets show -i lab NAME`, NAME one of API_TOKEN, LOGIN_USER, LOGIN_PASSWORD"
    ]
    assert login_lines([event for event in events if event["event"] == "address"], "") == []
    both = login_lines([*events, *({**event, "host": "two"} for event in events)], " -i lab -l all", " -i lab")
    assert both[0].startswith("to log in: `gpuhost secrets show -i lab -l HOST NAME`, NAME one of API_TOKEN, LOGIN")


def test_a_plan_tells_no_address(stage: Stage) -> None:
    stage.executing = False
    assert told(stage) == []


def test_the_tunnel() -> None:
    assert command_line(tunnel("h", {}, [Forward(80, "::1", 80)])) == "ssh -N -L '80:[::1]:80' h"
    data = {"ssh_key": "~/my key", "ssh_known_hosts_file": "/k", "ssh_config_file": "/c", "ssh_port": 22}
    line = command_line(tunnel("h", data, [Forward(81, "127.0.0.1", 80)]))
    assert line == "ssh -N -L 81:127.0.0.1:80 -F /c -i ~/'my key' -o UserKnownHostsFile=/k h"


def test_the_tunnels_of_several_hosts_can_be_open_together(stage: Stage) -> None:
    """A service that somebody moved to the port that another host's would get takes a third one."""
    moved = sample.run({"services.api.port": 9101}).catalog
    stage.before = {"@local": moved, "gpu0": sample.run().catalog, "gpu2": moved}
    assert told(stage) == [
        "api: http://127.0.0.1:9201 through the tunnel",
        "painter: http://127.0.0.1:9202 through the tunnel",
        "from your machine: ssh -N -L 9201:127.0.0.1:9001 -L 9202:127.0.0.1:9002 gpu1",
    ]
    ports = local_ports(stage.catalogs)
    assert len(set(ports.values())) == len(ports) == 6
    assert ports["gpu0", "api"] == 9001 and ports["gpu2", "api"] == 9101


def test_where_no_port_is_free_in_steps_the_next_one_is_taken() -> None:
    high = sample.run({"services.api.port": 65500, "enabled_services": ["api"]}).catalog
    ports = local_ports({f"gpu{number}": high for number in range(3)})
    assert list(ports.values()) == [65500, 1024, 1025]
    last = sample.run({"services.api.port": 65535, "enabled_services": ["api"]}).catalog
    near = sample.run({"services.api.port": 65436, "enabled_services": ["api"]}).catalog
    assert list(local_ports({"gpu0": last}).values()) == [65535]
    assert list(local_ports({"gpu0": near, "gpu1": near}).values()) == [65436, 1024]


def test_which_services_of_a_host_answer() -> None:
    verdict = {"event": "verdict", "host": "one", "services": ["api", "painter\x1b"], "failed": ["api"]}
    others = [{**verdict, "host": "two", "failed": ["api", "painter\x1b"]}, {**verdict, "event": "address"}]
    assert verdict_lines([verdict, *others]) == [
        "[one] 1 of 2 services answer: painter\\x1b",
        "[two] 0 of 2 services answer.",
    ]


def test_the_end_of_a_run_shows_addresses_alone() -> None:
    events = [
        {"event": "address", "host": "one", "message": "api: http://\x1b"},
        {"event": "gpu", "host": "one", "message": "no"},
    ]
    assert lines(events) == ["[one] api: http://\\x1b"]
