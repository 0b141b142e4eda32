"""What must be done with containers so that the right ones run, in which order, and why."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuhost.engine.containers import AS_WRITTEN, Container
from gpuhost.plan.change import Impact
from gpuhost.services import rules
from gpuhost.services.rules import WILL_BE_WRITTEN, Desired, FileTimes, ServiceStep, reconcile, taken_for_service
from hostside.protocol.verify import Held

SPEC: dict[str, Any] = {
    "name": "api",
    "image": "acme/api:1",
    "memory": "24g",
    "cpus": "2",
    "restart": "unless-stopped",
    "networks": ["inner"],
    "ports": ["127.0.0.1:9001:80"],
    "gpus": ["GPU-0"],
    "volumes": {"/data": "/srv/api"},
    "secrets": {"API_TOKEN": "a" * 64, "OTHER": "b" * 64},
}
SETTINGS = {key: SPEC[key] for key in ("image", "memory", "cpus", "restart", "networks", "ports", "gpus", "volumes")}
# What Docker says of a container for which nothing else was asked.
SETTINGS |= {
    "shm": "64m",
    "read_only": False,
    "init": False,
    "privileged": False,
    "user": "",
    "command": [],
    "tmpfs": [],
}
SETTINGS |= {"pids": 0, "ulimits": {}, "namespaces": [], "devices": [], "dns": []}
SETTINGS |= {"cap_add": [], "cap_drop": [], "security_opt": [], "group_add": [], "extra_hosts": [], "sysctls": {}}
SETTINGS |= {"mem_reservation": "0", **{field: default for field, (_, default) in AS_WRITTEN.items()}}
STARTED_S = 1_000.0
STARTS = ("always", "on-demand")


def desired(name: str = "api", **over: Any) -> Desired:
    return Desired("front", {**SPEC, "name": name, **over}, frozenset(over.get("gpus", SPEC["gpus"])))


def container(name: str = "api", **over: Any) -> Container:
    spec = {**SPEC, "name": name}
    made = Container(f"id-{name}", name, name, "front", "running", spec, dict(SETTINGS), "", STARTED_S)
    return replace(made, **over)


def running(**settings: Any) -> Container:
    """The right container, whose settings somebody changed."""
    return container(settings={**SETTINGS, **settings})


API = {"api": desired()}


def without_room(room: int, *there: Container, **wanted: tuple[str, int]) -> tuple[str, str] | None:
    """`wanted`: service -> its start and what it takes, all on GPU-0."""
    entries = {
        name: replace(desired(name, ports=[]), start=start, takes_mib=takes)  # type: ignore[arg-type]
        for name, (start, takes) in wanted.items()
    }
    return rules.without_room(entries, there, reconcile(entries, there), {"GPU-0": room})


def test_a_service_that_always_runs_is_not_started_beside_one_on_demand_that_leaves_it_no_room() -> None:
    wanted = {"api": ("always", 12_000), "guest": ("on-demand", 10_000)}
    guest = container("guest", settings={**SETTINGS, "ports": []}, spec={**SPEC, "name": "guest", "ports": []})
    assert without_room(22_000, guest, **wanted) is None
    found = without_room(21_999, guest, **wanted)
    assert found == (
        "`api` cannot be started: it takes 12000 MiB of its GPU, where 21999 MiB are for all together, beside `guest` "
        "(10000 MiB)",
        "`docker stop guest` on the host, then run again",
    )
    for state in ("exited", "created"):
        assert without_room(21_999, replace(guest, state=state), **wanted) is None
    assert without_room(21_999, replace(guest, own="run"), **wanted) is None
    assert without_room(21_999, guest, api=("always", 0), guest=("on-demand", 10_000)) is None


def test_who_runs_already_is_not_started_and_what_always_runs_counts() -> None:
    wanted = {"api": ("always", 12_000), "guest": ("on-demand", 10_000)}
    specs = {name: {**SPEC, "name": name, "ports": []} for name in (*wanted, "third")}
    api, guest = (container(name, settings={**SETTINGS, "ports": []}, spec=specs[name]) for name in wanted)
    assert without_room(1, api, guest, **wanted) is None
    assert without_room(23_000, guest, **wanted, third=("always", 1_000)) is None
    assert without_room(22_999, guest, **wanted, third=("always", 1_000)) is not None
    assert without_room(22_999, guest, **wanted, third=("on-demand", 1_000)) is None


def found(wanted: dict[str, Desired], *there: Container, **more: Any) -> list[tuple[str, str, str]]:
    return [(change.action, change.resource.name, change.reason) for change in reconcile(wanted, there, **more).changes]


OLD, NEW = "8:17", "8:99"
LOST = Held("/srv/api", "/data", OLD, NEW)
GONE = "/srv/api was removed after it started: it holds the old one as /data"
ANEW = "/srv/api was made anew after it started: it holds the old one as /data"


@pytest.mark.parametrize(
    ("holds", "over", "expected"),
    [
        ([Held("/srv/api", "/data", OLD, OLD)], {}, []),
        ([Held("/srv/api", "/data", OLD, None)], {}, [("recreate", "api", GONE)]),
        ([Held("/srv/other", "/other", OLD, OLD), LOST], {}, [("recreate", "api", ANEW)]),
        ([LOST], {"state": "paused"}, [("recreate", "api", ANEW)]),
        ([LOST], {"state": "exited"}, [("recreate", "api", "it is exited")]),
        ([LOST], {"spec": {**SPEC, "memory": "20g"}}, [("recreate", "api", "memory: 20g -> 24g")]),
        ([Held("/srv/api", "/data", None, NEW)], {}, []),  # its process ended while it was looked at
    ],
    ids=["right", "removed", "made anew", "paused", "not running", "other reasons come first", "unknown"],
)
def test_a_container_that_holds_a_removed_folder_is_made_anew(
    holds: list[Held], over: dict[str, Any], expected: list[tuple[str, str, str]]
) -> None:
    assert found(API, container(holds=tuple(holds), **over)) == expected


def test_a_container_whose_gpus_are_denied_is_made_anew() -> None:
    [(action, name, reason)] = found(API, container(gpus_denied=True))
    assert (action, name) == ("recreate", "api") and "denies it the GPUs" in reason
    assert found(API, container(gpus_denied=True, state="exited")) == [("recreate", "api", "it is exited")]


def test_one_that_runs_on_demand_and_holds_a_removed_folder_runs_on_as_a_new_one() -> None:
    way = reconcile({"api": replace(desired(), start="on-demand")}, [container(holds=(LOST,))])
    assert [change.reason for change in way.changes] == [ANEW]
    assert way.steps == [ServiceStep("up", "api", start=True), ServiceStep("wait", "api")]


def test_the_right_container_is_left_alone() -> None:
    way = reconcile(API, [container()])
    assert (way.changes, way.steps) == ([], [])


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        (None, ("create", "no container")),
        (container(state="exited"), ("recreate", "it is exited")),
        (container(state="created"), ("recreate", "it was made and never started")),
        (container(state="paused"), ("unpause", "it is paused")),
        (container(spec=None), ("recreate", "what it was made from cannot be read from its label")),
        (container(spec={**SPEC, "memory": "20g"}), ("recreate", "memory: 20g -> 24g")),
        (container(spec={**SPEC, "memory": "20g"}, state="exited"), ("recreate", "memory: 20g -> 24g")),
        (container(spec={**SPEC, "cpus": "1", "image": "x"}), ("recreate", "cpus, image differ")),
        (running(memory="20g"), ("recreate", "somebody changed it: memory: 20g -> 24g")),
        (running(restart="no"), ("recreate", "somebody changed it: restart: no -> unless-stopped")),
        (running(networks=[]), ("recreate", 'somebody changed it: networks: [] -> ["inner"]')),
        (
            running(networks=["bridge", "inner"]),
            ("recreate", 'somebody changed it: networks: ["bridge", "inner"] -> ["inner"]'),
        ),
        (
            running(ports=["0.0.0.0:9001:80"]),
            ("recreate", 'somebody changed it: ports: ["0.0.0.0:9001:80"] -> ["127.0.0.1:9001:80"]'),
        ),
        (running(volumes={"/data": "/srv/api", "/host": "/"}), ("recreate", "somebody changed it: - volumes./host: /")),
        (running(privileged=True), ("recreate", "somebody changed it: privileged: true -> false")),
        (running(image="acme/api:2"), ("recreate", "somebody changed it: image: acme/api:2 -> acme/api:1")),
        (container(name="mine"), ("recreate", "its container was renamed to mine")),
        (container(project="back"), ("recreate", "it moves from stack back to front")),
    ],
    ids=lambda each: each[1] if isinstance(each, tuple) else "",
)
def test_reason(there: Container | None, expected: tuple[str, str]) -> None:
    [(action, name, reason)] = found(API, *([replace(there, service="api")] if there else []))
    assert (name, action) == ("api", expected[0])
    assert reason == expected[1]


@pytest.mark.parametrize(
    ("wanted", "there", "key"),
    [
        (API, [], ("stacks", "service", "api", "create")),
        (API, [container(environment={})], None),
        ({"api": replace(API["api"], environment=frozenset({"OTHER"}))}, [container(environment={})], "recreate"),
        (API, [container(state="paused")], "unpause"),
        (API, [container(state="restarting")], "recreate"),
        ({}, [container()], "remove"),
    ],
)
def test_what_identifies_a_change_of_a_service(wanted: Any, there: list[Container], key: Any) -> None:
    keys = [change.key for change in reconcile(wanted, there).changes]
    assert keys == ([] if key is None else [key if isinstance(key, tuple) else ("stacks", "service", "api", key)])


def test_every_differing_field_is_told() -> None:
    [change] = reconcile(API, [running(memory="20g", restart="no")]).changes
    assert [(each.field, each.before, each.after) for each in change.diff] == [
        ("memory", "20g", "24g"),
        ("restart", "no", "unless-stopped"),
    ]


@pytest.mark.parametrize("health", ["", "starting", "healthy", "unhealthy"])
def test_an_unhealthy_container_is_left_to_verify(health: str) -> None:
    """Making it anew cures nothing."""
    way = reconcile(API, [container(health=health, ended_s=1.0, exit_code=1)])
    assert (way.changes, way.steps) == ([], [])


# -- secrets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("secrets", "names"),
    [
        ({"API_TOKEN": "c" * 64, "OTHER": "b" * 64}, "API_TOKEN"),
        ({"API_TOKEN": "c" * 64, "OTHER": "d" * 64}, "API_TOKEN, OTHER"),
        ({"API_TOKEN": "a" * 64}, "OTHER"),
        ({**SPEC["secrets"], "THIRD": "e" * 64}, "THIRD"),
    ],
)
def test_which_secret_is_another_one(secrets: dict[str, str], names: str) -> None:
    [change] = reconcile(API, [container(spec={**SPEC, "secrets": secrets})]).changes
    assert (change.reason, change.scope) == (f"it runs with another value of {names}", "secret")


def test_a_fingerprint_is_shown_in_part() -> None:
    [change] = reconcile(API, [container(spec={**SPEC, "secrets": {"API_TOKEN": "c" * 64, "OTHER": "b" * 64}})]).changes
    assert [each.line() for each in change.diff] == [f"~ secrets.API_TOKEN: ({'c' * 12}) -> ({'a' * 12})"]


def test_a_secret_that_is_still_to_be_generated() -> None:
    wanted = {"api": desired(secrets={"API_TOKEN": None, "OTHER": "b" * 64})}
    [change] = reconcile(wanted, [container()]).changes
    assert [each.line() for each in change.diff] == [f"~ secrets.API_TOKEN: ({'a' * 12}) -> (to be generated)"]
    assert change.scope == "secret"


def test_what_a_container_holds_counts_not_what_its_label_says() -> None:
    """Made again by `docker compose up` with another `.env.docker`: our labels, and another token."""
    wanted = {"api": replace(desired(), environment=frozenset({"API_TOKEN"}))}
    for held in ({"API_TOKEN": "c" * 64}, {}):
        [change] = reconcile(wanted, [container(environment=held)]).changes
        assert (change.reason, change.scope) == (
            "its environment holds another value of API_TOKEN than its label records",
            "secret",
        )
        assert [each.field for each in change.diff] == ["secrets.API_TOKEN"]
    for right in ({"API_TOKEN": "a" * 64}, {"API_TOKEN": "a" * 64, "OTHER": "x"}, None):
        assert not reconcile(wanted, [container(environment=right)]).changes


def test_a_variable_and_a_limit_are_told_together() -> None:
    there = replace(running(memory="1g"), environment={}, added={"MINE": THEIRS})
    [change] = reconcile(API, [there]).changes
    assert [each.field for each in change.diff] == ["memory", "environment.MINE"]


PLAIN, THEIRS = "1" * 64, "2" * 64
VARIABLES: dict[str, Any] = {"environment": {"ORDER": "pci", "API_TOKEN": "${API_TOKEN}"}}


@pytest.mark.parametrize(
    ("held", "added", "told"),
    [
        ({"ORDER": PLAIN}, {"ORDER": PLAIN, "API_TOKEN": THEIRS}, None),
        ({"ORDER": PLAIN}, {}, None),  # its image gives the same
        ({"ORDER": PLAIN}, {"https_proxy": THEIRS, "NO_PROXY": THEIRS}, None),  # of the engine's client
        ({"ORDER": PLAIN}, dict.fromkeys(("http_proxy", "FTP_PROXY", "all_proxy"), THEIRS), None),
        ({"ORDER": THEIRS}, {"ORDER": THEIRS}, [("ORDER", THEIRS, PLAIN)]),
        ({}, {}, [("ORDER", None, PLAIN)]),
        ({"ORDER": PLAIN}, {"MINE": THEIRS}, [("MINE", THEIRS, None)]),
        ({"ORDER": THEIRS}, {"MINE": THEIRS}, [("MINE", THEIRS, None), ("ORDER", THEIRS, PLAIN)]),
        (None, {}, None),  # nobody looked
    ],
)
def test_what_somebody_changed_of_its_other_variables(
    held: dict[str, str] | None, added: dict[str, str], told: list[tuple[str, str | None, str | None]] | None
) -> None:
    wanted = {"api": replace(desired(**VARIABLES), variables={"ORDER": PLAIN})}
    there = container(spec={**SPEC, **VARIABLES}, environment=held, added=added)
    changes = reconcile(wanted, [there]).changes
    if told is None:
        assert changes == []
        return
    [change] = changes
    assert change.action == "recreate" and change.reason.startswith("somebody changed it: ")
    assert all(f"environment.{name}" in change.reason for name, _, _ in told)
    assert change.scope == ""  # no secret was renewed
    assert [(each.field, each.before, each.after) for each in change.diff] == [
        (f"environment.{name}", before and f"({before[:12]})", after and f"({after[:12]})")
        for name, before, after in told
    ]


def test_only_a_secret_is_a_matter_of_secrets() -> None:
    both = container(spec={**SPEC, "memory": "1g", "secrets": {}})
    for there in ([], [both], [container(state="exited")], [running(memory="1g")], [container(state="paused")]):
        [change] = reconcile(API, there).changes
        assert change.scope == ""


@pytest.mark.parametrize(
    ("written_s", "now_s", "older"),
    [
        (STARTED_S - 0.01, STARTED_S + 9, False),
        (STARTED_S, STARTED_S + 9, False),
        (STARTED_S + 0.01, STARTED_S + 9, True),
        (STARTED_S + 0.01, STARTED_S, False),  # a file from the future: the clock was set back since
        (WILL_BE_WRITTEN, STARTED_S, True),
    ],
)
def test_a_process_older_than_its_files_is_made_anew(written_s: float, now_s: float, older: bool) -> None:
    reason = "it started before its files were last written"
    changes = reconcile(API, [container()], clock=FileTimes({"api": written_s}, now_s)).changes
    assert [(change.reason, change.scope) for change in changes] == ([(reason, "secret")] if older else [])
    assert not reconcile(API, [container()], clock=FileTimes({"other": written_s}, now_s)).changes


# -- what an interrupted run left --------------------------------------------------------------------------------------

HALF = container(name="0123456789ab_api", id="half", service="api", state="created")


@pytest.mark.parametrize(
    ("state", "start", "reason"),
    [
        *((state, start, "its install `tree` is made anew") for state in ("running", "paused") for start in STARTS),
        ("restarting", "always", "its install `tree` is made anew"),
        ("exited", "always", "it is exited"),
        ("exited", "on-demand", None),  # it will start from the new one
    ],
)
def test_who_runs_from_an_install_that_is_made_anew_is_made_anew(state: str, start: Any, reason: str | None) -> None:
    wanted = {"api": replace(desired(), remade_install="tree", start=start)}
    expected = [("recreate", "api", reason)] if reason else []
    assert found(wanted, container(state=state)) == expected
    assert not any(change.scope for change in reconcile(wanted, [container(state="running")]).changes)


def test_an_install_that_is_made_anew_under_a_loop_ends_it_though_the_plan_saw_something_else() -> None:
    wanted = {"api": replace(desired(), remade_install="tree")}
    way = reconcile(wanted, [container(state="restarting")], planned={("api", "recreate")})
    assert [step.do for step in way.steps] == ["up", "wait"]


def test_what_a_killed_run_left_is_cleared_away() -> None:
    """Compose makes the new container under another name, removes the old one, renames, starts: a kill hits between."""
    for there in ([container(), HALF], [HALF]):
        way = reconcile(API, there)
        [change] = way.changes
        assert (change.action, change.scope) == ("recreate", "secret")
        assert change.reason == "an earlier run was interrupted while it made its container"
        assert way.steps == [ServiceStep("remove", "api", "half"), ServiceStep("up", "api"), ServiceStep("wait", "api")]


def test_a_container_of_docker_compose_run_is_somebodys_own() -> None:
    own = container(name="front-api-run-0123456789ab", service="api", own="run")
    assert reconcile(API, [container(), own]).steps == []
    assert "remove" not in {step.do for step in reconcile({}, [own]).steps}


def test_a_copy_of_somebodys_that_compose_would_take_for_the_service_is_named() -> None:
    """compose knows containers by labels, and would replace it; while it has nothing to make, nothing happens to it."""
    copy = replace(container(), name="mine", own="copy", id="copied")
    for there, taken in (
        ([container(), copy], None),
        ([copy], ("mine", "api")),
        ([running(memory="1g"), copy], ("mine", "api")),
        ([running(memory="1g"), replace(copy, project="")], None),
        ([running(memory="1g"), replace(copy, own="run")], None),
        ([running(memory="1g"), replace(copy, own="")], None),
        ([container(state="paused"), copy], None),
        ([running(memory="1g"), replace(copy, service="other")], None),
    ):
        assert taken_for_service(API, there, reconcile(API, there)) == taken


# -- what it costs -----------------------------------------------------------------------------------------------------


def cost(wanted: dict[str, Desired], *there: Container) -> dict[str, Impact]:
    return {change.resource.name: change.impact or Impact() for change in reconcile(wanted, there).changes}


def publishing(*ports: str, **over: Any) -> Container:
    return container(settings={**SETTINGS, "ports": [*ports]}, **over)


@pytest.mark.parametrize(
    ("there", "opens"),
    [
        ([], ("127.0.0.1:9001",)),
        ([publishing("127.0.0.1:9001:80", state="dead")], ()),
        ([publishing("127.0.0.1:9001:81", state="dead")], ()),  # another one inside
        ([publishing("127.0.0.1:9009:80")], ("127.0.0.1:9001",)),
        ([publishing("127.0.0.2:9001:80")], ("127.0.0.1:9001",)),
        ([publishing("0.0.0.0:9001:80")], ()),  # less than before
        ([publishing("[::]:9001:80")], ()),
        ([publishing("127.0.0.1:9001:80", name="other", service="other")], ()),  # from one service to another
        ([publishing("127.0.0.1:9001:80", own="run")], ("127.0.0.1:9001",)),  # somebody's own
    ],
)
def test_which_addresses_are_published_that_were_not(there: list[Container], opens: tuple[str, ...]) -> None:
    assert cost(API, *there)["api"].opens == opens


def test_what_is_open_to_the_network_now_and_was_not() -> None:
    wide = {"api": desired(ports=["0.0.0.0:9001:80", "[::1]:9002:80"])}
    found = cost(wide, publishing("127.0.0.1:9001:80", "[::1]:9002:80"))
    assert found["api"].opens == ("0.0.0.0:9001",)


@pytest.mark.parametrize(
    ("start", "crowded", "there", "starts"),
    [
        ("always", False, [], True),
        ("on-demand", False, [], False),
        ("on-demand", False, [running(memory="1g")], True),
        ("on-demand", True, [running(memory="1g")], False),
        ("on-demand", False, [container(state="exited", spec={**SPEC, "memory": "1g"})], False),
    ],
)
def test_whether_a_service_runs_then(
    start: Literal["always", "on-demand"], crowded: bool, there: list[Container], starts: bool
) -> None:
    wanted = replace(desired(), start=start, crowded=crowded)
    assert cost({"api": wanted}, *there)["api"].starts == starts


def test_a_service_that_is_woken_or_removed_starts_nothing() -> None:
    assert cost(API, container(state="paused"))["api"] == Impact()
    assert cost({}, container())["api"] == Impact()


# -- the order of steps ------------------------------------------------------------------------------------------------


def steps(wanted: dict[str, Desired], *there: Container, **more: Any) -> list[tuple[str, str]]:
    return [(step.do, step.service) for step in reconcile(wanted, there, **more).steps]


def test_services_start_in_their_order_each_when_the_one_before_is_healthy() -> None:
    wanted = {name: desired(name, ports=[f"127.0.0.1:{port}:80"]) for port, name in enumerate(("zebra", "api", "moth"))}
    assert steps(wanted, container(spec=wanted["api"].spec, settings={**SETTINGS, "ports": ["127.0.0.1:1:80"]})) == [
        *(("up", "zebra"), ("wait", "zebra")),
        *(("up", "moth"), ("wait", "moth")),
    ]


def test_two_services_swap_their_ports() -> None:
    one, other = ["127.0.0.1:1:80"], ["127.0.0.1:2:80"]
    there = [
        container(name, spec={**SPEC, "name": name, "ports": ports}, settings={**SETTINGS, "ports": ports, "gpus": []})
        for name, ports in (("a", one), ("b", other))
    ]
    wanted = {"a": desired("a", ports=other, gpus=[]), "b": desired("b", ports=one, gpus=[])}
    assert steps(wanted, *there) == [
        *(("remove", "a"), ("remove", "b")),
        *(("up", "a"), ("wait", "a"), ("up", "b"), ("wait", "b")),
    ]


def test_a_card_is_handed_over() -> None:
    there = [
        container(
            name,
            spec={**SPEC, "name": name, "ports": [], "gpus": [gpu]},
            settings={**SETTINGS, "ports": [], "gpus": [gpu]},
        )
        for name, gpu in (("a", "GPU-0"), ("b", "GPU-1"))
    ]
    wanted = {"a": desired("a", ports=[], gpus=["GPU-1"]), "b": desired("b", ports=[], gpus=["GPU-2"])}
    assert steps(wanted, *there)[0] == ("remove", "b")
    assert ("remove", "a") not in steps(wanted, *there)


def test_who_only_reads_the_state_of_cards_is_in_nobodys_way() -> None:
    reader = replace(desired("reader", ports=[]), gpus=frozenset(), reads_gpus=True)
    there = container("reader", spec={**SPEC, "name": "reader", "memory": "1g"}, settings={**SETTINGS, "ports": []})
    wanted = {"reader": reader, "api": desired()}
    assert ("remove", "reader") not in steps(wanted, there)


def test_a_card_is_free_before_its_next_user_starts() -> None:
    """Its user gives it up altogether, or makes room for one that joins it: either holds its memory until it ends."""
    old = container("z", spec={**SPEC, "name": "z", "memory": "1g", "ports": []}, settings={**SETTINGS, "ports": []})
    for z in (desired("z", ports=[], gpus=[]), desired("z", ports=[])):
        assert steps({"new": desired("new", ports=[]), "z": z}, old)[0] == ("remove", "z")


def test_an_address_that_takes_a_port_everywhere_is_in_the_way_of_the_port() -> None:
    everywhere, here = "0.0.0.0:8188:80", "127.0.0.1:8188:80"
    a = container("a", settings={**SETTINGS, "ports": [everywhere], "gpus": []}, spec={**SPEC, "name": "a"})
    wanted = {"b": desired("b", ports=[here], gpus=[]), "a": desired("a", ports=["127.0.0.1:9000:80"], gpus=[])}
    assert steps(wanted, a)[0] == ("remove", "a")


def test_a_service_that_is_recreated_alone_keeps_its_container_until_the_new_one_is_made() -> None:
    assert steps(API, running(memory="1g")) == [("up", "api"), ("wait", "api")]


def test_an_orphan_goes_first_and_is_named() -> None:
    """Renamed: the old name is nobody's any more, and it holds the port of the new one."""
    way = reconcile({"new": desired("new")}, [container("old")])
    assert [(change.action, change.resource.name) for change in way.changes] == [("remove", "old"), ("create", "new")]
    assert "its data stays" in way.changes[0].reason
    assert way.steps == [ServiceStep("remove", "old", "id-old"), ServiceStep("up", "new"), ServiceStep("wait", "new")]


def test_a_service_that_this_host_cannot_run_any_more_is_stopped_and_says_why() -> None:
    why = "it needs 4 NVIDIA GPUs, this host has 1"
    assert found({}, container(), skipped={"api": why}) == [("remove", "api", why)]


def test_a_renamed_container_gives_its_place_to_the_right_one() -> None:
    assert steps(API, container("mine", service="api")) == [("remove", "api"), ("up", "api"), ("wait", "api")]


def test_a_service_that_moves_to_another_stack_gives_its_name_and_port_free_first() -> None:
    """compose of the new stack does not take the old container for the one to replace."""
    way = reconcile(API, [container(project="back")])
    assert [(each.field, each.before, each.after) for each in way.changes[0].diff] == [("stack", "back", "front")]
    assert way.steps == [ServiceStep("remove", "api", "id-api"), ServiceStep("up", "api"), ServiceStep("wait", "api")]


def test_a_service_is_taken_out_and_put_back() -> None:
    out = reconcile({}, [container()])
    assert ([change.action for change in out.changes], out.steps) == (
        ["remove"],
        [ServiceStep("remove", "api", "id-api")],
    )
    back = reconcile(API, [])
    assert [change.action for change in back.changes] == ["create"]
    assert back.steps == [ServiceStep("up", "api"), ServiceStep("wait", "api")]


def test_a_step_that_makes_a_container_names_none() -> None:
    assert [(step.do, step.container, step.start) for step in reconcile(API, []).steps] == [
        ("up", "", True),
        ("wait", "", True),
    ]


def test_a_paused_service_is_woken() -> None:
    assert reconcile(API, [container(state="paused")]).steps == [ServiceStep("unpause", "api", "id-api")]


# -- on demand ---------------------------------------------------------------------------------------------------------

ON_DEMAND = {"api": replace(desired(), start="on-demand")}


def test_what_comes_after_a_paused_service_is_done_too() -> None:
    wanted = {"api": desired(), "painter": desired("painter", ports=["127.0.0.1:9002:80"], gpus=["GPU-1"])}
    assert steps(wanted, container(state="paused")) == [("unpause", "api"), ("up", "painter"), ("wait", "painter")]


def test_whether_a_service_on_demand_runs_is_no_drift() -> None:
    for state in ("running", "exited", "created", "paused"):
        assert reconcile(ON_DEMAND, [container(state=state)]).changes == []
    assert found(ON_DEMAND, container(state="dead")) == [("recreate", "api", "it is dead")]


def test_a_service_on_demand_is_made_and_not_started() -> None:
    assert reconcile(ON_DEMAND, []).steps == [ServiceStep("up", "api", start=False)]
    changed = container(state="exited", spec={**SPEC, "memory": "1g"})
    assert reconcile(ON_DEMAND, [changed]).steps == [ServiceStep("up", "api", start=False)]


def test_a_service_on_demand_that_ran_runs_again_with_its_new_spec() -> None:
    assert reconcile(ON_DEMAND, [container(spec={**SPEC, "memory": "1g"})]).steps == [
        ServiceStep("up", "api"),
        ServiceStep("wait", "api"),
    ]


def test_one_whose_gpu_has_no_room_beside_the_others_is_not_started_again() -> None:
    """It ran because somebody had stopped another one; a run that makes it anew starts the other one, too."""
    crowded = {"api": replace(ON_DEMAND["api"], crowded=True)}
    ran = container(spec={**SPEC, "memory": "1g"})
    assert reconcile(crowded, [ran]).steps == [ServiceStep("up", "api", start=False)]
    assert reconcile(crowded, [container()]).steps == []  # what is right is left alone
    always = {"api": replace(desired(), crowded=True)}
    assert ServiceStep("up", "api") in reconcile(always, [ran]).steps


# -- the plan decides --------------------------------------------------------------------------------------------------


def test_a_loop_that_the_plan_saw_is_ended_though_the_container_runs_at_this_moment() -> None:
    planned = {("api", "recreate"), ("other", "recreate")}
    assert found(API, container(restarts=3), planned=planned) == [("recreate", "api", "it restarts in a loop")]
    assert found(API, container(), planned=planned) == []  # somebody put it right meanwhile
    assert found(API, container(restarts=3), planned={("api", "create")}) == []


def test_a_loop_that_began_after_the_plan_is_left_to_the_verification() -> None:
    looping = container(state="restarting", restarts=1)
    assert found(API, looping) == [("recreate", "api", "it is restarting")]
    assert found(API, looping, planned=set()) == []
    assert found(API, looping, planned={("api", "recreate")}) == [("recreate", "api", "it is restarting")]
    assert found(API, container(state="exited"), planned=set()) == [("recreate", "api", "it is exited")]


def test_another_container_of_somebodys_is_no_matter_of_secrets() -> None:
    [change] = reconcile(API, [container(), container("copy", service="api")]).changes
    assert (change.reason, change.scope) == ("it has another container, copy", "")


def test_a_paused_process_is_older_than_its_files_too() -> None:
    clock = FileTimes({"api": STARTED_S + 1}, STARTED_S + 9)
    assert found(API, container(state="paused"), clock=clock) == [
        ("recreate", "api", "it started before its files were last written")
    ]


def test_two_that_share_a_card_and_stay_there_are_recreated_one_after_the_other() -> None:
    wanted = {name: desired(name, ports=[], memory="8g") for name in "ab"}
    there = [container(name, settings={**SETTINGS, "ports": []}) for name in "ab"]
    assert steps(wanted, *there) == [("up", "a"), ("wait", "a"), ("up", "b"), ("wait", "b")]


NAMES = st.sampled_from(["a", "b", "c", "d"])
PORTS = st.integers(1, 4)
WHERE = st.tuples(PORTS, st.sampled_from(["front", "back"]))


@given(st.dictionaries(NAMES, WHERE), st.dictionaries(NAMES, WHERE))
def test_whatever_moves_every_port_and_name_is_free_when_it_is_taken(
    before: dict[str, tuple[int, str]], after: dict[str, tuple[int, str]]
) -> None:
    """The steps carried out on paper, ports swapped and stacks changed: no two containers ever have one port, or one
    name (compose replaces that of its own stack alone), and the end is as wanted."""

    def port(number: int) -> list[str]:
        return [f"127.0.0.1:{number}:80"]

    def of(name: str, number: int) -> dict[str, Any]:
        return {**SPEC, "name": name, "ports": port(number), "gpus": []}

    def apart(wanted: dict[str, tuple[int, str]]) -> dict[str, tuple[int, str]]:
        """What stands in the data has ports apart; so had what an earlier run made of it."""
        used = [number for number, _ in wanted.values()]
        return {name: each for name, each in wanted.items() if used.count(each[0]) == 1}

    before, after = apart(before), apart(after)
    there = [
        container(
            name,
            spec=of(name, number),
            settings={**SETTINGS, "ports": port(number), "gpus": []},
            project=stack,
        )
        for name, (number, stack) in before.items()
    ]
    wanted = {name: Desired(stack, of(name, number)) for name, (number, stack) in after.items()}
    held = dict(before)
    for step in reconcile(wanted, there).steps:
        if step.do == "remove":
            held.pop(step.service)
        elif step.do == "up":
            number, stack = after[step.service]
            assert number not in {used for name, (used, _) in held.items() if name != step.service}
            assert held.get(step.service, (number, stack))[1] == stack
            held[step.service] = (number, stack)
    assert held == after
