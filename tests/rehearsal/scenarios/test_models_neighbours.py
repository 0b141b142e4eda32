"""Three hosts of one inventory: what one has, or is the first to fetch, the others take from it, and from the hub what
it does not give."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..instruments.control import Control, Told
from ..instruments.converged import QUICK, converged_host
from ..world.freshhost import FreshHost
from ..world.run import wait_for
from ..world.world import World

pytestmark = [pytest.mark.rehearsal, pytest.mark.sampled(1)]
REPO, FILE = "acme/shared", "weights/größe one.safetensors"
WEIGHTS = os.urandom(1 << 20) * 96
SMALL = {f"parts/{number}.json": os.urandom(500) for number in range(20)}
TOTAL = len(WEIGHTS) + sum(map(len, SMALL.values()))
TOKEN = "hf_rehearsal0shared"  # noqa: S105  (the stand-in's)
SHARED = {"repo": REPO, "gated": True, "links": {FILE: "vae/shared one.safetensors"}}
LINK = "/srv/genai/models/vae/shared one.safetensors"
CACHE = "/srv/genai/cache/huggingface/hub/models--acme--shared"
ONES = ("one", "two", "three")


class Lab:
    """`control`: gpuhost with the inventory of all three, models alone."""

    def __init__(self, world: World, hosts: list[FreshHost]) -> None:
        self.world, self.hosts = world, hosts
        folder = hosts[0].run_dir / "lab"
        (folder / "group_data").mkdir(parents=True)
        listed: list[object] = []
        for host in hosts:
            names: dict[str, list[object]] = {}
            exec(host.inventory.read_text(), names)
            listed += names["hosts"]
            with (host.run_dir / "secrets" / f"{host.name}.env").open("a") as secrets:
                secrets.write(f"HF_TOKEN={TOKEN}\n")
        (folder / "inventory.py").write_text(f"hosts = {listed!r}\n")
        models = ["qwen-image-edit", "qwen-image-encoder", "qwen-image-vae", "shared"]
        data = {**world.host_data(), **QUICK, "models": {"shared": SHARED}}
        data["services"] = {"comfyui-qwen": {"models": models}}
        text = "".join(f"{name} = {value!r}\n" for name, value in data.items())
        (folder / "group_data" / "all.py").write_text(text)
        self.control = Control(hosts[0], ["--only", "models"], inventory=folder / "inventory.py")

    def planned(self) -> dict[str, dict[str, int]]:
        """host -> which neighbours give it how much of the model; the plan asks for no byte."""
        self.world.forget_requests()
        told = self.control.plan()
        assert told.code == 2 and told.document, told
        changes = [each for each in told.document["changes"] if each["resource"]["name"] == "shared"]
        assert all(each["action"] == "fetch" and each["impact"]["download_bytes"] == TOTAL for each in changes)
        assert self.from_hub() == 0
        return {each["host"]: each["impact"]["neighbour_bytes"] for each in changes}

    def apply(self) -> Told:
        """Every host has the right bytes then, in its cache and where services see them; the next plan has nothing."""
        told = self.control.apply()
        sha256 = hashlib.sha256(WEIGHTS).hexdigest()
        for host in self.hosts:
            assert host.root(f"sha256sum '{LINK}' | cut -c-64").stdout.strip() == sha256, (host.name, told)
            small = host.root(f"cat $(find -L {CACHE}/snapshots -name '*.json' | sort -V) | sha256sum", check=True)
            assert small.stdout[:64] == hashlib.sha256(b"".join(SMALL.values())).hexdigest(), host.name
            assert host.root(f"find {CACHE} -name '*.incomplete'; pgrep -f 'hostside[.]model_peer'").stdout == ""
        assert TOKEN not in told.stderr
        return told

    def settled(self) -> None:
        """A second run changes nothing."""
        told = self.control.plan()
        assert (told.code, told.changes) == (0, []), told

    def from_hub(self) -> int:
        """Bytes of the model since the requests were last forgotten."""
        asked = [each for each in self.world.requests("hub") if f"/{REPO}/resolve/" in each]
        return sum(int(each.rpartition(" ")[2]) for each in asked)

    def forget(self, host: FreshHost) -> None:
        """The host has lost the model."""
        host.root(f"rm -r '{LINK}' {CACHE}", check=True)


@pytest.fixture(scope="module")
def lab(furnished: World) -> Iterator[Lab]:
    """Three copies of a host that went the whole path, which a large gated model is added to."""
    files: dict[str, bytes | Path] = {FILE: WEIGHTS, **SMALL}
    furnished.hub_add(REPO, files, gated=True)
    furnished.hub_grant(TOKEN, [REPO])
    made = Lab(furnished, [converged_host(furnished, name) for name in ONES])
    yield made
    for host in made.hosts:
        furnished.destroy(host)


@pytest.mark.core
def test_the_hub_is_asked_for_each_byte_once(lab: Lab) -> None:
    assert lab.planned() == {"one": {}, "two": {"one": TOTAL}, "three": {"one": TOTAL}}
    told = lab.apply()
    assert told.code == 0 and lab.from_hub() == TOTAL, told
    lab.settled()
    one, two, _ = lab.hosts
    lab.forget(one)
    lab.forget(two)
    assert lab.planned() == {"one": {"three": TOTAL}, "two": {"three": TOTAL}}  # who has it gives it at once
    told = lab.apply()
    assert told.code == 0 and lab.from_hub() == 0, told
    lab.settled()


def test_what_a_neighbour_gives_wrong_comes_from_the_hub(lab: Lab) -> None:
    """Of the right length, with the old times: only who takes it notices."""
    lab.apply()
    one, two, three = lab.hosts
    for host in (one, two):
        blob = host.root(f"readlink -f {CACHE}/snapshots/*/weights/*", check=True).stdout.strip()
        damage = f"touch -r {blob} /tmp/then; printf X | dd of={blob} conv=notrunc; touch -r /tmp/then {blob}"
        host.root(f"cp -a {blob} /tmp/kept && {damage}", check=True)
    lab.forget(three)
    assert lab.planned() == {"three": {"one": TOTAL}}
    told = lab.control.apply()
    assert told.code == 0 and lab.from_hub() == len(WEIGHTS), told
    sha256 = hashlib.sha256(WEIGHTS).hexdigest()
    assert three.root(f"sha256sum '{LINK}' | cut -c-64").stdout.strip() == sha256
    notes = [note["message"] for note in (told.document or {})["notes"] if note["host"] == "three"]
    assert any("101 MB more than planned came from the hub" in note and "is not what" in note for note in notes), notes
    for host in (one, two):
        damage = f"b=$(readlink -f {CACHE}/snapshots/*/weights/*); cat /tmp/kept > $b; touch -r /tmp/kept $b"
        host.root(damage, check=True)
    lab.settled()


def test_when_a_neighbour_is_lost_the_hub_goes_on_from_there(lab: Lab) -> None:
    lab.apply()
    one, _, three = lab.hosts
    lab.forget(three)
    assert lab.planned() == {"three": {"one": TOTAL}}
    done: list[Told] = []
    run = threading.Thread(target=lambda: done.append(lab.control.apply()))
    run.start()
    half = f"cat {CACHE}/blobs/*.incomplete 2>/dev/null | wc -c"
    wait_for(lambda: done or int(three.root(half).stdout or 0) > 4 << 20, "the first bytes", 300, 0.01)
    one.root("pkill -KILL -f '^sshd.*admin'")
    run.join()
    lab.apply()
    assert 0 < lab.from_hub() < len(WEIGHTS), done
    assert not [error for error in done[0].errors if error.get("host") == "three"], done
    lab.settled()
