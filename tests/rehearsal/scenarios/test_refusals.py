"""Bad input, each told as one sentence with a hint and exit code 1; nothing is begun, or a rerun finishes it."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import pytest

from ..instruments.control import Control, Told
from ..instruments.proof import Proof
from ..world.freshhost import UNSUPPORTED, FreshHost, free_port
from ..world.gpus import Gpu
from ..world.run import wait_for
from ..world.scenery import furnish, group_data
from ..world.snapshot import diff_snapshots
from ..world.world import World

pytestmark = [pytest.mark.rehearsal, pytest.mark.xdist_group("refused")]
GPU = Gpu("NVIDIA GeForce RTX 3090", 24576)
PROMPT = "sudo password: "
TOKEN = "hf_rehearsal0only0token"  # noqa: S105  (the stand-in's)


def told_once(told: Told, what: str, hint: str) -> None:
    """One problem, with this sentence and this hint (regular expressions)."""
    assert told.code == 1, told
    assert len(told.errors) == 1, told.errors
    [error] = told.errors
    assert re.search(what, error["what"]) and re.search(hint, error["hint"]), error
    assert "\n" not in error["what"] and not error["detail"], error


def shown_once(code: int, text: str, what: str, hint: str) -> None:
    """The same for somebody who reads: the sentence, the hint below it, and no Python."""
    assert code == 1, text
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text).splitlines()]
    errors = [line for line in lines if line.startswith("error: ")]
    hints = [line for line in lines if line.startswith("hint: ")]
    assert len(errors) == len(hints) == 1, text
    assert re.search(what, errors[0]) and re.search(hint, hints[0]), text
    assert "Traceback" not in text and "Exception" not in text, text


def refused(host: FreshHost, what: str, hint: str, *pyinfra: str) -> None:
    """`gpuhost plan` and plain pyinfra refuse alike, and leave host and control side as they were."""
    control, before = Control(host), host.snapshot()
    told_once(control.plan(*pyinfra), what, hint)
    plain = control.pyinfra("-y", *pyinfra)
    shown_once(plain.returncode, plain.stdout + plain.stderr, what, hint)
    assert not diff_snapshots(before, host.snapshot())
    assert not (host.run_dir / "secrets").exists()


# --- what stops a run before it begins --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bare(furnished: World) -> Iterator[FreshHost]:
    """A bare host that stays bare."""
    host = furnished.boot("refused", gpus=[GPU])
    host.ssh("sudo -n true")  # sudo leaves a file of its own in the home at its first use
    yield host
    furnished.destroy(host)


@contextmanager
def inventory(host: FreshHost, **changes: object) -> Iterator[None]:
    """The inventory says something else about the host, while the block runs."""
    kept = host.inventory.read_text()
    names: dict[str, list[tuple[str, dict[str, object]]]] = {}
    exec(kept, names)
    [(name, data)] = names["hosts"]
    host.inventory.write_text(f"hosts = [({name!r}, {data | changes!r})]\n")
    try:
        yield
    finally:
        host.inventory.write_text(kept)


@contextmanager
def site(host: FreshHost, text: str) -> Iterator[None]:
    """The group_data beside the inventory ends with these lines, while the block runs."""
    file = host.run_dir / "group_data" / "all.py"
    kept = file.read_text()
    file.write_text(kept + text)
    try:
        yield
    finally:
        file.write_text(kept)


@contextmanager
def rooted(host: FreshHost, command: str, undo: str) -> Iterator[None]:
    """Root ran a command on the host, and undoes it afterwards."""
    host.root(command, check=True)
    try:
        yield
    finally:
        host.root(undo, check=True)


@contextmanager
def occupied(host: FreshHost, port: int) -> Iterator[None]:
    """A foreign process listens."""
    host.occupy_port(port)
    try:
        yield
    finally:
        host.free_port(port)


def unreachable(host: FreshHost) -> AbstractContextManager[None]:
    """Nothing listens where the inventory says that the host is."""
    return inventory(host, ssh_port=free_port())


CONNECTIONS: dict[str, tuple[Callable[[FreshHost], AbstractContextManager[None]], str, str]] = {
    "nothing listens": (
        unreachable,
        r"^(error: \[refused\] )?no SSH connection: Unable to connect to port \d+ on 127\.0\.0\.1$",
        "check that the host is up, that sshd runs, and `ssh_hostname` and `ssh_port` in the inventory$",
    ),
    "wrong key": (
        lambda host: inventory(host, ssh_key=str(host.wrong_key)),
        "SSH login is refused for user admin$",
        "authorized_keys on the host$",
    ),
    "no such key": (
        lambda host: inventory(host, ssh_key="/nowhere/id"),
        "the SSH key `/nowhere/id` is not there$",
        "correct `ssh_key` in the inventory$",
    ),
    "sudo is not asked for": (
        lambda host: inventory(host, _sudo=False),
        "commands do not run as root on this host$",
        "set `_sudo` to True",
    ),
}

HOSTS: dict[str, tuple[Callable[[FreshHost], AbstractContextManager[None]], str, str]] = {
    "sudo asks for a password": (
        lambda host: with_sudo_password(host),
        "sudo asks for a password$",
        "run again with --use-sudo-password, or allow NOPASSWD for this user$",
    ),
    "no sudo": (
        lambda host: rooted(host, "mv /usr/bin/sudo /root/", "mv /root/sudo /usr/bin/"),
        "the login user is not root, and there is no sudo on the host$",
        "install sudo, or log in as root$",
    ),
    "another system": (
        lambda host: rooted(
            host,
            f"cp -a /usr/lib/os-release /root/ && printf %s '{UNSUPPORTED['alpine']}' > /usr/lib/os-release",
            "mv /root/os-release /usr/lib/",
        ),
        r"Alpine Linux v3\.22 is not a system that gpuhost supports$",
        "supported: Debian 12, 13; Ubuntu",
    ),
    "no disk space": (
        lambda host: rooted(host, "mount -t tmpfs -o size=64m tmpfs /srv", "umount /srv"),
        r"/srv/genai has 0\.1 GiB free, 5 GiB are needed$",
        "free space there, or move `data_root` to a larger disk$",
    ),
    "a busy port": (
        lambda host: occupied(host, 8188),
        r"port 8188 of `comfyui-qwen` is already in use by systemd-socket\S* \(pid \d+\)$",
        r"stop that program, or give `services\.comfyui-qwen\.port` another port$",
    ),
    "a routed subnet": (
        lambda host: rooted(
            host, f"ip route add 172.20.0.0/16 via {host.network.gateway}", "ip route del 172.20.0.0/16"
        ),
        r"the subnet 172\.20\.0\.0/16 of network `genai` is already in use: 172\.20\.0\.0/16 is routed over eth0$",
        r'set `networks\["genai"\]` to a free one, such as 172\.21\.0\.0/16$',
    ),
    "a daemon.json that is not JSON": (
        lambda host: rooted(
            host,
            """mkdir /etc/docker && echo '{"debug": true,}' > /etc/docker/daemon.json""",
            "rm -r /etc/docker",
        ),
        r"/etc/docker/daemon\.json is not JSON: .+ line 1",
        "mend or move that file; dockerd cannot read it either$",
    ),
}

DATA = {
    "an unknown field": (
        "engine_sorce = 'docker'\n",
        r"group_data/all\.py: `engine_sorce` is not a field that gpuhost knows$",
        r"did you mean `engine_source`\?$",
    ),
    "a wrong value": (
        "engine_source = 'podman'\n",
        r"group_data/all\.py: `engine_source`: input should be 'docker' or 'distro', not `'podman'`$",
        "it is one of 'docker' or 'distro'$",
    ),
    "no Python": (
        "engine_source = \n",
        r"group_data/all\.py, line \d+: SyntaxError: invalid syntax$",
        "mend it there$",
    ),
    "a failing line": (
        "import nowhere\n",
        r"group_data/all\.py, line \d+: ModuleNotFoundError: No module named 'nowhere'$",
        "mend it there$",
    ),
}


def with_sudo_password(host: FreshHost) -> AbstractContextManager[None]:
    """sudo asks the login user for a password."""
    return rooted(
        host,
        f"echo 'admin:{host.sudo_password}' | chpasswd && echo 'admin ALL=(ALL:ALL) ALL' > /etc/sudoers.d/admin",
        "echo 'admin ALL=(ALL:ALL) NOPASSWD: ALL' > /etc/sudoers.d/admin",
    )


@pytest.mark.parametrize(
    ("scene", "what", "hint"), [*CONNECTIONS.values(), *HOSTS.values()], ids=[*CONNECTIONS, *HOSTS]
)
def test_refused_before_anything_is_done(
    bare: FreshHost, scene: Callable[[FreshHost], AbstractContextManager[None]], what: str, hint: str
) -> None:
    with scene(bare):
        refused(bare, what, hint)


@pytest.mark.parametrize(("text", "what", "hint"), DATA.values(), ids=DATA)
def test_wrong_data_is_told_before_any_host_is_contacted(bare: FreshHost, text: str, what: str, hint: str) -> None:
    with unreachable(bare), site(bare, text):
        refused(bare, what, hint)


def test_apply_is_refused_as_its_plan_is(bare: FreshHost) -> None:
    scene, what, hint = HOSTS["a busy port"]
    before = bare.snapshot()
    with scene(bare):
        told_once(Control(bare).apply(), what, hint)
        shown = Control(bare).text("apply", "--yes")
    assert not shown.stdout
    shown_once(shown.returncode, shown.stderr, what, hint)
    assert not diff_snapshots(before, bare.snapshot())


def test_a_limit_that_matches_nothing(bare: FreshHost) -> None:
    refused(
        bare,
        "--limit `nosuch` names no host and no group of the inventory$",
        "there is: .*refused",
        "--limit",
        "nosuch",
    )


def test_an_inventory_without_a_host(bare: FreshHost) -> None:
    kept = bare.inventory.read_text()
    bare.inventory.write_text("hosts = []\n")
    refused(bare, r"inventory\.py names no host$", "add one")
    bare.inventory.write_text(kept)


def test_apply_asks_and_does_nothing_when_nobody_answers(bare: FreshHost) -> None:
    control, before = Control(bare), bare.snapshot()
    told = control.text("apply")
    assert told.returncode == 1 and "changes" not in told.stderr
    assert told.stderr.splitlines()[-2:] == [
        "error: nobody can be asked: stdin is not a terminal",
        "hint: add --yes to apply without asking",
    ]
    declined = control.typed("apply", answers=[("[y/N]", "n")])
    assert declined.code == 1 and "Traceback" not in declined.text
    assert not diff_snapshots(before, bare.snapshot())


def test_a_password_that_sudo_refuses_or_that_nobody_can_type(bare: FreshHost) -> None:
    control = Control(bare)
    with with_sudo_password(bare):
        wrong = control.typed("plan", "--use-sudo-password", answers=[(PROMPT, "not it")])
        shown_once(wrong.code, wrong.text, "sudo refuses the password$", "type the login user's own password$")
        assert "not it" not in wrong.text
        alone = control.text("plan", "--use-sudo-password")
        shown_once(
            alone.returncode,
            alone.stderr,
            "nobody can be asked for sudo's password: there is no terminal$",
            "run it in a terminal, or allow NOPASSWD",
        )
        plain = control.pyinfra("-y", "--use-sudo-password")
        assert plain.returncode == 1 and "Traceback" not in plain.stderr
        assert "sudo asks for a password, and there is no terminal to ask on" in plain.stderr


def test_a_rebuilt_host_is_not_trusted_until_somebody_looked(bare: FreshHost) -> None:
    """Last on this host: it is another one afterwards."""
    bare.rebuild()
    bare.ssh("sudo -n true")
    refused(bare, r"the SSH host key of \S+ is not the one in known_hosts$", "`ssh-keygen -R`")
    bare.trust_new_key()
    assert Control(bare).plan().code == 2


# --- what fails on the way --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trouble:
    """Something that ends an apply: while `lasts`, it is told as `what` and `hint`; `plain`: by plain pyinfra too."""

    lasts: Callable[[World, FreshHost], AbstractContextManager[None]]
    what: str
    hint: str
    plain: bool = False


@contextmanager
def gated(world: World, host: FreshHost) -> Iterator[None]:
    """The model needs a token; in the end there is one."""
    model = group_data()["models"]["qwen-image-vae"]
    content = {model["file"]: b"weights behind a gate\n" * 4096}
    world.hub_add(model["repo"], dict(content), gated=True)
    try:
        yield
    finally:
        world.hub_grant(TOKEN, [model["repo"]])
        with (host.run_dir / "secrets" / f"{host.name}.env").open("a") as secrets:
            secrets.write(f"HF_TOKEN={TOKEN}\n")


def pinned_elsewhere(world: World, host: FreshHost) -> AbstractContextManager[None]:
    """The pinned commit does not exist."""
    installs = world.host_data()["comfyui"]
    assert isinstance(installs, dict)
    stable = installs["stable"]
    moved = {**stable, "source": {**stable["source"], "ref": "0" * 40}}
    return site(host, f"comfyui = { ({**installs, 'stable': moved})!r}\n")


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


TROUBLES = {
    "a tampered package index": Trouble(
        lambda world, host: world.misbehave("docker-apt", "tampered-index"),
        "the index of https://download.docker.com/linux/debian is not signed by the expected key$",
        "compare `apt_key_fingerprints` with the publisher's page$",
    ),
    "a gated model and no token": Trouble(
        gated,
        "`Comfy-Org/Qwen-Image_ComfyUI` is gated, and there is no Hugging Face token$",
        "accept its licence at .* and set HF_TOKEN",
        plain=True,
    ),
    "an image that the registry has not": Trouble(
        lambda world, host: world.misbehave("registry", 404),
        r"the registry has no image docker\.io/library/python:3\.12\.11-slim-bookworm$",
        "check its tag in group_data$",
    ),
    "a commit that is not there": Trouble(
        pinned_elsewhere,
        r"0{40} is neither a commit nor a tag of https://github\.com/comfyanonymous/ComfyUI\.git$",
        "check the pinned commit or tag",
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


@pytest.mark.xdist_group("troubled")
def test_every_failure_is_told_and_the_next_run_goes_on(troubled: World, boot: Callable[..., FreshHost]) -> None:
    """One Debian 12 host, one trouble after the other; then the rest of the path, with a typed sudo password."""
    host = boot("troubled", suite="bookworm", gpus=[GPU])
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
    typed_password_applies(proof)
    proof.nothing_to_do()
    proof.second_apply()
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
