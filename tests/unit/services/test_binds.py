"""What a container writes is no way to what another one, or root, is given."""

from __future__ import annotations

import pytest

from gpuhost.services.binds import Bind, engine_sockets, of_spec, unsafe
from gpuhost.services.stacks import Stacks, bind_problems
from tests.unit import sample

WRITES = Bind("`painter`", "/data/services/painter/data", read_only=False)


@pytest.mark.parametrize(
    ("source", "read_only"),
    [
        ("/data/services/painter/data/key.txt", True),
        ("/data/services/painter/data/deep/er", False),
        ("/data/services/painter/data/", False),  # the same folder, spelled otherwise
        ("/data/services/painter", True),  # above: a container that only reads it follows no link on the host
        ("/data/services/painter/data-2", True),
        ("/data/services/painter/seeds/key.txt", False),
    ],
)
def test_what_lies_in_a_folder_that_a_container_writes_is_refused(source: str, read_only: bool) -> None:
    other = Bind("`api`", source, read_only)
    told = [what for what, _ in unsafe([WRITES, other], {})]
    if "/data/key" in source or "/deep" in source:
        assert told == [f"`api` is given {source}, which lies in {WRITES.source}, where `painter` writes"]
    else:
        assert told == []


def test_also_its_own() -> None:
    """Docker follows the link when the container starts again."""
    key = Bind("`painter`", f"{WRITES.source}/session-key.txt", read_only=False)
    assert [what for what, _ in unsafe([WRITES, key], {})] == [
        f"`painter` is given {key.source}, which lies in {WRITES.source}, where `painter` writes"
    ]


def test_what_nobody_writes_may_be_given_piece_by_piece() -> None:
    binds = [Bind("`a`", "/models", True), Bind("`b`", "/models/vae", True), Bind("`c`", "/models", False)]
    assert list(unsafe(binds[:2], {})) == []
    assert [what for what, _ in unsafe(binds, {})] == [
        "`b` is given /models/vae, which lies in /models, where `c` writes"
    ]


@pytest.mark.parametrize("path", [WRITES.source, f"{WRITES.source}/tools"])
def test_a_folder_of_roots_does_not_lie_there_either(path: str) -> None:
    told = list(unsafe([WRITES], {path: "tools_root", "/data": "data_root"}))
    assert told == [
        (
            f"`tools_root` ({path}) lies in {WRITES.source}, where `painter` writes",
            "choose another folder as `tools_root`",
        )
    ]


def test_the_volumes_of_a_spec() -> None:
    spec = {"volumes": {"/data": "/srv/data", "/models": "/srv/models:ro"}}
    assert of_spec("`a`", spec) == [Bind("`a`", "/srv/data", False), Bind("`a`", "/srv/models", True)]


def test_a_sites_data_that_puts_our_programs_where_a_container_writes_is_refused() -> None:
    assert bind_problems(sample.run(), "gpu1") == []
    inside = "/data/outputs/painter/tools"
    [problem] = bind_problems(sample.run({"tools_root": inside}), "gpu1")
    assert (problem.what, problem.hint, problem.host) == (
        f"`tools_root` ({inside}) lies in /data/outputs/painter, where `painter` writes",
        "choose another folder as `tools_root`",
        "gpu1",
    )


@pytest.mark.parametrize(
    "source",
    [
        "/var/run/docker.sock",
        "/run/docker.sock",
        "/run/docker.sock:ro",
        "/var/run//docker.sock",
        "/run",
        "/var/run",
        "/var/run:ro",
        "/",
        "/run/containerd",
        "/run/containerd/containerd.sock",
    ],
)
def test_the_socket_of_an_engine_is_refused_by_whatever_name_or_folder(source: str) -> None:
    [(what, hint)] = engine_sockets({"api": {"volumes": {"/data": "/srv/data", "/x": source}}})
    assert what.startswith(f"`api` mounts {source} at /x: /run/") and "`controls_services`" in hint


@pytest.mark.parametrize(
    "source", ["/run/gpuhost/broker:ro", "/srv/run", "/run/dockers", "/var/lib/x", "/srv/run/docker.sock"]
)
def test_no_other_folder_is(source: str) -> None:
    assert list(engine_sockets({"api": {"volumes": {"/x": source}}})) == []


def test_a_template_that_mounts_the_socket_refuses_its_host(monkeypatch: pytest.MonkeyPatch) -> None:
    run = sample.run()
    monkeypatch.setattr(Stacks, "specs", {name: {"volumes": {"/x": "/run/docker.sock"}} for name in run.services})
    problems = bind_problems(run, "gpu1")
    assert [problem.what.partition(":")[0] for problem in problems] == [
        f"`{name}` mounts /run/docker.sock at /x" for name in run.services
    ]
