"""`docker`, `systemctl` and `nft` of a small host: each does what the product asks of it, in the words of the real one,
and refuses what the real one refuses. What they hold is a JSON file, and systemd's links.

All are one process, which answers their calls (CLIENT): a start of Python for each would take most of the time.

    python -m tests.small_host.programs FOLDER
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

Doc = dict[str, Any]
UNITS = Path("/etc/systemd/system")
SECOND_NS = 10**9
# What stands in a program's place: the call goes to one pipe, the exit code comes back by another.
CLIENT = r"""#!/bin/sh
at=@FOLDER@/calls; me=$at/$$
mkfifo $me
{ printf '%s\037' "$me" "$(readlink /proc/self/ns/net)" "${0##*/}" "$@"; echo; } > $me.call; cat $me.call > $at/all
read -r code < $me; cat $me.out; cat $me.err >&2; rm $me $me.*; exit "$code"
"""
DIES = "dies"  # a file that says at which step compose is killed
IMAGE = {"id": "sha256:1", "user": "", "command": ["serve"], "entrypoint": None, "working_dir": "/"}
IMAGE |= {"stop_signal": None, "health": None}
# What Docker says of whatever nobody asked for.
NOTHING: Doc = {
    "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
    "LogConfig": {"Type": "json-file", "Config": {}},
    "IpcMode": "private",
    "MaskedPaths": ["/proc/kcore"],
    "ShmSize": 64 * 2**20,
}


class Failed(Exception):
    """`str()` is what the real program would say."""


class Killed(Exception):
    """In the middle of what it does."""


class State:
    """What the programs hold. `namespace`: of the network in which one was called."""

    def __init__(self, folder: Path, namespace: str) -> None:
        self.file, self.namespace = folder / "state.json", namespace
        self.held: Doc = json.loads(self.file.read_text())

    def save(self) -> None:
        """In one step, as each of the real ones keeps its own."""
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps(self.held))
        new.rename(self.file)

    @property
    def containers(self) -> dict[str, Doc]:
        """id -> what `docker inspect` says."""
        containers: dict[str, Doc] = self.held["containers"]
        return containers

    def container(self, name: str) -> Doc:
        """By its id or name."""
        for id, doc in self.containers.items():
            if name in (id, doc["name"].removeprefix("/")):
                return doc
        raise Failed(f"Error response from daemon: No such container: {name}")


# -- docker ------------------------------------------------------------------------------------------------------------


def docker(state: State, words: list[str]) -> None:
    match words:
        case ["version", *_]:
            print("28.3.3")
        case ["info", *_]:
            pass
        case ["ps", *_]:
            print(*[id for id, doc in state.containers.items() if "gpuhost.service" in doc["labels"]], sep="\n")
        case ["inspect", "--format", form, *names]:
            assert form.startswith("container"), form
            for name in names:
                doc = {
                    **state.container(name),
                    "networks": [*state.container(name)["networks"], None],
                    "has_read": None,
                }
                print(f"container\t{json.dumps(doc)}\nmade_of\t{doc['image_id']}")
        case ["inspect", *names]:
            print(json.dumps([state.container(name) for name in names]))
        case ["image", "inspect", *_]:
            print(json.dumps(IMAGE))
        case ["network", what, *rest]:
            _network(state, what, rest)
        case ["compose", *rest]:
            _compose(state, rest)
        case ["stop" | "kill", *rest]:
            _end(state.container(rest[-1]))
        case ["start", name]:
            _start(state, state.container(name))
        case ["pause", name]:
            _expect(state.container(name), "running")["state"] = "paused"
        case ["unpause", name]:
            _expect(state.container(name), "paused")["state"] = "running"
        case ["rm", "-f", name]:
            del state.containers[state.container(name)["id"]]
        case ["rename", name, new]:
            _free(state, new)
            state.container(name)["name"] = f"/{new}"
        case ["update", "--memory", size, name]:
            host = state.container(name)["host"]
            host["Memory"] = host["MemorySwap"] = _bytes(size)
        case ["update", "--restart", policy, name]:
            state.container(name)["host"]["RestartPolicy"] = {"Name": policy, "MaximumRetryCount": 0}
        case ["create", "--name", name, "--label", label, image]:
            key, _, text = label.partition("=")
            _free(state, name)
            _made(state, name, image, {key: text}, {}, [])
        case _:
            raise AssertionError(f"docker {words}")
    state.save()


def _network(state: State, what: str, words: list[str]) -> None:
    networks: dict[str, Doc] = state.held["networks"]
    match what, words:
        case "ls", _:
            print(*networks, sep="\n")
        case "inspect", ["--format", _, *names]:
            for name in names:
                print(json.dumps({"name": name, "subnets": networks[name]["subnets"]}))
        case "create", [*flags, name]:
            if name in networks:
                raise Failed(f"Error response from daemon: network with name {name} already exists")
            subnets = [flag.partition("=")[2] for flag in flags if flag.startswith("--subnet")]
            if any(subnet in other["subnets"] for other in networks.values() for subnet in subnets):
                raise Failed("Error response from daemon: Pool overlaps with other one on this address space")
            networks[name] = {"subnets": subnets}
        case "connect", [name, container]:
            state.container(container)["networks"].append(name)
        case "disconnect", [*_, name, container]:
            state.container(container)["networks"].remove(name)
        case "rm", [name]:
            if any(name in doc["networks"] for doc in state.containers.values() if doc["state"] == "running"):
                raise Failed(f"Error response from daemon: network {name} has active endpoints")
            del networks[name]
        case _:
            raise AssertionError(f"docker network {what} {words}")


def _compose(state: State, words: list[str]) -> None:
    options = dict(zip(words[::2], words[1::2], strict=False))
    end = max(words.index(each) for each in ("-p", "--project-directory", "-f", "--env-file") if each in words) + 2
    project, rest = options["-p"], words[end:]
    parsed = yaml.safe_load(Path(options["-f"]).read_text())
    variables = _variables(Path(options["--env-file"]).read_text())
    services: Doc = _filled(parsed["services"], variables)
    if rest == ["config", "-q"]:
        return
    service = rest[-1]
    assert rest[0] == "up" and "--force-recreate" in rest and "--no-deps" in rest, rest
    _up(state, project, service, services[service], start="-d" in rest)


def _up(state: State, project: str, service: str, wanted: Doc, start: bool) -> None:
    """As compose goes about it: the new one is made beside the old one under another name, which a kill leaves."""
    name = wanted["container_name"]
    mine = {"com.docker.compose.project": project, "com.docker.compose.service": service}
    old = [doc for doc in state.containers.values() if mine.items() <= doc["labels"].items() and not doc.get("one_off")]
    for network in wanted["networks"]:
        if network not in state.held["networks"]:
            raise Failed(f"network {network} declared as external, but could not be found")
    for volume in wanted.get("volumes", []):
        if not Path(volume["source"]).exists():
            raise Failed(f"bind source path does not exist: {volume['source']}")
    _step(state, 0)
    made_as = f"{uuid.uuid4().hex[:12]}_{name}" if old else name
    _free(state, made_as)
    for each in old:
        if each["state"] == "running":
            _end(each)
    made = _made(state, made_as, wanted["image"], {**wanted["labels"], **mine}, wanted, list(wanted["networks"]))
    _step(state, 1)
    for each in old:
        del state.containers[each["id"]]
    _step(state, 2)
    if old:
        _free(state, name)
        made["name"] = f"/{name}"
    _step(state, 3)
    if start:
        _start(state, made)


def _step(state: State, number: int) -> None:
    dies = state.file.with_name(DIES)
    if dies.exists() and dies.read_text().strip() == str(number):
        state.save()
        raise Killed


def _made(state: State, name: str, image: str, labels: Doc, wanted: Doc, networks: list[str]) -> Doc:
    id = uuid.uuid4().hex * 2
    doc: Doc = {
        "id": id,
        "name": f"/{name}",
        "labels": labels,
        "image": image,
        "image_id": IMAGE["id"],
        "state": "created",
        "started": "0001-01-01T00:00:00Z",
        "ended": "0001-01-01T00:00:00Z",
        "restarts": 0,
        "exit_code": 0,
        "has_read": {},
        "health_now": None,
        **{key: IMAGE[key] for key in ("user", "command", "entrypoint", "working_dir", "stop_signal")},
        **{key: wanted[key] for key in ("user", "command", "working_dir", "stop_signal") if key in wanted},
        "health": _health(wanted.get("healthcheck")),
        "host": {**NOTHING, **_host(wanted)},
        "mounts": [_mount(each) for each in wanted.get("volumes", [])],
        "networks": networks,
    }
    state.containers[id] = doc
    return doc


def _host(wanted: Doc) -> Doc:
    """The settings of a compose service as Docker keeps them."""
    if not wanted:
        return {}
    memory = _bytes(wanted["mem_limit"])
    devices = wanted.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", [])
    ulimits = wanted["ulimits"].items()
    return {
        "RestartPolicy": {"Name": str(wanted["restart"]), "MaximumRetryCount": 0},
        "Memory": memory,
        "MemorySwap": _bytes(wanted["memswap_limit"]),
        "NanoCpus": int(float(wanted["cpus"]) * SECOND_NS),
        "PidsLimit": wanted["pids_limit"],
        "ShmSize": _bytes(wanted.get("shm_size", "64m")),
        "Ulimits": [{"Name": name, "Soft": limit, "Hard": limit} for name, limit in ulimits],
        "ReadonlyRootfs": wanted.get("read_only", False),
        "Init": wanted.get("init"),
        "CapDrop": wanted["cap_drop"],
        "SecurityOpt": wanted["security_opt"],
        "Dns": wanted.get("dns", []),
        "Tmpfs": dict(map(_tmpfs, wanted.get("tmpfs", []))),
        "LogConfig": {"Type": wanted["logging"]["driver"], "Config": wanted["logging"]["options"]},
        "NetworkMode": wanted["networks"][0],
        "PortBindings": dict(map(_port, wanted["ports"])),
        "DeviceRequests": [{"Driver": each["driver"], "DeviceIDs": each["device_ids"]} for each in devices],
    }


def _port(text: str) -> tuple[str, list[Doc]]:
    ip, port, inside = text.split(":")
    return f"{inside}/tcp", [{"HostIp": ip, "HostPort": port}]


def _tmpfs(text: str) -> tuple[str, str]:
    path, _, options = text.partition(":")
    return path, options


def _mount(volume: Doc) -> Doc:
    return {
        "Type": "bind",
        "Source": volume["source"],
        "Destination": volume["target"],
        "RW": not volume.get("read_only", False),
    }


def _health(check: Doc | None) -> Doc | None:
    names = {"interval": "Interval", "timeout": "Timeout", "start_period": "StartPeriod"}
    names |= {"start_interval": "StartInterval"}
    if check is None:
        return None
    times = {key: int(check[name].removesuffix("s")) * SECOND_NS for name, key in names.items()}
    return {"Test": check["test"], "Retries": check["retries"], **times}


def _start(state: State, doc: Doc) -> None:
    for other in state.containers.values():
        if other is not doc and other["state"] in ("running", "paused") and (taken := _ports(other) & _ports(doc)):
            raise Failed(f"Bind for 127.0.0.1:{taken.pop()} failed: port is already allocated")
    doc["state"], doc["started"] = "running", _now()
    # What its process reads when it starts, and not again.
    given = [Path(each["Source"]) for each in doc["mounts"] if re.search("/(config|secrets)/", each["Source"])]
    files = [file for path in given for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    doc["has_read"] = {str(file): file.read_text() for file in files}


def _ports(doc: Doc) -> set[str]:
    bindings = doc["host"].get("PortBindings", {}).values()
    return {each["HostPort"] for published in bindings for each in published}


def _end(doc: Doc) -> None:
    if doc["state"] in ("running", "paused"):
        doc["state"], doc["ended"] = "exited", _now()
        doc["has_read"] = {}


def _expect(doc: Doc, state: str) -> Doc:
    if doc["state"] != state:
        raise Failed(f"Error response from daemon: Container {doc['id']} is not {state}")
    return doc


def _free(state: State, name: str) -> None:
    for doc in state.containers.values():
        if doc["name"] == f"/{name}":
            raise Failed(f'Conflict. The container name "/{name}" is already in use by container "{doc["id"]}"')


def _now() -> str:
    seconds, rest = divmod(time.time_ns(), SECOND_NS)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09}Z"


def _bytes(size: str) -> int:
    return int(size.rstrip("kmgb")) * {"k": 2**10, "m": 2**20, "g": 2**30}[size.rstrip("b")[-1]]


def _variables(text: str) -> dict[str, str]:
    rows = (line.partition("=") for line in text.splitlines() if line and not line.startswith("#"))
    return {key: re.sub(r"\\(.)", r"\1", value.removeprefix('"').removesuffix('"')) for key, _, value in rows}


def _filled(value: Any, variables: dict[str, str]) -> Any:
    if isinstance(value, str):
        return re.sub(r"\$(\$|\{(\w+)\})", lambda m: "$" if m[1] == "$" else variables.get(m[2], ""), value)
    if isinstance(value, dict):
        return {key: _filled(each, variables) for key, each in value.items()}
    return [_filled(each, variables) for each in value] if isinstance(value, list) else value


# -- systemctl ---------------------------------------------------------------------------------------------------------


def systemctl(state: State, words: list[str]) -> None:
    names = [word for word in words[1:] if not word.startswith("-")]
    units: dict[str, Doc] = state.held["units"]
    match words[0]:
        case "is-active":
            if names == ["docker"] or units.get(names[0], {}).get("active"):
                return
            raise Failed("")
        case "is-enabled":
            print("enabled" if names == ["docker"] or _links(names[0]) else "disabled")
            if names != ["docker"] and not _links(names[0]):
                raise Failed("")
        case "show":
            for name in names:
                _show(name, units, words)
        case "daemon-reload":
            for path in UNITS.glob("gpuhost-*"):
                units.setdefault(path.name, {})["read"] = _text(path)
            for name in [name for name in units if not (UNITS / name).exists()]:
                units[name]["read"] = None
        case "enable":
            for name in names:
                for wanted in re.findall(r"^WantedBy=(.*)$", _text(_loaded(name, units)), re.MULTILINE):
                    for target in wanted.split():
                        folder = UNITS / f"{target}.wants"
                        folder.mkdir(exist_ok=True)
                        (folder / name).unlink(missing_ok=True)
                        (folder / name).symlink_to(UNITS / name)
        case "disable":
            for link in _links(names[0]):
                link.unlink()
        case "start" | "restart":
            for name in names:
                units.setdefault(name, {})["read"] = _text(_loaded(name, units))
                units[name]["active"] = True
                for path in re.findall(r"^ListenStream=(.+)$", units[name]["read"], re.MULTILINE):
                    Path(path).parent.mkdir(parents=True, exist_ok=True)
                if name == "gpuhost-firewall.service":
                    [rules] = re.findall(r"^ExecStart=\S*nft -f (\S+)$", units[name]["read"], re.MULTILINE)
                    _load(state, rules)
        case "stop":
            for name in names:
                units.setdefault(name, {})["active"] = False
        case _:
            raise AssertionError(f"systemctl {words}")
    state.save()


def _loaded(name: str, units: dict[str, Doc]) -> Path:
    path = UNITS / name
    if not path.exists():
        raise Failed(f"Failed to start {name}: Unit {name} not found.")
    return path


def _text(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def _show(name: str, units: dict[str, Doc], words: Sequence[str]) -> None:
    unit, path = units.get(name, {}), UNITS / name
    stale = path.exists() and unit.get("read") is not None and unit["read"] != _text(path)
    if "--value" in words:
        print("yes" if stale else "no")
        return
    print(f"UnitFileState={'enabled' if _links(name) else 'disabled' if path.exists() else ''}")
    print(f"ActiveState={'active' if unit.get('active') else 'inactive'}")
    print(f"NeedDaemonReload={'yes' if stale else 'no'}")


def _links(name: str) -> list[Path]:
    return [path for path in UNITS.glob(f"*.wants/{name}") if path.is_symlink()]


# -- nft ---------------------------------------------------------------------------------------------------------------


def nft(state: State, words: list[str]) -> None:
    tables: dict[str, str] = state.held["tables"]
    match words:
        case ["-f", file]:
            _load(state, file)
        case ["-s", "list", "table", "inet", "gpuhost"]:
            if state.namespace not in tables:
                raise Failed("Error: No such file or directory")
            print(tables[state.namespace])
        case ["delete", "table", "inet", "gpuhost"]:
            tables.pop(state.namespace, None)
        case ["flush", "table", "inet", "gpuhost"]:
            tables[state.namespace] = "table inet gpuhost {}"
        case _:
            raise AssertionError(f"nft {words}")
    state.save()


def _load(state: State, file: str) -> None:
    state.held["tables"][state.namespace] = Path(file).read_text()


PROGRAMS: dict[str, Callable[[State, list[str]], None]] = {"docker": docker, "systemctl": systemctl, "nft": nft}


def serve(folder: Path) -> None:
    """Answer calls, one after the other, for ever."""
    (folder / "calls").mkdir()
    os.mkfifo(folder / "calls/all")
    # For writing, too: where each caller is the last one for a moment, one that comes as the pipe is closed is lost.
    with os.fdopen(os.open(folder / "calls/all", os.O_RDWR)) as calls:
        for call in calls:
            _answer(folder, *call.rstrip("\n").removesuffix("\037").split("\037"))


def _answer(folder: Path, me: str, namespace: str, program: str, *words: str) -> None:
    code, said, wrong = 0, io.StringIO(), ""
    state = State(folder, namespace)
    try:
        with redirect_stdout(said):
            PROGRAMS[program](state, list(words))
    except Failed as why:
        code, wrong = 1, f"{why}\n"
    except Killed:
        code = 137
    except Exception:
        code, wrong = 99, traceback.format_exc()
    Path(f"{me}.out").write_text(said.getvalue())
    Path(f"{me}.err").write_text(wrong)
    with Path(me).open("w") as answer:
        answer.write(f"{code}\n")


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
