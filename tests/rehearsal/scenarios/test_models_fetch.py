"""The fetch as a detached unit on a converged host: the connection goes, the fetch goes on, the next run attaches."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator

import pytest

from ..instruments.control import Control, as_operator
from ..instruments.converged import converged_host
from ..instruments.kills import Victim
from ..instruments.refusal import site
from ..world.freshhost import FreshHost
from ..world.machine import PROJECT
from ..world.run import wait_for
from ..world.world import World

pytestmark = pytest.mark.rehearsal
REPO, FILE = "acme/large", "weights/größe one.safetensors"
WEIGHTS = os.urandom(1 << 20) * 60
SMALL = {f"tokenizer {number % 5}/größe {number}.json": os.urandom(2000 + number) for number in range(40)}
TOKEN = "hf_rehearsal0large"  # noqa: S105  (the stand-in's)
LARGE = {"repo": REPO, "gated": True, "links": {FILE: "vae/large one.safetensors"}}
LINK = "/srv/genai/models/vae/large one.safetensors"
UNIT = "gpuhost-models.service"
HALF = "cat /srv/genai/cache/huggingface/hub/models--acme--large/blobs/*.incomplete | wc -c"


@pytest.fixture
def host(furnished: World) -> Iterator[FreshHost]:
    """A copy of a host that went the whole path, which a large gated model is added to."""
    furnished.hub_add(REPO, {FILE: WEIGHTS, "config.json": b"{}", **SMALL}, gated=True)
    furnished.hub_grant(TOKEN, [REPO])
    made = converged_host(furnished, "fetching")
    with (made.run_dir / "secrets" / f"{made.name}.env").open("a") as secrets:
        secrets.write(f"HF_TOKEN={TOKEN}\n")
    services = {"comfyui-qwen": {"models": ["qwen-image-edit", "qwen-image-encoder", "qwen-image-vae", "large"]}}
    with site(made, f"models = { {'large': LARGE}!r}\nservices = {services!r}\n"):
        yield made
    furnished.destroy(made)


def state(host: FreshHost) -> str:
    return host.root(f"systemctl is-active {UNIT}").stdout.strip()


def half(host: FreshHost) -> int:
    return int(host.root(HALF).stdout or 0)


class Apply(Victim):
    """`gpuhost apply`, whose log tells all that was printed."""

    def __init__(self, host: FreshHost, name: str) -> None:
        self._state = host.run_dir / name
        line = [
            *as_operator(host),
            sys.executable,
            "-m",
            "gpuhost.cli.main",
            "apply",
            "--yes",
            "-i",
            str(host.inventory),
        ]
        environ = {**os.environ, "NO_COLOR": "1", "XDG_STATE_HOME": str(self._state)}
        super().__init__(line, PROJECT, environ, host.run_dir / f"{name}.txt")

    @property
    def log(self) -> str:
        """So far."""
        return "".join(path.read_text() for path in self._state.glob("gpuhost/logs/*.log"))


def test_the_fetch_outlives_the_connection_and_the_next_run_attaches(host: FreshHost, furnished: World) -> None:
    furnished.forget_requests()
    with furnished.misbehave("hub", "slow", match="safetensors", slow_bytes_per_s=1 << 20):
        first = Apply(host, "first")
        wait_for(lambda: first.ended or half(host) > 2 << 20, "the first bytes", 300)
        assert not first.ended, first.said
        # What the token could be seen in: files, arguments, environments, systemd's properties, the journal.
        pattern = f"{TOKEN[:-1]}[{TOKEN[-1]}]"  # by which grep does not find itself
        places = "/run /srv /tmp /var/lib/gpuhost /proc/[0-9]*/cmdline /proc/[0-9]*/environ"
        seen = [
            host.root(f"grep -rls -- '{pattern}' {places}").stdout,
            host.root(f"systemctl show {UNIT} | grep -- '{pattern}'").stdout,
            host.root(f"journalctl | grep -- '{pattern}'").stdout,
        ]
        assert seen == ["", "", ""]
        assert host.root(f"ps -o user= -p $(systemctl show -P MainPID {UNIT})").stdout.strip() == "genai"
        assert host.root("stat -c '%U %a' /run/gpuhost/jobs /run/gpuhost/jobs/*").stdout == "root 700\nroot 600\n"

        host.root("pkill -KILL -f '^sshd.*admin'")
        wait_for(lambda: first.ended, "the end of the run without a connection", 120)
        assert first.code == 1 and "the SSH connection broke" in first.said, first.said
        before = half(host)
        assert state(host) == "active"
        wait_for(lambda: half(host) > before, "that it goes on alone", 60)
        second = Apply(host, "second")
        wait_for(lambda: second.ended or "as an earlier run started it" in second.log, "that it attaches", 120)
        assert not second.ended and state(host) == "active", second.said
    wait_for(lambda: second.ended, "the end", 300)
    assert second.code == 0, second.said
    assert (
        f"% of {(len(WEIGHTS) + sum(map(len, SMALL.values()))) / 1e6:.1f} MB, " in second.log
        and '"event"' not in second.log
    ), second.log
    assert host.root(f"sha256sum '{LINK}' | cut -c-64").stdout.strip() == hashlib.sha256(WEIGHTS).hexdigest()
    asked = [each for each in furnished.requests("hub") if "/resolve/" in each and "safetensors" in each]
    assert len(asked) == 1, asked  # no byte twice
    # The small ones came together, none in ranges or twice, and are what the hub has.
    small = [each for each in furnished.requests("hub") if "/resolve/" in each and "tokenizer" in each]
    assert len(small) == len(set(small)) == len(SMALL) and all(" 200 " in each for each in small), small
    snapshots = "/srv/genai/cache/huggingface/hub/models--acme--large/snapshots"
    hashed = host.root(f"find {snapshots} -path '*/tokenizer *' -type l | xargs -d '\\n' sha256sum")
    assert {line[:64] for line in hashed.stdout.splitlines()} == {
        hashlib.sha256(each).hexdigest() for each in SMALL.values()
    }
    assert state(host) == "inactive" and host.root("ls /run/gpuhost/jobs").stdout == ""
    told = Control(host).plan()
    assert (told.code, told.changes) == (0, []), told
