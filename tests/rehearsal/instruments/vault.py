"""A deployed host whose secrets are canaries, watched from its first command on."""

from __future__ import annotations

import subprocess
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import bcrypt

from gpuhost.secrets import envfile

from ..world.freshhost import FreshHost
from ..world.gpus import Gpu
from ..world.scenery import group_data
from ..world.world import World
from .control import Control
from .leaks import Canaries, Processes, SshCommands, in_text
from .proof import expect

# Every sign that some reader of env files, shells, YAML or URLs takes for its own; what HTTP forbids in a header stays
# out of those that travel in one.
IN_HEADERS = "$1'\"\\#{x}&/+=%`|;*~"
ANY = f"{IN_HEADERS} \n\té漢🦊 $$ ${{HOME}}"
CANARIES = {
    "HF_TOKEN": f"hf_canary-{IN_HEADERS}",
    "CIVITAI_TOKEN": f"civitai-canary-{ANY}",
    "COMFYUI_USER": "user-canary-$1'\"é",
    "COMFYUI_PASSWORD": "password-canary-$1'\"\\# é",
    "ORCHESTRATOR_TOKEN": f"orchestrator-canary-{IN_HEADERS}",
    "VLLM_API_KEY_MICRO": f"micro-canary-{IN_HEADERS}",
    "VLLM_API_KEY_MINI": f"mini-canary-{IN_HEADERS}",
    "VLLM_API_KEY_MEDIUM": f"medium-canary-{IN_HEADERS}",
    "SD35_API_KEY": f"stable-diffusion-canary-{IN_HEADERS}",
    "LABEL_HMAC_KEY": f"label-canary-{ANY}",
}
LOUD = ("-vvv", "--diff", "--debug")


@dataclass
class Recorded(Control):
    """A control that keeps what its commands printed."""

    outputs: list[tuple[str, str]] = field(default_factory=list, repr=False)

    def _run(self, command: list[str], stdin: str = "") -> subprocess.CompletedProcess[str]:
        done = super()._run(command, stdin)
        self.outputs.append((" ".join(command[2:4]), done.stdout + done.stderr))
        return done


@dataclass(repr=False)
class Vault:
    """The host, its control, and the secrets that it ever had. `watching` ends with stop_watching()."""

    host: FreshHost
    control: Recorded
    processes: Processes
    ssh: SshCommands
    ever: dict[str, str] = field(default_factory=dict, repr=False)
    _watches: ExitStack = field(default_factory=ExitStack)

    @classmethod
    def deploy(cls, world: World, name: str = "vault") -> Vault:
        """Boot a host, write the canaries where the operator keeps secrets, watch, and deploy with everything shown."""
        host = world.boot(name, gpus=[Gpu("NVIDIA GeForce RTX 3090", 24576)])
        services = group_data()["services"]
        services["orchestrator"]["secrets"].append("CIVITAI_TOKEN")  # an operator's own secret in an environment
        host.write_inventory({**world.host_data(), "services": services, "verify_window_s": 0.5})
        temporary = host.run_dir / "tmp"
        temporary.mkdir()
        vault = cls(host, Recorded(host, environment={"TMPDIR": str(temporary)}), Processes(), SshCommands(host))
        world.hub_grant(CANARIES["HF_TOKEN"], [model["repo"] for model in group_data()["models"].values()])
        hashed = bcrypt.hashpw(CANARIES["COMFYUI_PASSWORD"].encode(), bcrypt.gensalt(4)).decode()
        vault.write_secrets({**CANARIES, "COMFYUI_PASSWORD_HASH": hashed})
        vault._watches.enter_context(vault.ssh)
        vault._watches.enter_context(vault.processes)
        done = vault.control.pyinfra("-y", *LOUD)
        if done.returncode:
            vault.stop_watching()
        shown = Canaries(vault.ever).masked(done.stdout + done.stderr)
        expect(done.returncode == 0, "the first deploy succeeds", shown[-3000:])
        return vault

    @property
    def secrets_file(self) -> Path:
        """Where the control keeps this host's secrets."""
        return self.host.run_dir / "secrets" / f"{self.host.name}.env"

    def secrets(self) -> dict[str, str]:
        """What the control knows now; remembered among the canaries."""
        found = envfile.read(self.secrets_file)
        for name, value in found.items():
            if value not in self.ever.values():
                self.ever[f"{name} {len(self.ever)}" if name in self.ever else name] = value
        return found

    def write_secrets(self, values: dict[str, str]) -> None:
        """Write the control's file anew, as an operator would."""
        self.secrets_file.parent.mkdir(mode=0o700, exist_ok=True)
        quoted = {name: value.replace("\\", "\\\\").replace("'", "\\'") for name, value in values.items()}
        text = "# the operator's own line\n" + "".join(f"{name}='{value}'\n" for name, value in quoted.items())
        envfile.replace(self.secrets_file, text)
        seen = self.secrets()
        assert seen == values, sorted(name for name in values if seen.get(name) != values[name])

    def change(self, **values: str) -> None:
        """Other values by hand."""
        self.write_secrets({**self.secrets(), **values})

    def canaries(self) -> Canaries:
        """Every value that a secret ever had."""
        self.secrets()
        return Canaries(self.ever)

    def status(self, port: int, path: str, token: str | None = None) -> int:
        """What a service answers on the host; the token is in no argument."""
        header = (token or "").replace("\\", "\\\\").replace('"', '\\"')
        config = f'header = "Authorization: Bearer {header}"\n' if token else ""
        ask = f"curl -s -o /dev/null -w '%{{http_code}}' -K - http://127.0.0.1:{port}{path}"
        return int(self.host.root(ask, input=config, check=True).stdout)

    def cookie(self) -> str:
        """Log in with the password of the login page: the cookie that it gives."""
        secrets = self.secrets()
        fields = {"username": secrets["COMFYUI_USER"], "password": secrets["COMFYUI_PASSWORD"]}
        body = urlencode(fields)
        ask = "curl -s -o /dev/null -D - --data-binary @- http://127.0.0.1:8188/login"
        answer = self.host.root(ask, input=body, check=True).stdout
        [cookie] = [line.split(": ", 1)[1] for line in answer.splitlines() if line.lower().startswith("set-cookie:")]
        return cookie.partition(";")[0].replace('"', "")  # quoted for the sake of its `=`

    def status_with_cookie(self, path: str, cookie: str) -> int:
        """What the login page's service answers to a browser that has this cookie."""
        ask = f"curl -s -o /dev/null -w '%{{http_code}}' -K - http://127.0.0.1:8188{path}"
        return int(self.host.root(ask, input=f'header = "Cookie: {cookie}"\n', check=True).stdout)

    def containers(self) -> dict[str, str]:
        """name -> id of the running containers."""
        listed = self.host.root("docker ps --no-trunc --format '{{.Names}} {{.ID}}'", check=True).stdout
        return dict(line.split() for line in listed.splitlines())

    def output_findings(self) -> list[str]:
        """In all that the control's commands printed."""
        canaries = self.canaries()
        return [hit for name, text in self.control.outputs for hit in in_text(canaries, name, text)]

    def stop_watching(self) -> None:
        """What was watched can be looked at; what follows is not watched."""
        self._watches.close()

    def close(self) -> None:
        """Remove the host."""
        self.stop_watching()
        self.host.destroy()

    def settings(self, **data: Any) -> None:
        """Further names of this host's group_data; the last word wins."""
        file = self.host.run_dir / "group_data" / "all.py"
        file.write_text(file.read_text() + "".join(f"{name} = {value!r}\n" for name, value in data.items()))
