"""`gpuhost lock`, and a deploy that takes what it wrote down and nothing else."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from gpuhost.catalog.types import PullImage
from gpuhost.engine.facts import DockerState
from gpuhost.images.rules import reconcile

from ..instruments.control import Control, Told
from ..instruments.converged import converged_host
from ..standins.comfyui import build_torch_wheels
from ..standins.registry import layer_of
from ..world.freshhost import FreshHost
from ..world.run import Completed
from ..world.world import BUSYBOX_IMAGE, PYTHON_CONFIG, PYTHON_IMAGE, World

pytestmark = pytest.mark.rehearsal
BASE = f"docker.io/library/{PYTHON_IMAGE}"
MARK = "/opt/not-what-was-locked"


@dataclass
class Locked:
    """A converged host, deployed without a lock until now, and its site."""

    world: World
    host: FreshHost
    control: Control

    def lock(self, *flags: str) -> Completed:
        """`gpuhost lock` where the real names lead to the stand-ins."""
        line = [sys.executable, "-m", "gpuhost.cli.main", "lock", "-i", str(self.host.inventory), *flags]
        return self.world.operator(line)

    @property
    def content(self) -> dict[str, Any]:
        """The site's lock.json."""
        read: dict[str, Any] = json.loads((self.host.run_dir / "lock.json").read_text())
        return read

    def move_tag(self) -> str:
        """Somebody pushes another image under the tag of the base; its digest."""
        layer = layer_of({MARK: b"hijacked\n"}, self.world.run_dir / "moved.tar")
        return self.world.registry_add(PYTHON_IMAGE, [self.world.python_layer, layer], PYTHON_CONFIG)

    def behave(self) -> None:
        """Tag and wheels are again what they were."""
        self.world.registry_add(PYTHON_IMAGE, [self.world.python_layer], PYTHON_CONFIG)
        build_torch_wheels(self.world.torch_wheels)


@pytest.fixture(scope="module")
def locked(furnished: World) -> Iterator[Locked]:
    host = converged_host(furnished, "lock")
    made = Locked(furnished, host, Control(host))
    yield made
    made.behave()
    furnished.destroy(host)


def unpinned(told: Told) -> list[str]:
    """The images and installs that a run says nobody pinned."""
    assert told.document is not None
    found = [re.match(r"((?:image|install) \S+): unpinned: ", note["message"]) for note in told.document["notes"]]
    return sorted(each[1] for each in found if each)


def test_a_deploy_takes_what_was_locked_and_nothing_else(locked: Locked) -> None:
    """Between the lock and the deploy the base's tag is moved, and torch gets other bytes under its version."""
    before = locked.control.plan()
    assert before.code == 0, before.errors
    assert unpinned(before) == ["image comfyui", "image gpu-check", "image orchestrator", "install comfyui"]
    was = locked.world.registry_add(PYTHON_IMAGE, [locked.world.python_layer], PYTHON_CONFIG)

    done = locked.lock()
    assert done.rc == 0, done.stderr
    assert f"image {BASE}\n  + {was}\n" in done.stdout
    pinned = locked.content["images"][BASE]
    assert pinned["digest"] == was and pinned["download_bytes"] > 0
    for revisions in locked.content["models"].values():
        assert re.fullmatch(r"[0-9a-f]{40}", revisions["main"]["commit"]) and revisions["main"]["files"]
    packages = locked.content["installs"]["comfyui"]["requirements"]
    assert {"torch==2.8.0+cu128", "aiohttp", "bcrypt"} <= {
        re.sub(r"==(?!2\.8\.0).*| .*", "", line) for line in packages
    }
    assert (locked.lock("--check").rc, locked.lock().stdout) == (0, "")

    moved = locked.move_tag()
    build_torch_wheels(locked.world.torch_wheels, files=401)
    check = locked.lock("--check")
    assert check.rc == 2, check.stderr
    assert f"image {BASE}\n  - {was}\n  + {moved}\n" in check.stdout
    assert "  ! torch 2.8.0+cu128: of 1 files that were locked 1 are not those any more\n" in check.stdout
    assert locked.content["images"][BASE] == pinned

    refused = locked.control.apply()
    assert refused.code == 1
    assert "the package index has other bytes than were locked: torch==2.8.0+cu128" in str(refused.errors)
    stamps = locked.host.root("ls /srv/genai/installs/comfyui/*/.gpuhost/installed.json", check=True).stdout
    assert len(stamps.split()) == 1, stamps  # that of before

    build_torch_wheels(locked.world.torch_wheels)
    applied = locked.control.apply()
    assert applied.code == 0, applied.errors
    again = locked.control.plan()
    assert (again.code, again.changes, unpinned(again)) == (0, [], [])
    built_on_the_locked_base(locked.host, f"{BASE}@{was}")
    installed_is(locked.host, packages)


def built_on_the_locked_base(host: FreshHost, base: str) -> None:
    """What runs was built on it, and nothing of the moved tag is there."""
    for service in ("comfyui-qwen", "orchestrator"):
        of = f"$(docker inspect -f '{{{{.Image}}}}' $(docker ps -q --filter label=gpuhost.service={service}))"
        label = host.root(f"""docker image inspect -f '{{{{index .Config.Labels "gpuhost.spec"}}}}' {of}""", check=True)
        assert json.loads(label.stdout)["args"]["BASE_IMAGE"] == base
        found = host.root(f"docker run --rm --entrypoint ls {of} {MARK}")
        assert found.rc != 0 and "No such file" in found.stderr, found


def installed_is(host: FreshHost, packages: list[str]) -> None:
    """Every package of the lock in its version, and nothing else."""
    mounted = '{{range .Mounts}}{{if eq .Destination "/app"}}{{.Source}}{{end}}{{end}}'
    container = "$(docker ps -q --filter label=gpuhost.service=comfyui-qwen)"
    app = host.root(f"docker inspect -f '{mounted}' {container}", check=True).stdout.strip()
    lines = host.root(f"cat {app}/.gpuhost/packages.txt", check=True).stdout.split()

    def pin(line: str) -> tuple[str, str]:
        name, _, version = line.partition(" ")[0].partition("==")
        return re.sub(r"[-_.]+", "-", name).lower(), version

    assert sorted(map(pin, lines)) == sorted(map(pin, packages))


def test_what_moved_is_taken_over_by_a_lock_that_says_so(locked: Locked) -> None:
    """And the plan says what it would change for it, by name."""
    moved = locked.move_tag()
    done = locked.lock("comfyui", "orchestrator")
    assert (done.rc, f"  + {moved}\n" in done.stdout) == (0, True), done.stderr
    plan = locked.control.plan()
    assert plan.code == 2
    built = [name for stage, name, action in plan.changes if (stage, action) == ("images", "build")]
    assert len(built) == 2
    assert moved in str(plan.document)
    locked.behave()


def test_a_lock_of_another_entry_is_refused_before_anything_changes(locked: Locked) -> None:
    """The data asks for other packages than were locked."""
    data = locked.host.run_dir / "group_data" / "all.py"
    kept = data.read_text()
    data.write_text(kept + 'installs["comfyui"]["environment"]["EXTRA_REQUIREMENTS"] = "idna==3.10"\n')
    try:
        told = locked.control.apply()
    finally:
        data.write_text(kept)
    [error] = told.errors
    assert (told.code, told.changes) == (1, [])
    assert error["what"].endswith("lock.json: `installs.comfyui` was locked as another entry than it is now")
    assert "gpuhost lock comfyui" in error["hint"]


def test_an_image_pulled_by_tag_and_digest_is_recognised(locked: Locked) -> None:
    """The engine keeps no tag for it."""
    digest = locked.world.registry_add(
        BUSYBOX_IMAGE, [locked.world.busybox_layer], {"Cmd": ["sh"], "Env": ["PATH=/bin"]}
    )
    wanted = {"tool": PullImage(pull=f"docker.io/library/{BUSYBOX_IMAGE}@{digest}")}

    def changes() -> list[str]:
        state = DockerState()
        seen = locked.host.root(state.command(parts=["images"]), check=True).stdout.splitlines()
        return [change.action for change in reconcile(wanted, state.read(seen))]

    assert changes() == ["pull"]
    locked.host.root(f"docker pull -q {wanted['tool'].pull}", check=True)
    assert changes() == []
    # A container is compared with its spec by what Docker keeps of the name that compose gave it.
    compose = json.dumps({"services": {"tool": {"image": wanted["tool"].pull, "command": ["sleep", "600"]}}})
    up = locked.host.root("docker compose -p pulled -f - up -d --pull never", input=compose)
    assert up.rc == 0, up.stderr
    named = locked.host.root("docker inspect -f '{{.Config.Image}}' pulled-tool-1", check=True).stdout.strip()
    locked.host.root("docker rm -f pulled-tool-1 && docker network rm pulled_default", check=True)
    assert named == wanted["tool"].pull
