"""A machine that deploys itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ..instruments.checkout import packed
from ..world.freshhost import FreshHost
from ..world.world import World

pytestmark = pytest.mark.rehearsal
Boot = Callable[..., FreshHost]


def test_a_workstation_deploys_itself_as_root(furnished: World, boot: Boot) -> None:
    """`@local`: the checkout is on the host, and one command sets up everything and deploys."""
    host = boot("self", gpus=[])
    tools = "apt-get update -qq && apt-get install -y -qq --no-install-recommends python3 make git ca-certificates"
    host.root(f"{tools} >/dev/null 2>&1", check=True)
    host.root("mkdir -p /root/gpuhost && tar -xz -C /root/gpuhost", input=packed(), check=True)
    site = "".join(f"{name} = {value!r}\n" for name, value in furnished.host_data().items())
    host.root("cat > /root/gpuhost/group_data/inventory.py", input=site, check=True)
    run = "cd /root/gpuhost && SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt"
    planned = host.root(f"{run} make plan 2>&1 </dev/null")
    assert planned.rc == 0 and "gpuhost apply` does exactly this" in planned.stdout  # changes are no error of make
    deployed = host.root(f"{run} make deploy ARGS=--yes 2>&1 </dev/null")
    assert deployed.rc == 0, deployed.stdout[-3000:]
    assert "orchestrator: http://127.0.0.1:8193" in deployed.stdout
    again = host.root(f"{run} make plan 2>&1 </dev/null")
    assert again.rc == 0 and "Nothing to do." in again.stdout
    assert host.root("stat -c '%a %n' /root/gpuhost/secrets /root/gpuhost/secrets/*.env").stdout.split()[::2] == [
        "700",
        "600",
    ]
