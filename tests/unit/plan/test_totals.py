"""What all changes of a host cost together, in numbers and in words."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest

from gpuhost.host.measures import Measure
from gpuhost.plan.change import Change, Impact, Reboot, Resource
from gpuhost.plan.document import document
from gpuhost.plan.impact import Measured, Running, with_impact, with_impacts
from gpuhost.plan.schema import PlanDocument
from gpuhost.plan.text import Shown, plan_lines
from gpuhost.plan.totals import Disk, Port, lines, total, totals

GB = 10**9
MEASURES = [
    Measure("service", "api", 43.1),
    Measure("image", "gpuhost/api", 61.0, 9 * GB),
    Measure("install", "tree", 200.0, 5 * GB),
]
SEEN = Measured(
    {(each.kind, each.name): each for each in MEASURES},
    bytes_per_s=50_000_000,
    free_bytes={"/srv/genai": 812 * GB, "/var/lib/docker": 90 * GB},
    data="/srv/genai",
    docker="/var/lib/docker",
    proof_s=12.0,
)
BARE = Measured(free_bytes={"/srv/genai": 812 * GB}, data="/srv/genai", docker="/srv/genai", proof_s=12.0)


def change(kind: str, name: str, action: str, impact: Impact | None = None) -> Change:
    return Change("stage", Resource(kind, name), action, "why", impact=impact)


MODEL = change("model", "vae", "fetch", Impact(download_bytes=24_300_000_000))
SERVICE = change("service", "api", "recreate", Impact(starts=True, opens=("127.0.0.1:8188",)))
BUILD = change("image", "gpuhost/api:2", "build")
PULL = change("image", "docker.io/vllm/vllm-openai:v0.9.2", "pull")
INSTALL = change("install", "/srv/genai/installs/tree/v2-a", "install")
PACKAGES = change("packages", "Docker Engine", "install")
FILE = change("file", "/a", "write")


def told(*changes: Change, seen: Measured = SEEN) -> list[str]:
    made = [with_impact(each, Running(), seen) for each in changes]
    return list(lines(total(made, seen), 80))


def test_all_that_is_known() -> None:
    assert told(MODEL, BUILD, INSTALL, SERVICE) == [
        "Download: 24.3 GB (models); images, installs: nobody knows yet",
        "Disk: /srv/genai has 812 GB free, 783 GB after",
        "Disk: /var/lib/docker has 90.0 GB free, 81.0 GB after",
        "Time: about 13 min (models 8 min, images 61 s, installs 3 min, services 43 s,",
        "  proof 12 s)",
        "New ports: 127.0.0.1:8188 api",
    ]


def test_nothing_is_invented_on_a_bare_host() -> None:
    assert told(PACKAGES, MODEL, PULL, BUILD, INSTALL, SERVICE, seen=BARE) == [
        "Download: 24.3 GB (models); packages, images, installs: nobody knows yet",
        "Disk: /srv/genai has 812 GB free, 788 GB after; images, installs: not known",
        "Time: packages, models, images, installs, services: never measured here",
        "New ports: 127.0.0.1:8188 api",
        "Reboot: no",
    ]


def test_a_number_beside_what_nobody_measured_is_said_to_be_less_than_it_takes() -> None:
    assert told(SERVICE, PULL)[2] == "Time: more than 55 s (services 43 s, proof 12 s); images: never measured here"


def test_an_apply_looks_at_the_host_as_its_plan_did() -> None:
    made = total([with_impact(SERVICE, Running(), SEEN)], SEEN, 25.4)
    assert next(lines(made, 80)) == "Time: about 80 s (services 43 s, looking 25 s, proof 12 s)"
    assert total([with_impact(FILE, Running(), SEEN)], SEEN, 25.4).seconds == {}
    unmeasured = total([with_impact(PULL, Running(), SEEN)], SEEN, 25.4)
    assert "Time: images: never measured here" in lines(unmeasured, 80)


def test_of_what_is_known_in_part_the_rest_is_named() -> None:
    known = change("image", "acme/known:1", "pull", Impact(download_bytes=GB, disk_bytes=None))
    assert told(known, PULL, BUILD, replace(SERVICE, resource=Resource("service", "new")), SERVICE) == [
        "Download: 1.0 GB (images); other images: nobody knows yet",
        "Disk: /var/lib/docker has 90.0 GB free, 81.0 GB after; other images: not known",
        "Time: more than 2 min (images 61 s, services 43 s, proof 12 s); other images,",
        "  other services: never measured here",
        "New ports: 127.0.0.1:8188 new, 127.0.0.1:8188 api",
    ]


def test_a_restart_of_docker_takes_its_time() -> None:
    restart = change("engine", "dockerd", "restart")
    assert told(restart)[0] == "Time: Docker's restart: never measured here"
    seen = replace(SEEN, measures={("engine", "dockerd"): Measure("engine", "dockerd", 16.0)})
    assert told(restart, seen=seen)[0] == "Time: about 28 s (Docker's restart 16 s, proof 12 s)"


def test_what_costs_nothing_has_no_line() -> None:
    assert told(FILE, change("model", "vae", "link"), change("service", "api", "remove")) == []
    assert told(change("service", "api", "create", Impact())) == []  # one on demand
    assert told(change("service", "api", "unpause", Impact())) == []


def test_bytes_that_other_hosts_give() -> None:
    given = change("model", "vae", "fetch", Impact(download_bytes=13 * GB, neighbour_bytes={"a": 2 * GB, "b": GB}))
    assert told(given)[0] == "Download: 13.0 GB (models), 3.0 GB of it from other hosts"


def test_the_disk_never_has_less_than_nothing_free() -> None:
    assert Disk("/", 5, {"model": 6}).after_bytes == 0 and Disk("/", 9, {"model": 5, "image": 3}).after_bytes == 1


@pytest.mark.parametrize(
    ("address", "beyond"),
    [
        ("127.0.0.1:8188", False),
        ("127.9.9.9:8188", False),
        ("[::1]:8188", False),
        ("0.0.0.0:8188", True),
        ("[::]:8188", True),
        ("192.0.2.10:8188", True),
        ("[2001:db8::1]:8188", True),
    ],
)
def test_which_ports_others_reach(address: str, beyond: bool) -> None:
    assert Port(address, "api", now=True).beyond_host == beyond


def test_ports_that_others_reach_come_first_and_those_of_services_on_demand_are_said_to_be_later() -> None:
    opened = [
        change("service", name, "create", Impact(starts=starts, opens=(address,)))
        for name, address, starts in (
            ("api", "127.0.0.1:1", True),
            ("flux", "127.0.0.1:2", False),
            ("wide", "0.0.0.0:3", True),
            ("later", "0.0.0.0:4", False),
        )
    ]
    assert [line for line in told(*opened) if ":" in line and not line.startswith("Time")] == [
        "OPEN TO THE NETWORK: 0.0.0.0:3 wide",
        "OPEN TO THE NETWORK when started: 0.0.0.0:4 later",
        "New ports: 127.0.0.1:1 api",
        "New ports when started: 127.0.0.1:2 flux",
    ]


@pytest.mark.parametrize(
    ("action", "reboot", "line"),
    [
        ("reboot", "by gpuhost", "Reboot: yes, by gpuhost"),
        ("ask for a reboot", "by you", "Reboot: yes, by you"),
        ("load", "no", "Reboot: no"),
    ],
)
def test_whether_a_reboot_is_needed(action: str, reboot: Reboot, line: str) -> None:
    driver = with_impact(change("driver", "NVIDIA driver 580", action), Running(), SEEN)
    assert total([driver], SEEN).reboot == reboot
    assert told(driver)[-1] == line


def event(made: Change, host: str = "one") -> dict[str, Any]:
    return {"event": "change", "host": host, "phase": "plan", **asdict(made)}


def measured(host: str, seen: Measured = SEEN) -> list[dict[str, Any]]:
    fields = {**asdict(seen), "measures": [asdict(each) for each in seen.measures.values()]}
    speed = {"event": "speed", "host": host, "bytes_per_s": fields.pop("bytes_per_s")}
    return [{"event": "measured", "host": host, **fields}, speed]


def shown(*hosts: str, **other: Measured) -> list[str]:
    """The end of a plan in which every host has the same changes."""
    events = [each for host in hosts for each in measured(host, other.get(host, SEEN))]
    changes = with_impacts([event(MODEL, host) for host in hosts], events)
    told = list(plan_lines(changes, Shown(), totals(changes, events)))
    return told[next(at for at, line in enumerate(told) if line.startswith("Plan: ")) + 1 :]


def test_below_each_hosts_plan_stands_what_it_costs_there() -> None:
    alike = ["Download: 24.3 GB (models)", "Disk: /srv/genai has 812 GB free, 788 GB after"]
    time = "Time: about 8 min (models 8 min, proof 12 s)"
    every = "All {0} hosts: {0} to add, 0 to change, 0 to remove."
    assert shown("one") == [*alike, time]
    assert shown("one", "two") == [*alike, time, every.format(2)]
    less = replace(SEEN, free_bytes={"/srv/genai": 100 * GB})
    assert shown("one", "two", "three", two=less) == [
        *("one, three:", *alike, time),
        *("two:", alike[0], "Disk: /srv/genai has 100 GB free, 75.7 GB after", time),
        every.format(3),
    ]


def test_the_document_has_the_same_in_numbers() -> None:
    events = measured("one")
    changes = with_impacts([event(each) for each in (MODEL, SERVICE, PULL)], events)
    made = document("changes", changes, events, [], totals(changes, events))
    assert made["totals"]["one"] == {
        "download_bytes": 24_300_000_000,
        "download_unknown": ["image"],
        "neighbour_bytes": 0,
        "disks": [
            {"folder": "/srv/genai", "free_bytes": 812 * GB, "after_bytes": 787_700_000_000, "unknown": []},
            {"folder": "/var/lib/docker", "free_bytes": 90 * GB, "after_bytes": 90 * GB, "unknown": ["image"]},
        ],
        "seconds": 541.1,
        "seconds_unknown": ["image"],
        "ports": [{"address": "127.0.0.1:8188", "service": "api", "now": True, "beyond_host": False}],
        "reboot": "no",
    }
    PlanDocument.model_validate(made)
