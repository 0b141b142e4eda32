"""Variants of a catalogue from the same entries: for tests, without ComfyUI's login, open to the network."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from pyinfra.api.state import State

from gpuhost.catalog.inventory import Request, read
from gpuhost.catalog.types import Catalog
from gpuhost.host.preflight import exposed
from gpuhost.project import PROJECT
from gpuhost.services.stacks import Stacks
from tests.unit import sample

LOGIN = {"services.painter.auth.switch": "painters_login"}
TEST = {"profile": "test", "services.painter.test": {"memory": "4g", "cpus": 2}}


def differing(changes: dict[str, Any], base: dict[str, Any] | None = None) -> dict[str, set[str]]:
    """service -> the fields in which it differs from that of the catalogue without the changes."""
    before, after = sample.catalog(base).services, sample.catalog({**(base or {}), **changes}).services
    found = {name: after[name].model_dump() for name in after}
    return {
        name: fields
        for name, entry in before.items()
        if (fields := {key for key, value in entry.model_dump().items() if found[name][key] != value})
    }


def test_nothing_asked_for_changes_nothing() -> None:
    plain = sample.catalog()
    assert sample.catalog({"profile": None, "expose": []}) == plain
    assert sample.catalog(LOGIN).services["api"] == plain.services["api"]


def test_for_tests_nothing_starts_by_itself_and_the_limits_are_others() -> None:
    made = sample.catalog(TEST)
    painter, api = made.services["painter"], made.services["api"]
    assert (painter.memory, painter.cpus, painter.shm, api.memory) == ("4g", 2, "16g", "2g")
    assert {each.start for each in made.services.values()} == {"on-demand"}
    stacks = Stacks(sample.run(TEST))
    for name, spec in stacks.specs.items():
        assert spec["restart"] == "no", name
        assert spec["logging"]["options"] == {"max-size": "5m", "max-file": "2"}, name
    assert Stacks(sample.run()).specs["api"]["logging"]["options"] == {"max-size": "10m", "max-file": "3"}


def test_for_tests_each_network_lies_in_that_of_tests_apart_from_the_others() -> None:
    given = {"outer": {"subnet": "10.1.0.0/20", "egress": True}, "inner": {"subnet": "172.20.0.0/16"}}
    made = sample.catalog({"profile": "test", "networks": given}).networks
    assert {name: network.subnet for name, network in made.items()} == {
        "outer": "172.25.1.0/24",
        "inner": "172.25.2.0/24",
    }
    assert made["outer"].egress and not made["inner"].egress


def test_without_its_login_a_service_has_no_auth_and_no_files_of_it() -> None:
    off = {"painters_login": False}
    assert sample.problems(off)  # no service has such a switch
    assert sample.problems({**LOGIN, "painters_login": "no"})  # it is True or False
    assert differing({"painters_login": True}, LOGIN) == {}
    assert differing(off, LOGIN) == {"painter": {"auth", "secret_files", "seeds"}}
    painter = sample.catalog({**LOGIN, **off}).services["painter"]
    assert (painter.auth, painter.secret_files, painter.seeds) == (None, {}, {})
    stacks = Stacks(sample.run({**LOGIN, **off}))
    assert not [target for target in stacks.specs["painter"]["volumes"] if "login" in target.lower()]
    assert not painter.container_secrets() and painter.health_path == "/system_stats"


@pytest.mark.parametrize("bind", ["0.0.0.0", "192.0.2.7", "::"])
def test_without_the_login_a_service_stays_on_loopback(bind: str) -> None:
    [problem] = sample.problems({**LOGIN, "painters_login": False, "services.painter.bind": bind})
    assert f"`services.painter.bind`: {bind} is open to the network" in problem.what


def test_an_exposed_service_is_bound_to_every_address_and_the_others_are_not() -> None:
    assert differing({"expose": ["painter"]}) == {"painter": {"bind"}}
    made = sample.catalog({"expose": ["painter"]}).services
    assert (made["painter"].bind, made["api"].bind) == ("0.0.0.0", "127.0.0.1")
    assert exposed(made) == [("painter", "port 9002 is open to the network (0.0.0.0); it wants LOGIN_HASH")]
    assert exposed(sample.catalog().services) == []
    chosen = {"expose": ["painter"], "services.painter.bind": "192.0.2.7"}  # one address of several
    assert sample.catalog(chosen).services["painter"].bind == "192.0.2.7"


@pytest.mark.parametrize("changes", [{"services.painter.auth": None}, {**LOGIN, "painters_login": False}])
def test_a_service_without_auth_is_not_exposed(changes: dict[str, Any]) -> None:
    [problem] = sample.problems({**changes, "expose": ["painter"]})
    assert problem.what.endswith("`expose` names `painter`, which has no `auth`: everybody in the network could use it")
    assert problem.hint == "reach it by `ssh -L`, or give it `auth`"


def test_an_exposed_service_exists() -> None:
    [problem] = sample.problems({"expose": ["paintr"]})
    assert "`expose` names the service `paintr`, which does not exist" in problem.what
    assert problem.hint == "did you mean `painter`?"


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch, pyinfra_state: State) -> dict[str, Catalog]:
    """What we ship, in each variant."""
    monkeypatch.chdir(PROJECT)
    wanted: dict[str, dict[str, Any]] = {
        "plain": {},
        "test": {"profile": "test"},
        "no login": {"comfyui_login": False},
        "exposed": {"expose": ["orchestrator", "comfyui-qwen"]},
    }
    return {
        name: next(iter(read(Request("inventory.py", data=data)).catalogs.values())) for name, data in wanted.items()
    }


def test_the_variants_of_what_we_ship_are_valid(shipped: dict[str, Catalog]) -> None:
    network = ipaddress.IPv4Network("172.25.0.0/16")
    for entry in shipped["test"].networks.values():
        assert ipaddress.IPv4Network(entry.subnet).subnet_of(network)
    without = {name for name, entry in shipped["no login"].services.items() if entry.auth is None}
    assert without == {"comfyui-qwen", "flux-1-dev", "comfyui-workflows"}
    open_ones = {name for name, entry in shipped["exposed"].services.items() if entry.bind == "0.0.0.0"}
    assert open_ones == {"orchestrator", "comfyui-qwen"}


@pytest.mark.parametrize("variant", ["plain", "test"])
@pytest.mark.parametrize(("name", "measured_mib"), [("comfyui-qwen", 31908), ("flux-1-dev", 33240)])
def test_what_a_small_card_has_no_room_for_has_room_in_the_memory_of_the_service(
    shipped: dict[str, Catalog], variant: str, name: str, measured_mib: int
) -> None:
    """In 20000 MiB of a GPU, by bench/comfyui_gpu.py. With less the kernel ends ComfyUI in the middle of a picture."""
    services = shipped[variant].services
    for each in (name, "comfyui-workflows"):  # that one sees the same models
        limit = services[each].memory
        assert limit and limit[-1] == "g" and int(limit[:-1]) * 1024 > measured_mib, (each, limit)
