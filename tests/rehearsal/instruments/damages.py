"""What can happen to a converged host, in one table: the damage, what the plan must say of it, what must come of it.

A damage takes lanes: the things that it breaks, or that its repair touches. Damages whose lanes are apart share a
group: they are done together, planned together, repaired by one apply, and each is looked for by its own lines.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

DATA, TOOLS, STATE = "/srv/genai", "/opt/gpuhost", "/var/lib/gpuhost"
STACKS, PROGRAMS, IMAGES = f"{DATA}/stacks", f"{TOOLS}/programs", f"{TOOLS}/images"
O, Q = "orchestrator", "comfyui-qwen"  # noqa: E741
INSTALL = f"{DATA}/installs/comfyui/v*[0-9a-f]"  # not what was set aside: its name ends with a Z
HUB = f"{DATA}/cache/huggingface/hub/models--Comfy-Org--Qwen-Image_ComfyUI"
SHOWN = f"{HUB}/snapshots/*/split_files/vae/qwen_image_vae.safetensors"
VAE = f"{DATA}/models/vae/qwen_image_vae.safetensors"
MODEL = "qwen-image-vae"
PASSWORD = f"{STACKS}/{Q}/secrets/{Q}/PASSWORD"
PATHS_YAML = f"{STACKS}/{Q}/config/{Q}/extra_model_paths.yaml"
CDI = "/var/run/cdi/nvidia.yaml"
UNIT = "gpuhost-services.service"
UNIT_FILE = f"/etc/systemd/system/{UNIT}"
DAEMON_JSON = "/etc/docker/daemon.json"
ENGINE_WRITTEN = "/var/lib/gpuhost/engine-config.json"  # what of it is gpuhost's work
KEYS, SOURCES = "/etc/apt/keyrings", "/etc/apt/sources.list.d"
APT = "DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=60"
OFFLINE = "--no-download --allow-change-held-packages"
SITE = "$(echo /opt/gpuhost/venv/lib/python3*/site-packages)"
# What a reload of systemd does to a container that has its GPUs of the nvidia runtime: its cgroup denies their files.
DENY_GPUS = (
    f'id="$(docker inspect -f {{{{.Id}}}} {Q})"; group=/sys/fs/cgroup/devices/docker/$id; if [ -e $group ]; then '
    "grep '^c 195:' $group/devices.list | while read -r rule; do echo \"$rule\" > $group/devices.deny; done; else "
    'systemctl set-property --runtime "docker-$id.scope" DevicePolicy=strict; fi'
)
PACKAGED = ("/var/lib/dpkg/*", "/var/lib/apt/*", "/var/cache/*", "/etc/ld.so.cache", "/var/lib/systemd/*")

Key = tuple[str, str, str]  # stage, name (a pattern), action


@dataclass(frozen=True)
class Seen:
    """A line that the plan must have: its key, and words (a regular expression) of its reason or its differences."""

    stage: str
    name: str
    action: str
    words: str = ""

    @property
    def key(self) -> Key:
        """Without the words."""
        return (self.stage, self.name, self.action)


@dataclass(frozen=True)
class Damage:
    """One kind. `shell`: what root does on the host; `compose`: what somebody adds to a service's compose entry before
    he makes its container anew by hand; `seen`: the plan's lines, none for what is nobody's to repair; `also`: lines
    that may follow from it; `changed`: patterns of paths that need not be as they were; `stays`: of paths that must be
    as the damage left them; `undo`: what makes the host converged again; `first`: the sentence with which a first
    apply ends, when it takes two; `goes`: containers that the repair removes.
    """

    name: str
    shell: str = ""
    seen: tuple[Seen, ...] = ()
    lanes: tuple[str, ...] = ()
    compose: Mapping[str, Any] = field(default_factory=dict)
    also: tuple[Key, ...] = ()
    changed: tuple[str, ...] = ()
    stays: tuple[str, ...] = ()
    undo: str = ""
    first: str = ""
    goes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Refused:
    """One kind that is refused: `what` (a regular expression) is the sentence. All of one `round` are there at once."""

    name: str
    shell: str
    what: str
    undo: str
    round: str = "preflight"


# -- the table's shorthands -------------------------------------------------------------------------------------------


def folder(name: str, path: str, shell: str, words: str, stage: str = "layout", lane: str = "") -> Damage:
    """A folder with another owner or mode. `shell`: a command that is followed by the path."""
    return Damage(name, f"{shell} {path}", (Seen(stage, path, "correct", words),), (lane or f"folder:{path}",))


def shipped(name: str, path: str, shell: str, words: str, stage: str = "layout", action: str = "write") -> Damage:
    """A file of ours. `shell`: with `{}` for its path."""
    lanes = (f"file:{path}", *(["breaks audit"] if "/hostside/" in path and not shell.startswith("ch") else []))
    return Damage(name, shell.format(path), (Seen(stage, path, action, words),), lanes)


def stack_file(name: str, path: str, shell: str, words: str, action: str = "write", restarts: str = "") -> Damage:
    """A file of a stack. `restarts`: the service whose process reads it at its start."""
    needs_audit = path.endswith(".env.docker") and action == "write"
    lanes = (f"file:{path}", *([restarts] if restarts else []), *(["needs audit"] if needs_audit else []))
    seen = [Seen("stacks", path, action, words)]
    if restarts:
        seen.append(Seen("stacks", restarts, "recreate", "before its files were last written"))
    return Damage(name, shell.format(path), tuple(seen), lanes)


def container(name: str, service: str, shell: str, words: str, action: str = "recreate", lane: str = "") -> Damage:
    """Something done to a service's container."""
    return Damage(name, shell, (Seen("stacks", service, action, words),), (f"{service}{lane and '.' + lane}",))


def by_hand(name: str, service: str, compose: Mapping[str, Any], words: str, ends: bool = False) -> Damage:
    """A container that somebody made anew with our labels and something more. `ends`: it does not stay up then."""
    lane = service if ends else f"{service}.{next(iter(compose))}"
    return Damage(name, "", (Seen("stacks", service, "recreate", words),), (lane,), {service: dict(compose)})


def variable(name: str, environment: Mapping[str, str], words: str) -> Damage:
    """A container that somebody made anew with our labels and another environment, which a whole program must see."""
    damage = by_hand(f"with {name}", O, {"environment": environment}, f"environment.{words}")
    return replace(damage, lanes=(*damage.lanes, "needs audit"))


# What is done to one model's folder may concern the others, too.
_ALL_FETCHED, _ALL_LINKED, _ALL_VERIFIED = (
    (("models", "qwen-image-e*", action),) for action in ("fetch", "link", "verify")
)


def model(
    name: str,
    shell: str,
    action: str,
    words: str,
    changed: Sequence[str] = (),
    first: str = "",
    also: tuple[Key, ...] = (),
) -> Damage:
    """Something done to the model."""
    left, lanes = (*changed, f"{STATE}/models/manifest.json"), ("model", *(["alone"] if first else []))
    seen = (Seen("models", MODEL, action, words),)
    return Damage(name, shell, seen, lanes, also=also, changed=left, first=first)


def venv(name: str, shell: str, words: str) -> Damage:
    """Something done to the environment of the host programs."""
    lost = (f"{TOOLS}/venv/*",)
    lanes = ("venv", "slow", "breaks audit")
    return Damage(name, shell, (Seen("layout", f"{TOOLS}/venv", "make", words),), lanes, changed=lost)


def package(name: str, shell: str, subject: str, words: str, stage: str = "engine", *also: Key) -> Damage:
    """Something done to packages."""
    seen = (Seen(stage, subject, "install", words),)
    return Damage(name, shell, seen, (f"packages:{subject}", "dpkg", "slow"), also=also, changed=PACKAGED)


def unit(name: str, shell: str, *seen: Seen, also: tuple[Key, ...] = ()) -> Damage:
    """Something done to the boot unit."""
    return Damage(name, shell, seen, ("unit",), also=also)


# -- the table --------------------------------------------------------------------------------------------------------

_FOLDERS = [
    folder("data root open to all", DATA, "chmod 777", "mode is 777, not 755"),
    folder("stacks folder somebody's", f"{STACKS}", "chown 1234:1234", r"owner is 1234:1234, not root:root"),
    folder("models folder without setgid", f"{DATA}/models", "chmod 00755", "mode is 755, not 2775"),
    folder("a models folder root's", f"{DATA}/models/vae", "chown root:root", "owner is root:root, not genai:genai"),
    folder("cache closed", f"{DATA}/cache", "chmod 700", "mode is 700, not 755"),
    folder("hub cache root's", f"{DATA}/cache/huggingface", "chown root:root", "owner is root:root"),
    folder("outputs closed", f"{DATA}/outputs", "chmod 700", "mode is 700, not 755", "stacks"),
    folder("a service's outputs closed", f"{DATA}/outputs/{Q}", "chmod 00700", "mode is 700, not 2770", "stacks"),
    folder("services folder open to all", f"{DATA}/services", "chmod 777", "mode is 777, not 755"),
    folder("a service's folder open to all", f"{DATA}/services/{Q}", "chmod 777", "mode is 777"),
    folder("seeds open to all", f"{DATA}/services/{Q}/seeds", "chmod 777", "mode is 777, not 755", "stacks"),
    folder("a service's data readable", f"{DATA}/services/{Q}/data", "chmod 755", "mode is 755, not 750", "stacks"),
    folder("installs folder somebody's", f"{DATA}/installs", "chown 1234", "owner is 1234:root"),
    folder("an install's folder open to all", f"{DATA}/installs/comfyui", "chmod 777", "mode is 777"),
    folder("an install's tree root's", INSTALL, "chown root:root", "owner is root:root"),
    folder("tools root open to all", TOOLS, "chmod 777", "mode is 777, not 755"),
    folder("programs open to all", PROGRAMS, "chmod 777", "mode is 777"),
    folder("a package of ours open to all", f"{PROGRAMS}/hostside", "chmod 777", "mode is 777"),
    folder("a package of ours somebody's", f"{PROGRAMS}/hostside/verify", "chown genai", "owner is genai:root"),
    folder("install scripts open to all", f"{TOOLS}/installs", "chmod 777", "mode is 777"),
    folder("state open to all", STATE, "chmod 777", "mode is 777, not 755", "engine"),
    folder("backups readable", f"{STATE}/backups", "chmod 755", "mode is 755, not 700", "engine"),
    folder("the manifest's folder root's", f"{STATE}/models", "chown root:root", "owner is root:root"),
    folder("a stack open to all", f"{STACKS}/{O}", "chmod 777", "mode is 777"),
    folder("secret files' folder readable", f"{STACKS}/{Q}/secrets/{Q}", "chmod 755", "mode is 755, not 710", "stacks"),
    folder("secret files' parent open to all", f"{STACKS}/{Q}/secrets", "chmod 777", "mode is 777"),
    folder("configuration's parent open to all", f"{STACKS}/{Q}/config", "chmod 777", "mode is 777"),
    folder("configuration open to all", f"{STACKS}/{Q}/config/{Q}", "chmod 777", "mode is 777"),
    folder("build contexts open to all", IMAGES, "chmod 777", "mode is 777"),
    folder("a build context somebody's", f"{IMAGES}/comfyui", "chown genai", "owner is genai:root"),
    folder("within a build context open to all", f"{IMAGES}/comfyui/guard", "chmod 777", "mode is 777"),
    folder("keyrings open to all", KEYS, "chmod 777", "mode is 777", "engine"),
    folder("Docker's configuration open to all", "/etc/docker", "chmod 777", "mode is 777", "engine"),
]

_MISSING = [
    Damage(
        "backups gone",
        f"rm -rf {STATE}/backups",
        (Seen("engine", f"{STATE}/backups", "create", "does not exist"),),
        (f"tree:{STATE}/backups",),
    ),
    Damage(
        "a package of ours gone",
        f"rm -rf {PROGRAMS}/hostside/verify",
        (
            Seen("layout", f"{PROGRAMS}/hostside/verify", "create", "does not exist"),
            Seen("layout", f"{PROGRAMS}/hostside/verify/__main__.py", "create", "does not exist"),
        ),
        (f"tree:{PROGRAMS}/hostside/verify",),
        also=(("layout", f"{PROGRAMS}/hostside/verify/*", "create"),),
    ),
    Damage(
        "a build context gone",
        f"rm -rf {IMAGES}/orchestrator",
        (
            Seen("layout", f"{IMAGES}/orchestrator", "create", "does not exist"),
            Seen("images", f"{IMAGES}/orchestrator/Dockerfile", "create", "does not exist"),
        ),
        (f"tree:{IMAGES}/orchestrator",),
        also=(
            ("images", f"{IMAGES}/orchestrator/*", "create"),
            ("layout", f"{IMAGES}/orchestrator/orchestrator", "create"),
        ),
    ),
    Damage(
        "a stack's folder gone",
        f"rm -rf {STACKS}/{O}",
        (
            Seen("layout", f"{STACKS}/{O}", "create", "does not exist"),
            Seen("stacks", f"{STACKS}/{O}/.env.docker", "create", "does not exist"),
            Seen("stacks", f"{STACKS}/{O}/docker-compose-{O}.yml", "create", "does not exist"),
        ),
        (f"tree:{STACKS}/{O}",),
    ),
    Damage(
        "what a service wants in its data gone",
        f"rm -rf {DATA}/services/{Q}/data/custom_nodes",
        (Seen("stacks", f"{DATA}/services/{Q}/data/custom_nodes", "create", "does not exist|the service needs it"),),
        (f"folder:{DATA}/services/{Q}/data/custom_nodes",),
    ),
    Damage(
        "a models folder gone",
        f"rm -rf {DATA}/models/vae",
        (
            Seen("layout", f"{DATA}/models/vae", "create", "does not exist"),
            Seen("models", MODEL, "link", "not in the models folder"),
        ),
        ("model", f"tree:{DATA}/models/vae"),
        changed=(f"{STATE}/models/manifest.json",),
    ),
    Damage(
        "the manifest's folder gone",
        f"rm -rf {STATE}/models",
        (
            Seen("layout", f"{STATE}/models", "create", "does not exist"),
            Seen("models", MODEL, "verify", "was never verified"),
        ),
        ("model", f"tree:{STATE}/models"),
        also=_ALL_VERIFIED,
        changed=(f"{STATE}/models/manifest.json",),
    ),
    Damage(
        "a stack's folder on another disk",
        f"mkdir -p /srv/other && mv {STACKS}/{O} /srv/other/ && ln -s /srv/other/{O} {STACKS}/{O}",
        (),
        (f"tree:{STACKS}/{O}",),
        stays=(f"{STACKS}/{O}*", "/srv/other*"),
        undo=f"rm {STACKS}/{O} && mv /srv/other/{O} {STACKS}/ && rmdir /srv/other",
    ),
]

_PROGRAMS = [
    shipped("a program edited", f"{PROGRAMS}/hostside/wire.py", "echo '# mine' >> {}", "content differs"),
    shipped("a program truncated", f"{PROGRAMS}/hostside/protocol/models.py", "truncate -s 100 {}", "content differs"),
    shipped("a program emptied", f"{PROGRAMS}/hostside/labels.py", ": > {}", "content differs"),
    shipped("a program gone", f"{PROGRAMS}/hostside/verify/observe.py", "rm {}", "does not exist", action="create"),
    shipped("a program open to all", f"{PROGRAMS}/hostside/secret_audit.py", "chmod 666 {}", "mode is 666, not 644"),
    shipped("a program somebody's", f"{PROGRAMS}/hostside/envfile.py", "chown genai {}", "owner is genai:root"),
    shipped(
        "a program replaced by a link",
        f"{PROGRAMS}/start_services.sh",
        "mv {0} /root/kept.sh && ln -s /root/kept.sh {0}",
        "symbolic link is in its place",
    ),
    shipped("an install script edited", f"{TOOLS}/installs/install_comfyui.sh", "echo exit >> {}", "content differs"),
    shipped("a Dockerfile edited", f"{IMAGES}/comfyui/Dockerfile", "echo USER root >> {}", "content differs", "images"),
    shipped(
        "a file of a build context gone",
        f"{IMAGES}/orchestrator/orchestrator/app.py",
        "rm {}",
        "does not exist",
        "images",
        "create",
    ),
    shipped(
        "a file of a build context closed",
        f"{IMAGES}/comfyui/guard/__init__.py",
        "chmod 600 {}",
        "mode is 600",
        "images",
    ),
]

_VENV = [
    venv("the venv gone", f"rm -rf {TOOLS}/venv", "does not exist"),
    venv("a package of the venv gone", f"rm -rf {SITE}/httpx {SITE}/httpx-*", "package httpx is gone"),
    venv("a package of the venv damaged", f"truncate -s 10 {SITE}/docker/errors.py", "package docker is not whole"),
    venv("a package more in the venv", f"cp -r {SITE}/idna-*.dist-info {SITE}/evil-1.dist-info", "added by somebody"),
    venv("the venv's interpreter broken", f"rm {TOOLS}/venv/bin/python3", "interpreter is gone"),
    venv("the venv unfinished", f"rm {TOOLS}/venv/.gpuhost", "not finished"),
    venv("the venv open to all", f"chmod 777 {SITE}", "others may write"),
    venv("the venv finds other programs", f"echo /tmp > {SITE}/gpuhost.pth", "does not find the programs"),
]

_APT_DOCKER, _APT_NVIDIA = f"{KEYS}/gpuhost-docker.asc", f"{KEYS}/gpuhost-nvidia.asc"
_INDEX = (("engine", "apt index of docker", "update"), ("gpu", "apt index of nvidia", "update"))
_APT = [
    Damage(
        "an apt key gone", f"rm {_APT_DOCKER}", (Seen("engine", _APT_DOCKER, "fetch", "not there"),), ("key:docker",)
    ),
    Damage(
        "an apt key that apt cannot read",
        f"chmod 600 {_APT_NVIDIA}",
        (Seen("gpu", _APT_NVIDIA, "correct", "mode is 600, not 644"),),
        ("key:nvidia",),
        also=_INDEX,
        changed=PACKAGED,
    ),
    Damage(
        "an apt key of which nobody knows whether it was checked",
        f"rm {_APT_DOCKER}.*",
        (Seen("engine", _APT_DOCKER, "fetch", "was not checked"),),
        ("key:docker",),
        also=_INDEX,
        changed=PACKAGED,
    ),
    Damage(
        "an apt key with another content",
        f"cat {_APT_DOCKER} >> {_APT_NVIDIA}",
        (Seen("gpu", _APT_NVIDIA, "fetch", "changed since it was checked"),),
        ("key:nvidia", "key:docker"),
        also=_INDEX,
        changed=PACKAGED,
    ),
    Damage(
        "an apt source edited",
        f"sed -i s/stable/edge/ {SOURCES}/gpuhost-docker.sources",
        (
            Seen("engine", f"{SOURCES}/gpuhost-docker.sources", "write", "content differs"),
            Seen("engine", "apt index of docker", "update", "its source is written anew"),
        ),
        ("source:docker",),
        changed=PACKAGED,
    ),
    Damage(
        "an apt source gone",
        f"rm {SOURCES}/gpuhost-nvidia.sources",
        (
            Seen("gpu", f"{SOURCES}/gpuhost-nvidia.sources", "create", "does not exist"),
            Seen("gpu", "apt index of nvidia", "update", "written anew"),
        ),
        ("source:nvidia",),
        changed=PACKAGED,
    ),
    Damage(
        "an apt source closed",
        f"chmod 600 {SOURCES}/gpuhost-docker.sources",
        (Seen("engine", f"{SOURCES}/gpuhost-docker.sources", "write", "mode is 600, not 644"),),
        ("source:docker",),
        also=(("engine", "apt index of docker", "update"),),
        changed=PACKAGED,
    ),
    Damage(
        "a repository more in an apt source of ours",
        "printf '\\nTypes: deb\\nURIs: file:/srv/mine\\nSuites: ./\\nTrusted: yes\\n' >> "
        f"{SOURCES}/gpuhost-nvidia.sources",
        (Seen("gpu", f"{SOURCES}/gpuhost-nvidia.sources", "write", "content differs"),),
        ("source:nvidia",),
        also=(("gpu", "apt index of nvidia", "update"),),
        changed=PACKAGED,
    ),
    Damage(
        "nobody knows when apt's index was read",
        f"rm {STATE}/apt-updated",
        (Seen("engine", "apt index", "update", "gpuhost has not read /etc/apt"),),
        ("index",),
        changed=PACKAGED,
    ),
    Damage(
        "apt's index gone",
        "rm -rf /var/lib/apt/lists/*_*",
        (
            Seen("engine", "apt index", "update", "apt has no index of /etc/apt"),
            Seen("engine", "apt index of docker", "update", "apt has no index of .*gpuhost-docker|written anew"),
            Seen("gpu", "apt index of nvidia", "update", "apt has no index of .*gpuhost-nvidia|written anew"),
        ),
        ("index",),
        changed=PACKAGED,
    ),
]

_TOOLKIT = "NVIDIA Container Toolkit"
_FOUR = "nvidia-container-toolkit nvidia-container-toolkit-base libnvidia-container-tools libnvidia-container1"
_HOLDS = tuple(("gpu", name, "hold") for name in _FOUR.split())
_PACKAGES = [
    package("a base package gone", f"{APT} remove curl", "base packages", "not installed: curl"),
    package("a plugin of Docker gone", f"{APT} remove docker-buildx-plugin", "Docker Engine", "docker-buildx-plugin"),
    package("compose gone", f"{APT} remove docker-compose-plugin", "Docker Engine", "docker-compose-plugin"),
    package(
        "the toolkit gone",
        f"{APT} {OFFLINE} remove nvidia-container-toolkit",
        _TOOLKIT,
        "not installed: nvidia-container-toolkit",
        "gpu",
        *_HOLDS,
    ),
    replace(
        package(
            "the toolkit in an earlier version",
            f"{APT} --allow-change-held-packages --allow-downgrades install "
            + " ".join(f"{name}=1.19.0-1" for name in _FOUR.split()),
            _TOOLKIT,
            "nvidia-container-toolkit is 1.19.0-1, not 1.20.0-1",
            "gpu",
            *_HOLDS,
        ),
        lanes=(f"packages:{_TOOLKIT}", "dpkg", "slow", "index", "source:nvidia"),  # apt must know the version
    ),
    Damage(
        "a package of the toolkit not held",
        "apt-mark unhold libnvidia-container1",
        (Seen("gpu", "libnvidia-container1", "hold", "apt may upgrade it alone"),),
        (f"packages:{_TOOLKIT}", "dpkg"),
        changed=PACKAGED,
    ),
]

_RESTART = Seen("engine", "dockerd", "restart", "daemon.json changes")
_ENGINE = [
    Damage(
        "another value in daemon.json",
        f"sed -i s/10m/99m/ {DAEMON_JSON}",
        (Seen("engine", DAEMON_JSON, "write", "log-opts.max-size"), _RESTART),
        ("daemon.json", "dockerd"),
    ),
    Damage(
        "a key of daemon.json gone",
        f"python3 -c \"import json; p = '{DAEMON_JSON}'; d = json.load(open(p)); del d['features']; "
        "open(p, 'w').write(json.dumps(d))\"",
        (Seen("engine", DAEMON_JSON, "write", "features"), _RESTART),
        ("daemon.json", "dockerd"),
        changed=(DAEMON_JSON,),  # it comes back behind the others
    ),
    Damage(
        "daemon.json gone",
        f"rm {DAEMON_JSON}",
        (Seen("engine", DAEMON_JSON, "write", "features"), _RESTART),
        ("daemon.json", "dockerd"),
        changed=(DAEMON_JSON,),  # with its keys in our order again
    ),
    Damage(
        "a key of somebody's in daemon.json",
        f"sed -i '1s/{{/{{\\n  \"debug\": false,/' {DAEMON_JSON}",
        (Seen("engine", "dockerd", "restart", "before .*daemon.json changed"),),
        ("daemon.json", "dockerd"),
        stays=(DAEMON_JSON,),
        undo=f"sed -i '/\"debug\": false/d' {DAEMON_JSON} && systemctl restart docker",
    ),
    Damage(
        "Docker not started at boot",
        "systemctl disable docker.service",
        (Seen("engine", "docker.service", "enable", "would not start at boot"),),
        ("docker.service",),
        changed=PACKAGED,
    ),
    Damage(
        "Docker masked",
        "systemctl mask docker.service",
        (Seen("engine", "docker.service", "enable", "masked"),),
        ("docker.service",),
        changed=PACKAGED,
    ),
    Damage(
        "Docker's socket not started at boot: Docker's unit starts it",
        "systemctl disable docker.socket",
        (),
        ("docker.socket",),
        stays=("/etc/systemd/system/sockets.target.wants/docker.socket",),
        undo="systemctl enable docker.socket",
        changed=PACKAGED,
    ),
    Damage(
        "containerd not started at boot: Docker's unit starts it",
        "systemctl disable containerd.service",
        (),
        ("containerd.service",),
        stays=("/etc/systemd/system/multi-user.target.wants/containerd.service",),
        undo="systemctl enable containerd.service",
        changed=PACKAGED,
    ),
    Damage(
        "Docker to be restarted by broken programs",
        f"rm {DAEMON_JSON} {TOOLS}/venv/bin/python3",
        (
            Seen("engine", DAEMON_JSON, "write", "features"),
            _RESTART,
            Seen("layout", f"{TOOLS}/venv", "make", "interpreter is gone"),
        ),
        ("daemon.json", "dockerd", "venv", "slow", "breaks audit"),
        changed=(DAEMON_JSON, f"{TOOLS}/venv/*"),
    ),
]

_ENABLE = Seen("stacks", UNIT, "enable", "does not run")
_UNIT = [
    unit(
        "the boot unit's file gone",
        f"rm {UNIT_FILE} && systemctl daemon-reload",
        Seen("stacks", UNIT_FILE, "create", "does not exist"),
        also=(_ENABLE.key,),
    ),
    unit(
        "the boot unit edited", f"echo '# mine' >> {UNIT_FILE}", Seen("stacks", UNIT_FILE, "write", "content differs")
    ),
    unit(
        "the boot unit edited and reloaded, and edited back",
        f"cp {UNIT_FILE} /root/unit && sed -i s/oneshot/simple/ {UNIT_FILE} && systemctl daemon-reload && "
        f"cat /root/unit > {UNIT_FILE} && rm /root/unit",
        Seen("stacks", UNIT_FILE, "write", "systemd has not read it"),
    ),
    unit(
        "the boot unit's file open to all", f"chmod 666 {UNIT_FILE}", Seen("stacks", UNIT_FILE, "write", "mode is 666")
    ),
    unit("the boot unit disabled", f"systemctl disable {UNIT}", Seen("stacks", UNIT, "enable", "not run at boot")),
    unit("the boot unit stopped", f"systemctl stop {UNIT}", Seen("stacks", UNIT, "enable", "does not run$")),
    unit(
        "the boot unit masked",
        f"rm {UNIT_FILE} && systemctl mask {UNIT}",
        Seen("stacks", UNIT_FILE, "write", "symbolic link is in its place"),
        also=(_ENABLE.key,),
    ),
    Damage(
        "one of the boot unit's links gone",
        f"rm /etc/systemd/system/docker.service.wants/{UNIT}",
        (Seen("stacks", UNIT, "enable", "docker.service would not start it"),),
        ("unit",),
    ),
]


def broker(name: str, shell: str, *seen: Seen) -> Damage:
    """Something done to the units that answer services about containers."""
    also = tuple(
        ("stacks", name, action) for name in (f"/etc/systemd/system/{BROKER}.*", f"{BROKER}.*") for action in _DONE
    )
    return Damage(name, shell, seen, ("broker",), also=also)


_DONE = ("enable", "write", "create")
BROKER = "gpuhost-broker"
_SOCKET_FILE, _SERVICE_FILE = (f"/etc/systemd/system/{BROKER}.{kind}" for kind in ("socket", "service"))
_BROKER = [
    broker("the broker's unit gone", f"rm {_SERVICE_FILE}", Seen("stacks", _SERVICE_FILE, "create", "does not exist")),
    broker("the broker's unit edited", f"echo >> {_SERVICE_FILE}", Seen("stacks", _SERVICE_FILE, "write", "content")),
    broker(
        "the broker's socket stopped",
        f"systemctl stop {BROKER}.socket",
        Seen("stacks", f"{BROKER}.socket", "enable", "does not run$"),
    ),
    broker(
        "the broker's socket disabled",
        f"systemctl disable {BROKER}.socket",
        Seen("stacks", f"{BROKER}.socket", "enable", "not run at boot"),
    ),
    broker("the broker's socket gone", f"rm {_SOCKET_FILE}", Seen("stacks", _SOCKET_FILE, "create", "does not exist")),
    broker(
        "the broker's socket open to all", f"chmod 666 {_SOCKET_FILE}", Seen("stacks", _SOCKET_FILE, "write", "666")
    ),
]

_CDI = [
    Damage(name, shell, (Seen("gpu", CDI, "refresh", words),), ("cdi", "toolkit"))
    for name, shell, words in (
        ("the CDI specification gone", f"rm {CDI}", "does not name GPU-"),
        ("the CDI specification without the GPU", f"sed -i s/GPU-/XPU-/ {CDI}", "does not name GPU-"),
        ("the CDI specification emptied", f": > {CDI}", "does not name GPU-"),
        ("the CDI stamp gone", f"rm {STATE}/cdi.json", "never made by us"),
        ("the CDI stamp unreadable", f"echo '{{' > {STATE}/cdi.json", "never made by us"),
        ("the CDI stamp of another driver", f'sed -i \'s/"driver": "/&9/\' {STATE}/cdi.json', "another driver"),
    )
]
_PROOF = [
    Damage(name, shell, (Seen("gpu", "containers reach the GPUs", "prove", words),), ("gpu proof",))
    for name, shell, words in (
        ("the record of the GPUs' proof gone", f"rm {STATE}/gpu-proof.json", "never proved"),
        ("the record of the GPUs' proof unreadable", f"echo '{{' > {STATE}/gpu-proof.json", "never proved"),
        (
            "the GPUs proved with another driver",
            f'sed -i \'s/"driver":"/&9/\' {STATE}/gpu-proof.json',
            "driver: 9.* -> ",
        ),
    )
] + [
    Damage(
        "the toolkit's unit not started at boot",
        "systemctl disable --now nvidia-cdi-refresh.path",
        (Seen("gpu", "nvidia-cdi-refresh.path", "enable", "disabled: no CDI specification"),),
        ("nvidia-cdi-refresh",),
        changed=PACKAGED,
    )
]

_MODELS = [
    model(
        "a model truncated",
        f"b=$(readlink -f {SHOWN}); truncate -s 1000 $b; ln -f $b {VAE}",
        "verify",
        "changed since",
        (f"{DATA}/models/vae/*.replaced-*",),
        "changed since it was fetched",
    ),
    model(
        "a model with other bytes of the same size",
        f"b=$(readlink -f {SHOWN}); printf X | dd of=$b bs=1 seek=5000 conv=notrunc status=none; ln -f $b {VAE}",
        "verify",
        "changed since",
        (f"{DATA}/models/vae/*.replaced-*",),
        "changed since it was fetched",
    ),
    model("a model touched", f"b=$(readlink -f {SHOWN}); touch $b; ln -f $b {VAE}", "verify", "changed since"),
    model("a model's link gone", f"rm {VAE}", "link", "not in the models folder"),
    model(
        "another file in a model's place",
        f"rm {VAE} && echo mine > {VAE}",
        "link",
        "another file is in its place",
        (f"{DATA}/models/vae/*.replaced-*",),
    ),
    model(
        "a model's link a symbolic one",
        f"b=$(readlink -f {SHOWN}) && rm {VAE} && ln -s $b {VAE}",
        "link",
        "another file is in its",
    ),
    model("a model's snapshot gone", f"rm {SHOWN}", "fetch", "gone from the cache"),
    model("two models gone from the cache", f"rm -r {HUB}", "fetch", "gone from the cache", also=_ALL_FETCHED),
    model("a branch's name gone from the cache", f"rm -r {HUB}/refs", "link", "does not know `main`", also=_ALL_LINKED),
    model(
        "a model that nobody can read",
        f"b=$(readlink -f {SHOWN}); chmod 000 $b; ln -f $b {VAE}",
        "link",
        "its mode is 000, not 644",
    ),
    model(
        "a model root's",
        f"b=$(readlink -f {SHOWN}); chown root:root $b; ln -f $b {VAE}",
        "verify",
        "belongs to uid 0, not to the account",
    ),
    model("the manifest gone", f"rm {STATE}/models/manifest.json", "verify", "never verified", also=_ALL_VERIFIED),
    model(
        "the manifest unreadable",
        f"echo '{{' > {STATE}/models/manifest.json",
        "verify",
        "never verified",
        also=_ALL_VERIFIED,
    ),
]

_SEED = f"{DATA}/services/{Q}/seeds/session-key.txt"
_ENV_O, _ENV_Q = f"{STACKS}/{O}/.env.docker", f"{STACKS}/{Q}/.env.docker"
_COMPOSE_O, _COMPOSE_Q = f"{STACKS}/{O}/docker-compose-{O}.yml", f"{STACKS}/{Q}/docker-compose-{Q}.yml"
_FILES = [
    stack_file("a compose file edited", _COMPOSE_O, "echo '# mine' >> {}", "content differs"),
    stack_file("a compose file gone", _COMPOSE_O, "rm {}", "does not exist", "create"),
    stack_file("a compose file open to all", _COMPOSE_Q, "chmod 666 {}", "mode is 666, not 644"),
    stack_file("a compose file somebody's", _COMPOSE_Q, "chown genai {}", "owner is genai:root"),
    stack_file("a compose file a link", _COMPOSE_Q, "mv {0} /root/c.yml && ln -s /root/c.yml {0}", "symbolic link"),
    stack_file(
        "a secret's line gone from .env.docker", _ENV_O, "sed -i /^ORCHESTRATOR_TOKEN/d {}", "ORCHESTRATOR_TOKEN"
    ),
    stack_file(
        "another secret in .env.docker",
        _ENV_O,
        "sed -i 's/^ORCHESTRATOR_TOKEN=.*/ORCHESTRATOR_TOKEN=x/' {}",
        "ORCHESTRATOR_TOKEN: ",
    ),
    stack_file("a line more in .env.docker", _ENV_O, "echo MINE=1 >> {}", "MINE"),
    stack_file("another port in .env.docker", _ENV_O, "sed -i s/8193/8194/ {}", "ORCHESTRATOR_PORT: 8194 -> 8193"),
    stack_file(".env.docker readable", _ENV_Q, "chmod 644 {}", "mode is 644, not 600"),
    stack_file(".env.docker somebody's", _ENV_Q, "chown genai:genai {}", "owner is genai:genai"),
    stack_file(".env.docker gone", _ENV_Q, "rm {}", "does not exist", "create"),
    stack_file("a configuration file edited", PATHS_YAML, "echo '# mine' >> {}", "content differs", restarts=Q),
    stack_file("a configuration file gone", PATHS_YAML, "rm {}", "does not exist", "create", Q),
    stack_file("a configuration file open to all", PATHS_YAML, "chmod 666 {}", "mode is 666"),
    stack_file("a secret file readable", PASSWORD, "chmod 644 {}", "mode is 644, not 600"),
    stack_file("a secret file root's", PASSWORD, "chown root:root {}", "owner is root:root"),
    stack_file("a secret file with another content", PASSWORD, "echo other > {}", "content differs", restarts=Q),
    stack_file("a secret file gone", PASSWORD, "rm {}", "does not exist", "create", Q),
    stack_file(
        "a secret file that no service reads",
        f"{STACKS}/{Q}/secrets/{Q}/KEY",
        "install -D -m 600 /dev/null {}",
        "goes to the backups",
        "remove",
    ),
]

_OTHER_TOKEN = (
    f"sed 's/^ORCHESTRATOR_TOKEN=.*/ORCHESTRATOR_TOKEN=\"{'x' * 40}\"/' {_ENV_O} > /root/other.env && "
    f"docker compose -p {O} -f {_COMPOSE_O} --env-file /root/other.env up -d --no-deps 2>/dev/null; rm /root/other.env"
)
_OF_O = f"docker compose -p {O} -f {_COMPOSE_O} --env-file {_ENV_O}"
_RUN = f"{_OF_O} run -d --no-deps --name mine-once {O} sleep 3600"
_ANY_IMAGE = "$(docker image ls -q --filter label=gpuhost.image=orchestrator | head -n1)"
_CONTAINERS = [
    container(
        "memory changed by docker update",
        O,
        f"docker update --memory 1g --memory-swap 1g {O}",
        "memory: 1g -> 2g",
        lane="mem_limit",
    ),
    container("cores changed by docker update", O, f"docker update --cpus 1 {O}", "cpus: 1 -> 2", lane="cpus"),
    container("bound to a core by docker update", O, f"docker update --cpuset-cpus 0 {O}", "cpuset", lane="cpuset"),
    container(
        "restart policy changed by docker update",
        O,
        f"docker update --restart no {O}",
        "restart: no -> unless",
        lane="restart",
    ),
    container("cut off from its network", O, f"docker network disconnect {O} {O}", "networks", lane="networks"),
    container("on a second network", Q, f"docker network connect bridge {Q}", "networks", lane="networks"),
    by_hand("published to all", Q, {"ports": ["0.0.0.0:18188:8188"]}, "0.0.0.0:18188"),
    by_hand("privileged", Q, {"privileged": True}, "privileged"),
    by_hand("with a capability more", Q, {"cap_add": ["NET_ADMIN"]}, "cap_add"),
    by_hand("as root", Q, {"user": "0:0"}, "user: 0:0"),
    by_hand("with a folder of the host", Q, {"volumes": ["/etc:/host-etc:ro"]}, "volumes./host-etc|/etc:ro"),
    by_hand("with a writable root file system", Q, {"read_only": False}, "read_only"),
    variable("a variable more", {"MINE": "1"}, "MINE"),
    variable("another value of a variable", {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}, "CUDA_DEVICE_ORDER"),
    variable("another value of its image's", {"PYTHONUNBUFFERED": ""}, "PYTHONUNBUFFERED"),
    by_hand("in the host's process space", O, {"pid": "host"}, "pid"),
    by_hand("in the host's IPC space", O, {"ipc": "host"}, "ipc"),
    by_hand("with a device of the host", O, {"devices": ["/dev/null:/dev/mine"]}, "devices"),
    by_hand("with names of its own", O, {"extra_hosts": ["github.com:192.0.2.1"]}, "extra_hosts"),
    by_hand("with other name servers", O, {"dns": ["192.0.2.1"]}, "dns"),
    by_hand("with a kernel setting", O, {"sysctls": {"net.ipv4.ip_forward": "1"}}, "sysctls"),
    by_hand("with another program", O, {"entrypoint": ["sleep", "3600"]}, "entrypoint", True),
    by_hand("with another command than its image's", O, {"command": ["sleep", "3600"]}, "command"),
    by_hand("without its health check", O, {"healthcheck": {"disable": True}}, "healthcheck"),
    by_hand("with another command", Q, {"command": ["sleep", "3600"]}, "command"),
    by_hand("in another folder", Q, {"working_dir": "/"}, "working_dir"),
    by_hand("with another signal to stop", Q, {"stop_signal": "SIGKILL"}, "stop_signal"),
    by_hand("with another log", Q, {"logging": {"driver": "none"}}, "logging"),
    by_hand("with another group", Q, {"group_add": ["0"]}, "group_add"),
    by_hand("unconfined", Q, {"security_opt": ["seccomp=unconfined"]}, "security_opt"),
    Damage(
        "another token in its environment",
        _OTHER_TOKEN,
        (Seen("stacks", O, "recreate", "another value of ORCHESTRATOR_TOKEN"),),
        (O, "needs audit"),
    ),
    Damage("paused", f"docker pause {Q}", (Seen("stacks", Q, "unpause", "it is paused"),), (Q, "dockerd")),
    container("stopped", Q, f"docker stop -t 20 {Q}", "it is exited"),
    container("killed", O, f"docker kill {O}", "it is exited"),
    container(
        "its folder made anew under it",
        Q,
        f"cp -a {DATA}/outputs/{Q} /root/o && rm -r {DATA}/outputs/{Q} && mv /root/o {DATA}/outputs/{Q}",
        f"{DATA}/outputs/{Q} was made anew after it started",
    ),
    Damage(
        "its folder removed under it",
        f"rm -r {DATA}/outputs/{Q}",
        (
            Seen("stacks", f"{DATA}/outputs/{Q}", "create", "does not exist"),
            Seen("stacks", Q, "recreate", f"{DATA}/outputs/{Q} was removed after it started"),
        ),
        (Q, f"tree:{DATA}/outputs/{Q}", f"folder:{DATA}/outputs/{Q}"),
    ),
    container("removed", Q, f"docker rm -f {Q}", "no container", "create"),
    replace(container("renamed", O, f"docker rename {O} mine", "renamed to mine"), goes=("mine",)),
    container(
        "made and never started",
        O,
        f"docker rm -f {O} && docker compose -p {O} -f {_COMPOSE_O} --env-file {_ENV_O} create >/dev/null 2>&1",
        "never started",
    ),
    replace(
        container(
            "a second container of its label",
            O,
            f"docker create --name mine-too --label gpuhost.service={O} {_ANY_IMAGE} sleep 1",
            "another container, mine-too",
        ),
        goes=("mine-too",),
    ),
    container(
        "in another project",
        Q,
        f"docker rm -f {Q} && docker compose -p mine -f {_COMPOSE_Q} --env-file {_ENV_Q} up -d --no-deps 2>/dev/null",
        "moves from stack mine",
    ),
    by_hand("its label unreadable", Q, {"labels": {"gpuhost.spec": "{"}}, "cannot be read from its label", True),
    Damage(
        "a container of a service that is gone",
        f"docker create --name old --label gpuhost.service=old {_ANY_IMAGE} sleep 1",
        (Seen("stacks", "old", "remove", "not among the enabled services"),),
        ("orphan",),
    ),
    Damage(
        "a container made from a copy of one: its maker's own",
        f"docker commit {O} mine:copy >/dev/null && docker run -d --name mine-copy mine:copy sleep 3600 >/dev/null",
        (),
        ("one-off", O, "dockerd"),
        undo="docker rm -f mine-copy && docker rmi mine:copy",
    ),
    Damage(
        "a container of docker compose run: its maker's own",
        f"{_RUN} >/dev/null 2>&1",
        (),
        ("one-off", O, "dockerd"),
        undo="docker rm -f mine-once",
    ),
    container("its GPUs denied by the kernel", Q, DENY_GPUS, "the kernel denies it the GPUs"),
]

_DETACH = f"docker network disconnect -f {O} {O}; docker network rm {O}"
_RULES = f"{TOOLS}/firewall.nft"
_LOAD = ("layout", "gpuhost", "load")
_NETWORKS = [
    Damage(
        "the network gone",
        _DETACH,
        (Seen("layout", O, "create", "no such network"), Seen("stacks", O, "recreate", "networks")),
        (O, "network"),
    ),
    shipped("the packet filter's rules edited", _RULES, "echo '# mine' >> {}", "content differs"),
    shipped("the packet filter's rules open to all", _RULES, "chmod 666 {}", "mode is 666"),
    shipped("the packet filter's rules gone", _RULES, "rm {}", "does not exist", action="create"),
    Damage(
        "the packet filter's rules not loaded",
        "nft delete table inet gpuhost",
        (Seen("layout", "gpuhost", "load", "not loaded"),),
        (f"file:{_RULES}",),
    ),
    Damage(
        "a rule of the packet filter's gone",
        "nft flush table inet gpuhost",
        (Seen("layout", "gpuhost", "load", "not what .*firewall.nft says"),),
        (f"file:{_RULES}",),
    ),
    Damage(
        "the packet filter not started at boot",
        "systemctl disable gpuhost-firewall.service",
        (Seen("layout", "gpuhost-firewall.service", "enable", "not run at boot"),),
        ("unit:firewall",),
    ),
]
_NETWORKS = [
    replace(each, also=(*each.also, _LOAD)) if each.name.startswith("the packet") else each for each in _NETWORKS
]

_TAG = "$(docker image ls --filter label=gpuhost.image={} --format '{{{{.Repository}}}}:{{{{.Tag}}}}' | grep ^gpuhost/)"
_TAG_O, _TAG_Q = _TAG.format(O), _TAG.format("comfyui")
_IMAGES = [
    Damage(
        "an image without its tag",
        f"docker rmi -f {_TAG_Q}",
        (Seen("images", "gpuhost/comfyui:*", "build", "not on the host"),),
        ("image:comfyui",),
    ),
    Damage(
        "an image's tag on another one",
        f"docker tag {_TAG_Q} {_TAG_O}",
        (Seen("images", "gpuhost/orchestrator:*", "build", "."),),
        ("image:orchestrator", "image:comfyui"),
    ),
    Damage(
        "an image with other labels",
        f"t={_TAG_Q}; printf 'FROM %s\\nLABEL gpuhost.spec=mine\\n' $t | docker build -q -t $t - >/dev/null",
        (Seen("images", "gpuhost/comfyui:*", "build", "label is not ours|."),),
        ("image:comfyui",),
    ),
]


def install(name: str, shell: str, action: str, words: str) -> Damage:
    """Something done to the installed tree; what it was is kept beside it when it is made anew."""
    left = (f"{DATA}/installs/*", f"{STATE}/installs/*")
    also = (("stacks", Q, "recreate"),)
    return Damage(name, shell, (Seen("installs", INSTALL, action, words),), ("install", Q), changed=left, also=also)


_TREE = f"$(echo {INSTALL})"
_SERVER = f"{_TREE}/ComfyUI/server.py"
_INSTALLS = [
    install("an install's stamp gone", f"rm {_TREE}/.gpuhost/installed.json", "install|reinstall", "."),
    install("an install's stamp unreadable", f"echo '{{' > {_TREE}/.gpuhost/installed.json", "install|reinstall", "."),
    install("a file of an install truncated", f": > {_SERVER}", "reinstall", "server.py"),
    install("a file of an install edited", f"echo '# mine' >> {_SERVER}", "reinstall", "server.py"),
    install("a file of an install gone", f"rm {_SERVER}", "reinstall", "server.py"),
    install("a file of an install touched", f"touch {_SERVER}", "record", "server.py .*touched"),
    install("an install gone", f"rm -rf {_TREE}/* {_TREE}/.gpuhost", "install|reinstall", "."),
]

_ACCOUNT = [
    Damage(
        "the account with a shell",
        "usermod -s /bin/bash genai",
        (Seen("layout", "genai", "correct", "shell is /bin/bash, not /usr/sbin/nologin"),),
        ("account",),
        changed=("/etc/passwd-", "/etc/shadow-"),
    ),
    Damage(
        "the account in another group",
        "usermod -g nogroup genai",
        (Seen("layout", "genai", "correct", "group is 65534, not 10001"),),
        ("account",),
        changed=("/etc/passwd-", "/etc/shadow-"),
    ),
    Damage(
        "the account gone",
        "cp /etc/group /root/group; userdel genai; cp /root/group /etc/group; rm /root/group",
        (Seen("layout", "genai", "create", "no such user"),),
        ("account", "alone"),
        also=(("layout", "*", "correct"), ("stacks", "*", "correct")),  # what is now nobody's
        changed=("/etc/passwd*", "/etc/shadow*", "/etc/group*", "/etc/gshadow*", "/etc/subuid*", "/etc/subgid*"),
    ),
    Damage(
        "the account and its group gone",
        "userdel genai; groupdel genai; true",
        (Seen("layout", "genai", "create", "no such"),),
        ("account", "alone"),
        also=(("layout", "*", "correct"), ("stacks", "*", "correct")),  # what is now nobody's
        changed=("/etc/passwd*", "/etc/shadow*", "/etc/group*", "/etc/gshadow*", "/etc/subuid*", "/etc/subgid*"),
    ),
]

# In the order in which those of a group are done: what compose makes by hand finds its files as they were.
DAMAGES = [
    *_CONTAINERS,
    *_NETWORKS,
    *_IMAGES,
    *_FOLDERS,
    *_MISSING,
    *_PROGRAMS,
    *_VENV,
    *_APT,
    *_PACKAGES,
    *_ENGINE,
    *_UNIT,
    *_BROKER,
    *_CDI,
    *_PROOF,
    *_MODELS,
    *_FILES,
    *_INSTALLS,
    *_ACCOUNT,
]

_LOOK = f"docker network inspect {O} --format '{{{{range $k, $v := .Options}}}} --opt {{{{$k}}}}={{{{$v}}}}{{{{end}}}}'"
# In the order in which those of a round are done; they are undone in the other one.
REFUSED = [
    Refused(
        "daemon.json is not JSON",
        f"cp -p {DAEMON_JSON} /root/d; echo '{{' > {DAEMON_JSON}",
        "daemon.json is not JSON",
        f"cp -p /root/d {DAEMON_JSON}; rm /root/d",
    ),
    Refused(
        "the account with another uid",
        "sed -i s/^genai:x:10001:/genai:x:10009:/ /etc/passwd",
        "user `genai` exists with the uid 10009, not 10001",
        "sed -i s/^genai:x:10009:/genai:x:10001:/ /etc/passwd",
    ),
    Refused(
        "the account's group with another gid",
        "sed -i s/^genai:x:10001:/genai:x:10008:/ /etc/group",
        "group `genai` exists with the gid 10008, not 10001",
        "sed -i s/^genai:x:10008:/genai:x:10001:/ /etc/group",
    ),
    Refused(
        "our repository declared by somebody, too, in a file with another",
        f"printf 'deb %s\\n' 'https://download.docker.com/linux/debian trixie stable' 'file:/srv/mine ./' "
        f"> {SOURCES}/docker.list",
        "docker.list declares https://download.docker.com/linux/debian with a key of its own, and others besides",
        f"rm {SOURCES}/docker.list",
    ),
    Refused(
        "the network made by hand without a way out",
        f"{_LOOK} > /root/options; {_DETACH}; docker network create --internal --subnet 172.20.1.0/24 {O} >/dev/null",
        "a Docker network `orchestrator` exists that was not made as gpuhost makes it",
        f"docker network rm {O}; docker network create --label gpuhost.network={O} --subnet 172.20.1.0/24 "
        f"$(cat /root/options) {O} >/dev/null; docker network connect {O} {O}; rm /root/options",
    ),
    Refused(
        "a foreign container with the name of a service",
        f"docker rename {O} kept && docker create --name {O} mine:1 true >/dev/null",
        "a container that is not gpuhost's has the name of the service `orchestrator`",
        f"docker rm {O} && docker rename kept {O}",
    ),
    Refused(
        "a foreign program at a service's port",
        f"docker stop -t 20 {Q} && systemd-run --quiet --unit=taker systemd-socket-activate -l 127.0.0.1:8188 /bin/cat "
        "&& until ss -ltnH 'sport = 8188' | grep -q .; do sleep 0.1; done",
        "port 8188 of `comfyui-qwen` is already in use by systemd-socket",
        f"systemctl stop taker; docker start {Q}",
    ),
    Refused(
        "a driver that does not work",
        "touch /usr/lib/nvidia-standin/broken",
        "NVIDIA's kernel module is not loaded",
        "rm /usr/lib/nvidia-standin/broken",
        "driver",
    ),
    Refused(
        "dockerd stopped",
        "systemctl stop docker.socket docker.service",
        "Docker has containers on this host, and dockerd does not run",
        "systemctl start docker.socket docker.service",
        "dockerd",
    ),
    Refused(
        "the engine's package gone",
        f"{APT} remove docker-ce",
        "Docker has containers on this host, and dockerd is not installed",
        f"{APT} --no-download install docker-ce || {APT} install docker-ce",
        "engine",
    ),
    Refused(
        "a file in a folder's place",
        f"mv {DATA}/installs {DATA}/kept && echo mine > {DATA}/installs",
        f"a regular file is in the place of the folder {DATA}/installs",
        f"rm {DATA}/installs && mv {DATA}/kept {DATA}/installs",
        "folder",
    ),
    Refused(
        "a folder in a program's place",
        f"mv {PROGRAMS}/hostside/wire.py /root/ && mkdir {PROGRAMS}/hostside/wire.py; "
        "systemctl stop gpuhost-broker.service",  # which ends once it sees that
        f"a folder is in the place of the file {PROGRAMS}/hostside/wire.py",
        f"rmdir {PROGRAMS}/hostside/wire.py && mv /root/wire.py {PROGRAMS}/hostside/",
        "file",
    ),
    Refused(
        "a folder in a compose file's place",
        f"mv {_COMPOSE_O} /root/c && mkdir {_COMPOSE_O}",
        f"a folder is in the place of the file {_COMPOSE_O}",
        f"rmdir {_COMPOSE_O} && mv /root/c {_COMPOSE_O}",
        "compose",
    ),
    Refused(
        "a link where the account may put one",
        f"mv {DATA}/models/vae {DATA}/models/kept && ln -s /etc {DATA}/models/vae",
        f"a symbolic link is in the place of the folder {DATA}/models/vae",
        f"rm {DATA}/models/vae && mv {DATA}/models/kept {DATA}/models/vae",
        "link",
    ),
]


# -- groups -----------------------------------------------------------------------------------------------------------


def apart(one: Damage, other: Damage) -> bool:
    """True when no lane of one is a lane of the other's, or lies in it."""
    return not any(_overlap(a, b) for a in one.lanes for b in other.lanes)


_SHARED = {"slow", "breaks audit", "needs audit"}


def _overlap(a: str, b: str) -> bool:
    if a in _SHARED and b in _SHARED:  # what an env file or a container holds is seen by a program that is whole
        return {a, b} == {"breaks audit", "needs audit"}
    return a == b or "alone" in (a, b) or _within(a, b) or _within(b, a)


def _within(inner: str, outer: str) -> bool:
    """`orchestrator.cpus` lies in `orchestrator`, `file:/a/b` and `folder:/a/b` in `tree:/a`."""
    kind, _, top = outer.partition(":")
    path = inner.partition(":")[2]
    return inner.startswith(f"{outer}.") or (
        kind == "tree" and bool(path) and (path == top or path.startswith(f"{top}/"))
    )


def grouped(damages: Iterable[Damage], most: int = 40) -> list[list[Damage]]:
    """Each in the first group of fewer than `most` in which it is apart from all others; the order stays."""
    groups: list[list[Damage]] = []
    for damage in damages:
        fitting = (group for group in groups if len(group) < most and all(apart(damage, other) for other in group))
        group = next(fitting, None)
        if group is None:
            groups.append(group := [])
        group.append(damage)
    return groups


def sample(seed: int) -> list[Damage]:
    """A group by chance, with at most one damage whose repair takes long; most others cost no time."""
    chosen: list[Damage] = []
    for damage in random.Random(seed).sample(DAMAGES, len(DAMAGES)):
        slow = "slow" in damage.lanes and any("slow" in other.lanes for other in chosen)
        if not slow and "alone" not in damage.lanes and all(apart(damage, other) for other in chosen):
            chosen.append(damage)
    return sorted(chosen, key=DAMAGES.index)


# -- what must be seen ------------------------------------------------------------------------------------------------


def fits(key: Key, change: Mapping[str, Any]) -> bool:
    """True when a change of a plan's document has this key; an action may be one of several, with `|` between."""
    stage, name, action = key
    resource = change["resource"]["name"]
    return (
        change["stage"] == stage
        and (resource == name or fnmatchcase(resource, name))
        and change["action"] in action.split("|")
    )


def said(change: Mapping[str, Any]) -> str:
    """The reason of a change, and its differences one a line."""
    lines = [f"{each['field']}: {each['before']} -> {each['after']}" for each in change["diff"]]
    return "\n".join([change["reason"], *lines])


def breaking(damages: Sequence[Damage]) -> Iterator[str]:
    """The commands that do all of them, in order: what is made anew by hand first."""
    for service in (O, Q):
        merged = _merged(damage.compose[service] for damage in damages if service in damage.compose)
        if merged:
            override = json.dumps({"services": {service: merged}})
            stack = f"{STACKS}/{service}"
            yield (
                f"cat > /root/over.yml <<'END'\n{override}\nEND\n"
                f"docker compose -p {service} -f {stack}/docker-compose-{service}.yml -f /root/over.yml "
                f"--env-file {stack}/.env.docker up -d --no-deps 2>/dev/null; rm /root/over.yml"
            )
    for damage in damages:
        if damage.shell:
            yield damage.shell


def _merged(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for part in parts:
        merged |= {
            key: {**merged.get(key, {}), **value} if isinstance(value, dict) else value for key, value in part.items()
        }
    return merged
