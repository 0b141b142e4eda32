"""Bad input and hosts that are not fit: told as one sentence with a hint, and nothing is begun."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from ..instruments.control import Control
from ..instruments.converged import GPU
from ..instruments.refusal import (
    PROMPT,
    inventory,
    occupied,
    rooted,
    shown_once,
    site,
    told_once,
    unreachable,
    with_sudo_password,
)
from ..world.freshhost import UNSUPPORTED, FreshHost
from ..world.snapshot import diff_snapshots
from ..world.world import World

pytestmark = pytest.mark.rehearsal


def refused(host: FreshHost, what: str, hint: str, *pyinfra: str) -> None:
    """`gpuhost plan` and plain pyinfra refuse alike, and leave host and control side as they were."""
    control, before = Control(host), host.snapshot()
    told_once(control.plan(*pyinfra), what, hint)
    plain = control.pyinfra("-y", *pyinfra)
    shown_once(plain.returncode, plain.stdout + plain.stderr, what, hint)
    assert not diff_snapshots(before, host.snapshot())
    assert not (host.run_dir / "secrets").exists()


@pytest.fixture(scope="module")
def bare(furnished: World) -> Iterator[FreshHost]:
    """A bare host that stays bare."""
    host = furnished.boot("refused", gpus=[GPU])
    host.ssh("sudo -n true")  # sudo leaves a file of its own in the home at its first use
    yield host
    furnished.destroy(host)


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
        lambda host: rooted(host, "mount -t tmpfs -o size=64m,mode=755 tmpfs /srv", "umount /srv"),
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
            host, f"ip route add 172.20.1.0/24 via {host.network.gateway}", "ip route del 172.20.1.0/24"
        ),
        r"the subnet 172\.20\.1\.0/24 of network `orchestrator` is already in use: "
        r"172\.20\.1\.0/24 is routed over eth0$",
        r'set `networks\["orchestrator"\]\["subnet"\]` to a free one, such as 172\.21\.0\.0/16$',
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


def test_a_host_is_not_trusted_until_somebody_looked(bare: FreshHost) -> None:
    """Last on this host: it is another one afterwards."""
    trusts = rf"`gpuhost trust refused -i \S*{bare.run_dir.name}` shows"
    bare.known_hosts.write_text("")
    refused(bare, r"the SSH host key of \S+ is not known$", trusts)
    assert bare.known_hosts.read_text() == ""
    control = Control(bare)
    shown = control.typed("trust", bare.name, answers=[("[y/N]", "y")])
    assert shown.code == 0 and f"{fingerprint(bare)} [127.0.0.1]:{bare.port} (ED25519)" in shown.text
    assert control.plan().code == 2
    old = fingerprint(bare)
    bare.rebuild()
    bare.ssh("sudo -n true")
    refused(bare, r"the SSH host key of \S+ is not the one in known_hosts$", trusts)
    told = control.text("trust", bare.name, "--yes", "--fingerprint", old)
    shown_once(
        told.returncode,
        told.stderr,
        f"no SSH host key has the fingerprint {re.escape(old)}",
        "somebody else may answer",
    )
    told = control.text("trust", bare.name, "--yes", "--fingerprint", fingerprint(bare))
    assert told.returncode == 0 and old in told.stderr and fingerprint(bare) in told.stderr
    assert control.plan().code == 2


def fingerprint(host: FreshHost) -> str:
    """Of the host's SSH key, read there."""
    return host.root("ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub", check=True).stdout.split()[1]
