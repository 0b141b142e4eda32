"""When an image is built or pulled, under which reference, and what Docker's own words mean."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from gpuhost.catalog.lock import Lock, Pins
from gpuhost.catalog.types import BuildImage, PullImage
from gpuhost.engine.facts import DockerReading
from gpuhost.host.paths import Paths
from gpuhost.images import operations, rules
from gpuhost.images.rules import explain, pinned, reclaimable, reconcile, reference, sources, spec, unpinned
from gpuhost.plan.change import Impact
from gpuhost.plan.spec import canonical, digest, text_digest
from gpuhost.project import ProjectFile
from tests.unit import sample

BUILT = BuildImage(build="orchestrator", args={"BASE_IMAGE": "python:3.12"})
TAG = reference("api", BUILT)
SERVER = "docker.io/acme/server:v1.2.3"  # that of the sample
SPEC = canonical(spec(BUILT))


def test_a_built_image_carries_its_spec_in_its_tag() -> None:
    assert reference("api", BUILT) == f"gpuhost/api:{digest(spec(BUILT))[:12]}"
    assert reference("api", BuildImage(build="orchestrator", args={"BASE_IMAGE": "python:3.13"})) != TAG
    assert reference("api", BuildImage(build="comfyui", args=BUILT.args)) != TAG


def test_of_a_file_content_and_mode_count(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"Dockerfile": ProjectFile("FROM a:1\n", "644"), "run.sh": ProjectFile("#!/bin/sh\n", "644")}

    def made(**changed: ProjectFile) -> dict[str, str]:
        monkeypatch.setattr(rules, "context", lambda _: files | {"run.sh": changed.get("run", files["run.sh"])})
        return spec(BUILT)["context"]

    plain, other = made(), made(run=ProjectFile("#!/bin/dash\n", "644"))
    executable = made(run=ProjectFile("#!/bin/sh\n", "755"))
    assert plain == {path: text_digest(file.text) for path, file in files.items()}
    assert executable == {**plain, "run.sh": f"{plain['run.sh']} 755"}
    assert len({plain["run.sh"], other["run.sh"], executable["run.sh"]}) == 3


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        ({TAG: SPEC}, None),
        ({}, "not on the host"),
        ({"gpuhost/other:1": "x"}, "not on the host"),
        (
            {"gpuhost/api:older": canonical({**spec(BUILT), "args": {"BASE_IMAGE": "python:3.11"}})},
            "args.BASE_IMAGE: python:3.11 -> python:3.12",
        ),
        ({"gpuhost/api:x": canonical(spec(BUILT))}, "its label is not ours"),  # ours, under a tag that somebody gave
    ],
)
def test_built(images: dict[str, str], reason: str | None) -> None:
    found = reconcile({"api": BUILT}, DockerReading(images=images, tags=set(images)))
    expected = [("images", "image", TAG, "build")] if reason else []
    assert [change.key for change in found] == expected
    assert [change.reason for change in found] == ([reason] if reason else [])


def test_a_build_is_compared_with_the_one_that_is_nearest() -> None:
    far = {**spec(BUILT), "args": {"BASE_IMAGE": "python:3.11", "MORE": "1"}}
    near = {**spec(BUILT), "args": {"BASE_IMAGE": "python:3.11"}}
    for stamps in ((far, near), (near, far)):
        images = {f"gpuhost/api:{number}": canonical(stamp) for number, stamp in enumerate(stamps)}
        [change] = reconcile({"api": BUILT}, DockerReading(images=images, tags=set(images)))
        assert change.reason == "args.BASE_IMAGE: python:3.11 -> python:3.12" and len(change.diff) == 1


def test_a_build_that_the_data_names_no_more_is_reclaimable() -> None:
    """After another spec, and after its service left; what somebody made of an image of ours is his."""
    there = {TAG: SPEC, "gpuhost/api:older": "{}", "gpuhost/gone:1": "{}", "mine/api:1": SPEC}
    reading = DockerReading(images=there, tags={*there, "acme/server:v1"})
    assert reclaimable({"api": BUILT}, reading) == ["gpuhost/api:older", "gpuhost/gone:1"]
    assert reclaimable({"api": BUILT}, DockerReading(images={TAG: SPEC}, tags={TAG})) == []


@pytest.mark.parametrize(("executing", "told"), [(False, ["gpuhost/api:older"]), (True, [])])
def test_a_plan_lists_what_is_reclaimable_and_takes_nothing_away(
    monkeypatch: pytest.MonkeyPatch, executing: bool, told: list[str]
) -> None:
    """Once a run: what acts has been said by what planned it."""
    reading = DockerReading(images={TAG: SPEC, "gpuhost/api:older": "{}"}, tags={TAG, "gpuhost/api:older"})
    notes: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(operations, "host", SimpleNamespace(get_fact=lambda *_, **__: reading))
    monkeypatch.setattr(operations, "state", SimpleNamespace(is_executing=executing))
    monkeypatch.setattr(operations, "note", lambda event, message, images: notes.append((event, images)))
    monkeypatch.setattr(operations, "carry_out", lambda changes, commands: [*changes, *commands])
    assert list(operations.images._inner({"api": BUILT}, Paths.of(sample.catalog()), {})) == []
    assert notes == ([("reclaimable", told)] if told else [])


def test_a_label_that_cannot_be_read_says_nothing() -> None:
    images = {"gpuhost/api:older": "no JSON"}
    [change] = reconcile({"api": BUILT}, DockerReading(images=images, tags=set(images)))
    assert change.reason.startswith("args.BASE_IMAGE, ") and change.reason.endswith(" more differ")


DIGEST = f"sha256:{'a' * 64}"


@pytest.mark.parametrize(
    ("wanted", "listed"),
    [
        ("acme/server:v1", "acme/server:v1"),
        ("docker.io/acme/server:v1", "acme/server:v1"),
        ("index.docker.io/acme/server:v1", "acme/server:v1"),
        ("docker.io/library/python:3.12", "python:3.12"),
        ("registry.example:5000/acme/server:v1", "registry.example:5000/acme/server:v1"),
        (f"acme/server@{DIGEST}", f"acme/server@{DIGEST}"),
        (f"docker.io/acme/server:v1@{DIGEST}", f"acme/server@{DIGEST}"),
        (f"registry.example:5000/acme/server:v1@{DIGEST}", f"registry.example:5000/acme/server@{DIGEST}"),
    ],
)
def test_pulled_once(wanted: str, listed: str) -> None:
    image = PullImage(pull=wanted)
    [change] = reconcile({"server": image}, DockerReading(tags={"acme/server:v0", "other:v1"}))
    assert change.key == ("images", "image", wanted, "pull") and change.reason == "not on the host"
    assert reconcile({"server": image}, DockerReading(tags={listed})) == []


def locked(**digests: str) -> Pins:
    """Pins of the references `name:1`."""
    images = {f"{name}:1": {"digest": f"sha256:{digit * 64}"} for name, digit in digests.items()}
    return Pins(Lock.model_validate({"version": 1, "images": images}))


def test_a_locked_image_is_named_by_its_digest_beside_its_tag() -> None:
    pins = locked(a="a")
    assert pinned(PullImage(pull="a:1"), pins) == PullImage(pull=f"a:1@{DIGEST}")
    assert pinned(PullImage(pull="b:1"), pins) == PullImage(pull="b:1")
    of_another = PullImage(pull=f"a:1@sha256:{'b' * 64}")
    assert pinned(of_another, pins) == of_another  # what the data says by itself holds


def test_a_base_is_locked_whether_the_data_or_the_dockerfile_names_it() -> None:
    given = pinned(BuildImage(build="orchestrator", args={"BASE_IMAGE": "a:1", "OTHER": "a:1"}), locked(a="a"))
    assert given == BuildImage(build="orchestrator", args={"BASE_IMAGE": f"a:1@{DIGEST}", "OTHER": "a:1"})
    [default] = sources(BuildImage(build="orchestrator"))
    pins = Pins(Lock.model_validate({"version": 1, "images": {default: {"digest": DIGEST}}}))
    assert pinned(BuildImage(build="orchestrator"), pins) == BuildImage(
        build="orchestrator", args={"BASE_IMAGE": f"{default}@{DIGEST}"}
    )
    unlocked = BuildImage(build="orchestrator")
    assert pinned(unlocked, Pins()) == unlocked  # no image is built anew because there might be a lock


def test_what_nobody_pinned_is_told() -> None:
    wanted: dict[str, BuildImage | PullImage] = {
        "built": BuildImage(build="orchestrator", args={"BASE_IMAGE": "a:1"}),
        "pulled": PullImage(pull="b:1"),
        "right": PullImage(pull=f"b:1@{DIGEST}"),
    }
    why = "a tag that can be moved; `gpuhost lock` pins it"
    assert unpinned(wanted) == [
        ("built", f"unpinned: built on a:1, {why}"),
        ("pulled", f"unpinned: is b:1, {why}"),
    ]
    assert unpinned({name: pinned(image, locked(a="a", b="b")) for name, image in wanted.items()}) == []


NO_IMAGE = "check its name and tag in group_data; a private image needs `docker login` on the host"


@pytest.mark.parametrize(
    ("said", "what", "hint"),
    [
        (
            "Error response from daemon: pull access denied for acme/nothing, repository does not exist or may "
            "require 'docker login': denied: requested access to the resource is denied",
            "the registry has no image acme/nothing",
            NO_IMAGE,
        ),
        (
            "Error response from daemon: manifest for acme/server:v9 not found: manifest unknown: manifest unknown",
            "the registry has no image acme/server:v9",
            "check its tag in group_data",
        ),
        (
            "ERROR: docker.io/library/python:3.99: failed to resolve source metadata for "
            "docker.io/library/python:3.99: docker.io/library/python:3.99: not found",
            "the registry has no image docker.io/library/python:3.99",
            "check its tag in group_data",
        ),
        (
            "toomanyrequests: You have reached your pull rate limit.",
            "the registry's rate limit is reached",
            "wait, or `docker login` on the host",
        ),
        (
            'Get "https://registry-1.docker.io/v2/": dial tcp: lookup registry-1.docker.io on 127.0.0.53:53: '
            "no such host",
            "the registry registry-1.docker.io cannot be reached",
            "check the host's DNS and network",
        ),
        (
            "ERROR: failed to solve: python:3: failed to resolve source metadata for docker.io/library/python:3: "
            'failed to do request: Head "https://registry-1.docker.io/v2/library/python/manifests/3": read: reset',
            "the registry registry-1.docker.io cannot be reached",
            "check the host's DNS and network",
        ),
        (
            'Get "https://registry.example/v2/": dial tcp 192.0.2.1:443: connect: connection refused',
            "the registry 192.0.2.1:443 cannot be reached",
            "check the host's DNS and network",
        ),
        (
            "write /var/lib/docker/tmp/GetImageBlob1: no space left on device",
            "the disk is full",
            "free space on /var/lib/docker and run again",
        ),
    ],
)
def test_a_failed_pull_is_explained(said: str, what: str, hint: str) -> None:
    assert explain(said) == (what, hint)


def test_what_is_not_known_is_not_guessed() -> None:
    assert explain('#7 ERROR: process "/bin/sh -c false" did not complete successfully: exit code: 1') is None


def test_what_pulling_an_image_downloads_where_a_lock_says_it() -> None:
    image = PullImage(pull="docker.io/acme/server:v1")
    [change] = reconcile({"server": image}, DockerReading(), {"server": 42})
    assert change.impact == Impact(download_bytes=42, disk_bytes=None)
    [change] = reconcile({"server": image}, DockerReading())
    assert change.impact == Impact(download_bytes=None, disk_bytes=None)
    pins = Pins(Lock.model_validate({"version": 1, "images": {SERVER: {"digest": f"sha256:{'a' * 64}"}}}))
    assert replace(sample.run(), pins=pins).image_bytes == {}
    entry = {"digest": f"sha256:{'a' * 64}", "download_bytes": 42}
    pins = Pins(Lock.model_validate({"version": 1, "images": {SERVER: entry}}))
    pulls = sample.run({"services.api.image": "pulled"})
    assert replace(pulls, pins=pins).image_bytes == {"pulled": 42}
    arm = replace(pulls, pins=pins, reading=sample.reading(arch="aarch64"))
    assert arm.image_bytes == {}  # its layers have other sizes
