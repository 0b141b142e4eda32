"""What docs/howto/wsl2.md says to type in Linux, typed on a host that looks like WSL2. Windows nobody has here."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ..instruments.checkout import published
from ..instruments.converged import GPU, QUICK
from ..instruments.guide import shown
from ..instruments.refusal import PROMPT
from ..instruments.terminal import at_terminal
from ..world.freshhost import FreshHost
from ..world.gpus import Gpu
from ..world.world import World

pytestmark = [pytest.mark.rehearsal, pytest.mark.soak]
# The kernel's name, one device for all cards, and Windows's driver in a folder of its own; at every boot, as there.
LOOKS = r"""
set -eu
mkdir -p /usr/lib/wsl/lib
mv /usr/bin/nvidia-smi /usr/lib/x86_64-linux-gnu/libcuda.so.1 /usr/lib/wsl/lib/
echo /usr/lib/wsl/lib > /etc/ld.so.conf.d/ld.wsl.conf
ldconfig
echo 'Linux version 6.6.87.2-microsoft-standard-WSL2 (root@rehearsal) #1 SMP PREEMPT_DYNAMIC' > /etc/kernel-of-wsl2
cat > /etc/systemd/system/looks-like-wsl2.service <<'U'
[Unit]
Before=nvidia-cdi-refresh.service docker.service gpuhost-services.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=mknod -m 666 /dev/dxg c 10 125
ExecStart=mount --bind /etc/kernel-of-wsl2 /proc/version
[Install]
WantedBy=multi-user.target
U
systemctl enable -q --now looks-like-wsl2.service
"""
SUDO = "password for admin: "


class Desk:
    """Somebody at the terminal of the host, whose sudo asks for a password."""

    def __init__(self, host: FreshHost) -> None:
        self.host = host

    def types(self, script: str, answers: Sequence[tuple[str, str]] = ()) -> tuple[list[int], str]:
        """The exit code of each line, and what the terminal showed."""
        lines = "".join(f'{line}\necho "-- $?"\n' for line in script.splitlines())
        login = shlex.split(self.host.ssh_command)
        command = [login[0], "-tt", *login[1:], f"bash -lc {shlex.quote(lines)}"]
        done = at_terminal(command, answers, Path("/"), os.environ, 1200)
        return [int(code) for code in re.findall(r"^-- (\d+)\r?$", done.text, re.MULTILINE)], done.text

    def gpuhost(self, *commands: str, yes: int = 0) -> tuple[list[int], str]:
        """Commands of gpuhost in the site, each of which asks for sudo's password, `yes` of them whether to go on."""
        asked = [(PROMPT, self.host.sudo_password)] * len(commands)
        script = ". ~/gpuhost/.venv/bin/activate; cd ~/lab\n" + "\n".join(commands)
        codes, text = self.types(script, asked + [("[y/N]", "y")] * yes)
        return codes[1:], text


def test_the_guide_is_typed_on_a_host_that_looks_like_wsl2(
    furnished: World, boot: Callable[..., FreshHost], tmp_path: Path
) -> None:
    host = boot("wsl", gpus=[GPU, Gpu("NVIDIA L4", 23034)], sudo="password")
    host.root(LOOKS, check=True)
    desk = Desk(host)
    before, after = shown("wsl2", "sh")
    [data] = shown("wsl2", "python")
    clone = before.replace(" URL ", f" {published(furnished, tmp_path)} ")
    codes, text = desk.types(clone, [(SUDO, host.sudo_password)])
    assert codes == [0] * len(clone.splitlines()), text[-3000:]
    host.ssh("cat > lab/group_data/all.py", input=data, check=True)
    world = {**furnished.host_data(), **QUICK}
    ours = "".join(f"{name} = {value!r}\n" for name, value in world.items() if name != "enabled_services")
    host.ssh("cat > lab/group_data/inventory.py", input=ours, check=True)

    folder, plan, apply = after.splitlines()
    assert folder == "cd ~/lab"
    codes, text = desk.gpuhost(plan)
    assert codes == [2], text[-3000:]
    codes, text = desk.gpuhost(apply, yes=1)
    assert codes == [0] and "2 of 2 services answer" in text, text[-3000:]
    asked = json.loads(host.root("docker inspect -f '{{json .HostConfig.DeviceRequests}}' comfyui-qwen").stdout)
    assert [each["DeviceIDs"] for each in asked] == [["nvidia.com/gpu=all"]]
    assert host.root("docker exec comfyui-qwen sh -c 'ls -d /dev/dxg /dev/nvidia*'").stdout == "/dev/dxg\n"

    host.reboot()  # as `wsl --shutdown`, and the window opened again
    codes, text = desk.gpuhost("gpuhost verify --gpu --use-sudo-password")
    assert codes == [0], text[-3000:]
    codes, text = desk.gpuhost(plan)
    assert codes == [0] and "Nothing to do." in text, text[-3000:]
    host.break_driver()
    codes, text = desk.gpuhost(plan)
    assert codes == [1] and "update the NVIDIA driver in Windows" in re.sub(r"\s+", " ", text), text[-3000:]
    host.break_driver(broken=False)
    codes, text = desk.gpuhost("gpuhost destroy --use-sudo-password", yes=1)
    assert codes == [0] and host.root("docker ps -aq").stdout == "", text[-3000:]
