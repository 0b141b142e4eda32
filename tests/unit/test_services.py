"""When a container is made anew, and why."""

from __future__ import annotations

import pytest

from gpuhost.facts.docker import Container
from gpuhost.services import Stamps, reconcile

WANTED = Stamps("spec", "secrets")


def container(
    spec: str = "spec", secrets: str = "secrets", state: str = "running", health: str = "healthy"
) -> Container:
    return Container("api", spec, secrets, "abc", state, health)


@pytest.mark.parametrize(
    ("wanted", "there", "expected"),
    [
        (WANTED, container(), None),
        (WANTED, container(health="unhealthy"), None),  # making it anew cures nothing: verify tells why
        (WANTED, container(health="starting"), None),
        (WANTED, None, ("create", "no container")),
        (WANTED, container(spec="old"), ("recreate", "its entry, template, image or install changed")),
        (WANTED, container(secrets="old"), ("recreate", "it runs with another secret")),
        (Stamps("spec", None), container(), ("recreate", "it runs with another secret")),
        (WANTED, container(state="exited"), ("recreate", "it is exited")),
        (WANTED, container(state="paused"), ("recreate", "it is paused")),
        (WANTED, container(spec="old", state="exited"), ("recreate", "its entry, template, image or install changed")),
    ],
)
def test_reason(wanted: Stamps, there: Container | None, expected: tuple[str, str] | None) -> None:
    found = reconcile({"api": wanted}, {"api": there} if there else {})
    assert [(change.action, change.reason) for change in found] == ([expected] if expected else [])
    assert all((change.stage, change.subject) == ("stacks", "api") for change in found)


def test_the_order_is_the_start_order_and_others_are_left_alone() -> None:
    wanted = {"zebra": WANTED, "api": WANTED, "moth": WANTED}
    found = reconcile(wanted, {"stranger": container(), "api": container()})
    assert [change.subject for change in found] == ["zebra", "moth"]


def test_what_the_plan_promised_is_done_though_the_container_came_back_by_itself() -> None:
    found = reconcile({"api": WANTED}, {"api": container()}, {("api", "recreate"), ("other", "recreate")})
    assert [(change.subject, change.action) for change in found] == [("api", "recreate")]
    assert reconcile({"api": WANTED}, {"api": container()}, {("api", "create")}) == []
