"""What fails in the middle of a run is told in a sentence, and the next run goes on from there."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import pytest

from ..instruments.converged import GPU, QUICK
from ..instruments.interrupts import Interrupted
from ..instruments.proof import Proof
from ..instruments.refusal import PROMPT, shown_once, site, told_once, with_sudo_password
from ..world.freshhost import FreshHost
from ..world.run import wait_for
from ..world.scenery import furnish, group_data
from ..world.world import World

pytestmark = pytest.mark.rehearsal
SEED = 20261121
GATED = ["qwen-image-encoder", "qwen-image-vae"]
TOKEN = "hf_rehearsal0only0token"  # noqa: S105  (the stand-in's)


@dataclass(frozen=True)
class Trouble:
    """Something that ends an apply: while `lasts`, it is told as `what` and `hint`; `plain`: by plain pyinfra too."""

    lasts: Callable[[World, FreshHost], AbstractContextManager[None]]
    what: str
    hint: str
    plain: bool = False


@contextmanager
def gated(world: World, host: FreshHost) -> Iterator[None]:
    """Two models of one repository need a token; in the end there is one."""
    models = [group_data()["models"][name] for name in GATED]
    [repo] = {model["repo"] for model in models}
    files = [file for model in models for file in model["links"]]
    world.hub_add(repo, {file: f"{file} behind a gate\n".encode() * 2048 for file in files}, gated=True)
    try:
        yield
    finally:
        world.hub_grant(TOKEN, [repo])
        with (host.run_dir / "group_data" / "all.py").open("a") as data:
            data.write(f"models = { {name: {'gated': True} for name in GATED}!r}\n")
        # Refused before anything was done, so before secrets were generated: the operator makes the file.
        own = host.run_dir / "secrets" / f"{host.name}.env"
        own.parent.mkdir(mode=0o700, exist_ok=True)
        own.touch(mode=0o600)
        with own.open("a") as secrets:
            secrets.write(f"HF_TOKEN={TOKEN}\n")


def pinned_elsewhere(world: World, host: FreshHost) -> AbstractContextManager[None]:
    """The pinned commit does not exist."""
    installs = world.host_data()["installs"]
    assert isinstance(installs, dict)
    [(name, install)] = installs.items()
    moved = {**install, "environment": {**install["environment"], "COMFYUI_REF": "0" * 40}}
    return site(host, f"installs = { ({name: moved})!r}\n")


@contextmanager
def cut_on_the_way(world: World, host: FreshHost) -> Iterator[None]:
    """The network goes while the install downloads its packages."""
    world.forget_requests()
    over = threading.Event()

    def cut() -> None:
        wait_for(lambda: over.is_set() or world.requests("torch"), "a request for a package", 300)
        host.network.cut(host.address, keep_ssh=True)

    with world.misbehave("torch", "slow", slow_bytes_per_s=1024):
        watcher = threading.Thread(target=cut)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()
            host.network.mend(host.address)
    assert world.requests("torch"), "the network was not cut on the way"


@contextmanager
def killed_on_the_way(world: World, host: FreshHost) -> Iterator[None]:
    """The fetch of the gated model is killed in the middle: the token was and is in no file and no argument."""
    world.forget_requests()
    over, found = threading.Event(), []
    pattern = f"{TOKEN[:-1]}[{TOKEN[-1]}]"  # by which grep does not find itself
    search = f"grep -rls -- '{pattern}' /run /srv /tmp /var/lib/gpuhost /proc/[0-9]*/cmdline /proc/[0-9]*/environ"
    half = "ls /srv/genai/cache/huggingface/hub/*/blobs/*.incomplete"

    def kill() -> None:
        wait_for(lambda: over.is_set() or host.root(half).stdout, "a download", 300)
        found.append(host.root(search).stdout)
        found.append(host.root("systemctl kill --signal=KILL gpuhost-models.service").stdout)

    with world.misbehave("hub", "slow", slow_bytes_per_s=1024):
        watcher = threading.Thread(target=kill)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()
    found.append(host.root(search).stdout)
    found.append(host.root("find /run/gpuhost -type f ! -name '*.lock'").stdout)
    assert found == [""] * 4 and world.requests("hub")


TROUBLES = {
    "a tampered package index": Trouble(
        lambda world, host: world.misbehave("docker-apt", "tampered-index"),
        "the index of https://download.docker.com/linux/debian is not signed by the expected key$",
        "compare `apt_key_fingerprints` with the publisher's page$",
    ),
    "a gated model and no token": Trouble(
        gated,
        "`Comfy-Org/Qwen-Image_ComfyUI` is gated, and there is no Hugging Face token$",
        "accept its licence at .*, set `gated` of the model to True, and HF_TOKEN",
        plain=True,
    ),
    "a killed fetch": Trouble(killed_on_the_way, "^the fetch of the models was killed", "run again: it goes on$"),
    "an image that the registry has not": Trouble(
        lambda world, host: world.misbehave("registry", 404),
        r"the registry has no image docker\.io/library/python:3\.12\.11-slim-bookworm$",
        "check its tag in group_data$",
    ),
    "a commit that is not there": Trouble(
        pinned_elsewhere,
        r"0{40} is not a commit of https://github\.com/comfyanonymous/ComfyUI\.git$",
        "check the pinned commit",
    ),
    "the network goes": Trouble(
        cut_on_the_way, r"the package index https://download\.pytorch\.org/\S+ cannot be reached$", "check network, DNS"
    ),
}


@pytest.fixture
def troubled(furnished: World) -> Iterator[World]:
    """The world, furnished anew afterwards: one trouble puts a gate before a model."""
    yield furnished
    furnish(furnished)


def test_every_failure_is_told_and_the_next_run_goes_on(troubled: World, boot: Callable[..., FreshHost]) -> None:
    """One Debian 12 host: one trouble after the other, a death, a Ctrl-C; then the rest, with a typed sudo password."""
    host = boot("troubled", suite="bookworm", gpus=[GPU])
    host.write_inventory({**troubled.host_data(), **QUICK})
    proof = Proof(host)
    proof.bare_plan()
    for name, trouble in TROUBLES.items():
        with trouble.lasts(troubled, host):
            started = time.monotonic()
            told = proof.control.apply()
            print(f"{time.monotonic() - started:8.2f} s  {name}: {told.errors}")
            told_once(told, trouble.what, trouble.hint)
            plain = proof.control.pyinfra("-y") if trouble.plain else None
        if plain:
            shown_once(plain.returncode, plain.stdout + plain.stderr, trouble.what, trouble.hint)
    left = Interrupted(proof, random.Random(SEED), len(proof.control.plan().changes))
    assert left.by("kill -9", 2) and left.by("Ctrl-C", 1)
    typed_password_applies(proof)
    proof.second_apply()  # it plans, too
    proof.survives_reboot()
    assert host.root("docker ps -aq --filter label=gpuhost.job").stdout == ""
    assert host.root("find / -xdev -name '*.gpuhost-new' -o -xdev -path '/run/gpuhost/*'").stdout == ""
    for secret in (TOKEN, host.sudo_password):
        assert host.root(f"grep -rlF -- '{secret}' /etc /opt /run /srv /tmp /var/lib/gpuhost /var/log").stdout == ""


def typed_password_applies(proof: Proof) -> None:
    """`gpuhost apply` asks for sudo's password once and goes on; so does plain pyinfra."""
    control, host = proof.control, proof.host
    with with_sudo_password(host):
        shown = control.typed("apply", "--use-sudo-password", answers=[(PROMPT, host.sudo_password), ("[y/N]", "y")])
        assert shown.code == 0, shown.text[-3000:]
        assert shown.text.count(PROMPT) == 1 and host.sudo_password not in shown.text
        assert "orchestrator: http://127.0.0.1:8193" in shown.text
        host.root("docker rm -f orchestrator && chmod 644 /srv/genai/stacks/orchestrator/.env.docker", check=True)
        shown = control.typed_pyinfra("-y", "--use-sudo-password", answers=[(PROMPT, host.sudo_password)])
        assert shown.code == 0, shown.text[-3000:]
        assert shown.text.count(PROMPT) == 1 and host.sudo_password not in shown.text
