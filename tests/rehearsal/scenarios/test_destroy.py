"""What gpuhost made is taken off a host again: data and what is nobody's of ours stay, and a deploy brings it back."""

from __future__ import annotations

import pytest

from ..instruments.converged import converged_host
from ..instruments.damaged import plant
from ..instruments.proof import Proof
from ..world.snapshot import diff_snapshots
from ..world.world import World

pytestmark = pytest.mark.rehearsal
OURS = ("/opt/gpuhost", "/srv/genai/stacks", "/etc/systemd/system")
GROWS = ("/var/lib/gpuhost/backups", "/srv/genai/services/", "/root/", "/etc/machine-id")


def test_what_gpuhost_made_goes_and_a_deploy_brings_it_back_without_a_download(furnished: World) -> None:
    proof = Proof(converged_host(furnished, "destroyed"))
    host, control = proof.host, proof.control
    try:
        plant(host)
        before = host.snapshot()
        no = control.text("destroy")
        assert no.returncode == 1 and "stdin is not a terminal" in no.stderr
        assert "- service comfyui-qwen" in no.stdout and "kept: /srv/genai" in no.stderr
        assert not diff_snapshots(before, host.snapshot())

        done = control.text("destroy", "--yes")
        assert done.returncode == 0, done.stderr
        after = host.snapshot()
        gone = {path for path in before["files"].keys() - after["files"].keys() if not path.startswith(GROWS)}
        assert gone and all(path.startswith(OURS) for path in gone), sorted(gone)[:20]
        assert not [path for path in after["files"].keys() - before["files"].keys() if not path.startswith(GROWS)]
        assert [line.split()[0] for line in after["containers"]] == ["/mine-runs", "/mine-stands"]
        assert sorted(line.split()[0] for line in after["networks"]) == ["bridge", "host", "mine", "none"]
        assert not [line for line in after["images"] if line.startswith("gpuhost/")]
        assert after["volumes"] == before["volumes"] and after["packages"] == before["packages"]
        assert {"/opt/gpuhost/mine", "/srv/genai/stacks/mine/note", "/etc/mine.conf"} <= after["files"].keys()
        assert not [path for path in after["files"] if "gpuhost" in path and path.startswith("/etc/systemd")]
        assert host.root("nft list table inet gpuhost").rc != 0
        again = control.text("destroy", "--yes")
        assert (again.returncode, again.stdout) == (0, "Nothing to remove: gpuhost has nothing there but data.\n")

        told = control.apply()
        assert told.code == 0, told.errors
        assert not {"models", "installs", "engine"} & {stage for stage, _, action in told.changes if action != "link"}
        proof.nothing_to_do()
    finally:
        furnished.destroy(host)
