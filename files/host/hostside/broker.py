"""`python -m hostside.broker`: what a service may ask of Docker, and nothing else. Standard library only.

Docker's socket is root on the host, so no container gets it. A service with `controls_services` gets the socket of this
program instead. A connection is one question, a line of at most 128 bytes, and one answer, a line of JSON (`Answer`):

    list           every container of ours, as `ServiceState`: no environment, command, mount or label
    start NAME     starts the one container of the service NAME, when its GPUs have room for it beside what runs there,
                   and nobody but root can turn what it is given of the host elsewhere
    stop NAME      stops it

No text of the client's reaches a path of Docker's API: NAME is looked for among the labels, and what is started or
stopped is the id that Docker names, after its labels are read. (They are fixed when a container is made.) Who may
connect is decided by the owner and mode of the socket, which systemd makes (gpuhost-broker.socket).
"""

from __future__ import annotations

import http.client
import json
import re
import select
import socket
import sys
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from hostside import binds, labels, vram
from hostside.wire import printable, to_json

DOCKER_SOCKET = "/run/docker.sock"
LISTENING = 3  # the first descriptor that systemd hands over: sd_listen_fds(3)
CLIENTS = 8  # at a time; the others wait in the socket's queue
CLIENT_S = 2.0  # for a client to ask, and to take its answer
READ_S = 3.0  # for each of Docker's answers; the client waits no longer than its own health check
ACT_S = 120.0  # a container may take its `stop_timeout_s` to end
QUESTION_BYTES = 128
ANSWER_BYTES = 4 * 2**20  # of Docker's
CAUSE_CHARS = 300

_QUESTION = re.compile(rb"(list)\n|(start|stop) ([a-z][a-z0-9_.-]{0,62})\n")
_HOLDS_MEMORY = ("running", "restarting", "paused")
_NEVER = "0001-01-01T00:00:00Z"  # how Docker writes "not yet"


# -- what a client is told ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PublishedPort:
    """`host_ip` 0.0.0.0 or `::` means: open to the network."""

    host_ip: str
    host_port: int
    container_port: int
    protocol: str


@dataclass(frozen=True)
class ServiceState:
    """One container of ours: all that is told of it."""

    name: str
    stack: str | None
    state: str
    health: str | None
    started_at: str | None
    restart_count: int
    oom_killed: bool
    image: str
    ports: list[PublishedPort]
    models: list[str]


@dataclass(frozen=True)
class Answer:
    """The services that were asked for or acted on; or one sentence: why the question is refused, or that Docker does
    not answer."""

    services: list[ServiceState] = field(default_factory=list)
    refused: str | None = None
    unavailable: str | None = None


def state(container: Mapping[str, Any]) -> ServiceState:
    """One container's `docker inspect`, which carries our label, as a client may see it."""
    attached, seen = _labels(container), container["State"]
    started_at = seen.get("StartedAt")
    return ServiceState(
        name=attached[labels.SERVICE],
        stack=attached.get(labels.STACK),
        state=seen["Status"],
        health=(seen.get("Health") or {}).get("Status"),
        started_at=None if started_at in (None, "", _NEVER) else started_at,
        restart_count=container.get("RestartCount", 0),
        oom_killed=bool(seen.get("OOMKilled")),
        image=container["Config"]["Image"],
        ports=_ports(container.get("NetworkSettings", {}).get("Ports") or {}),
        models=[name for part in attached.get(labels.MODELS, "").split(",") if (name := part.strip())],
    )


def _labels(container: Mapping[str, Any]) -> Mapping[str, str]:
    return container["Config"].get("Labels") or {}


def _is_copy(container: Mapping[str, Any]) -> bool:
    attached, name = _labels(container), container["Name"].removeprefix("/")
    return labels.is_copy(name, attached[labels.SERVICE], container["Config"]["Image"], attached.get(labels.SPEC))


def _ports(bindings: Mapping[str, list[Mapping[str, str]] | None]) -> list[PublishedPort]:
    ports = []
    for inside, published in bindings.items():
        number, _, protocol = inside.partition("/")
        for each in published or []:
            ports.append(PublishedPort(each["HostIp"], int(each["HostPort"]), int(number), protocol))
    return sorted(ports, key=lambda port: (port.host_port, port.host_ip))


# -- Docker ------------------------------------------------------------------------------------------------------------


class DockerUnavailable(Exception):
    """Docker does not answer, or not with what it should. `str()` is one sentence."""


class Refused(Exception):
    """The question is not one of ours, or Docker does not do it. `str()` is one sentence."""


class _Connection(http.client.HTTPConnection):
    """To a unix socket."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("docker", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Docker:
    """The four calls that are made, on one socket. Paths carry no API version: every engine answers in its own."""

    def __init__(self, socket_path: str) -> None:
        self._socket_path = socket_path
        self._reading = threading.Lock()
        self.starting = threading.Lock()

    def services(self, name: str | None = None) -> list[dict[str, Any]]:
        """`docker inspect` of every container of a service, or of all. One listing at a time, however many ask."""
        label = labels.SERVICE if name is None else f"{labels.SERVICE}={name}"
        query = urlencode({"all": "1", "filters": json.dumps({"label": [label]})})
        with self._reading:
            found = [self._inspect(each["Id"]) for each in self._get(f"/containers/json?{query}")]
        ours = [each for each in found if each and labels.SERVICE in _labels(each) and not _is_copy(each)]
        return [each for each in ours if name in (None, _labels(each)[labels.SERVICE])]

    def _inspect(self, container: str) -> dict[str, Any] | None:
        """None when it was removed after it was listed."""
        status, text = self._ask("GET", f"/containers/{container}/json", READ_S)
        return None if status == 404 else self._parsed(status, text)

    def act(self, action: str, container: str) -> None:
        """Start or stop a container. Raises Refused with Docker's own words when it does not."""
        status, text = self._ask("POST", f"/containers/{container}/{action}", ACT_S)
        if status not in (204, 304):  # done; it was so already
            raise Refused(f"Docker does not {action} it: {_message(text)}")

    def _get(self, path: str) -> Any:
        return self._parsed(*self._ask("GET", path, READ_S))

    def _parsed(self, status: int, text: bytes) -> Any:
        if status != 200:
            raise DockerUnavailable(f"Docker answered {status}: {_message(text)}")
        try:
            return json.loads(text)
        except ValueError:
            raise DockerUnavailable("Docker answered with what is no JSON") from None

    def _ask(self, method: str, path: str, timeout_s: float) -> tuple[int, bytes]:
        connection = _Connection(self._socket_path, timeout_s)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            text = response.read(ANSWER_BYTES + 1)
        except TimeoutError:
            raise DockerUnavailable(f"Docker did not answer within {timeout_s:g} s") from None
        except (OSError, http.client.HTTPException) as error:
            raise DockerUnavailable(f"Docker does not answer: {error or type(error).__name__}") from None
        finally:
            connection.close()
        if len(text) > ANSWER_BYTES:
            raise DockerUnavailable(f"Docker's answer is larger than {ANSWER_BYTES >> 20} MiB")
        return response.status, text


def _message(text: bytes) -> str:
    """What an error of Docker's says."""
    try:
        return str(json.loads(text)["message"])[:CAUSE_CHARS]
    except (ValueError, KeyError, TypeError):
        return "it does not say why"


# -- one question ------------------------------------------------------------------------------------------------------


def answer(docker: Docker, question: bytes) -> Answer:
    """The answer to one question."""
    try:
        asked = _QUESTION.fullmatch(question)
        if asked is None:
            raise Refused("there are three questions: `list`, `start NAME` and `stop NAME`")
        if asked[1]:
            return Answer([state(each) for each in docker.services()])
        return Answer([_acted(docker, asked[2].decode(), asked[3].decode())])
    except Refused as error:
        return Answer(refused=str(error))
    except DockerUnavailable as error:
        return Answer(unavailable=str(error))


def _acted(docker: Docker, action: str, name: str) -> ServiceState:
    """The service's container after the action."""
    container = _only(docker, name)
    if action == "start":
        _refuse_unsafe(name, container)
        with docker.starting:  # two that have room, each without the other, come one after the other
            _has_room(container, docker.services())
            docker.act(action, container["Id"])
    else:
        docker.act(action, container["Id"])
    return state(_only(docker, name))


def _refuse_unsafe(name: str, container: Mapping[str, Any]) -> None:
    """Docker follows links in what it mounts, at every start. Where they lie is no client's business."""
    for mount in container.get("Mounts") or []:
        if mount["Type"] == "bind" and (found := binds.fault(mount["Source"])):
            print(f"{name} is not started: {printable(found[0])}", file=sys.stderr, flush=True)
            why = "others than root can turn what it is given of the host elsewhere"
            raise Refused(f"`{name}` is not started: {why}; the log of gpuhost-broker.service says where")


def _has_room(container: Mapping[str, Any], ours: Iterable[Mapping[str, Any]]) -> None:
    """Raises Refused when a service takes more of a GPU than those that run there leave. By what all have declared: how
    much is free at this moment says little of services that load a model when they are asked."""
    attached, cards = _labels(container), _cards(container)
    beside = [each for each in ours if each["Id"] != container["Id"] and each["State"]["Status"] in _HOLDS_MEMORY]
    if attached.get(labels.ALONE) and (alone := [each for each in beside if _labels(each).get(labels.ALONE)]):
        name = _labels(alone[0])[labels.SERVICE]
        raise Refused(f"with the test profile services run one at a time; stop `{name}` first")
    takes, of = _mib(attached, labels.VRAM), _mib(attached, labels.VRAM_SHARED)
    for card in cards:
        running = {
            _labels(each)[labels.SERVICE]: _mib(_labels(each), labels.VRAM) for each in beside if card in _cards(each)
        }
        taking = {name: mib for name, mib in running.items() if mib}
        if takes and (others := vram.in_the_way(takes, of, taking)):
            raise Refused(f"{vram.told(takes, of, taking)}; stop {' or '.join(f'`{each}`' for each in others)} first")


def _mib(attached: Mapping[str, str], label: str) -> int:
    text = attached.get(label, "")
    return int(text) if text.isascii() and text.isdigit() else 0


def _cards(container: Mapping[str, Any]) -> set[str]:
    """The GPUs that it asks Docker for, by the names in its request."""
    requests = (container.get("HostConfig") or {}).get("DeviceRequests") or []
    return {name for each in requests for name in each.get("DeviceIDs") or []}


def _only(docker: Docker, name: str) -> dict[str, Any]:
    """The one container of a service; two that claim its name are none."""
    found = [each for each in docker.services(name) if _labels(each).get(labels.ONE_OFF) != "True"]
    if len(found) != 1:
        raise Refused(f"{len(found)} containers are called the service `{name}`" if found else f"no service `{name}`")
    return found[0]


# -- serving -----------------------------------------------------------------------------------------------------------


def _serve_one(docker: Docker, connection: socket.socket, free: threading.Semaphore) -> None:
    try:
        with connection:
            connection.settimeout(CLIENT_S)
            # What comes first is the whole question: a client that sends it in pieces, or more, is refused.
            question = connection.recv(QUESTION_BYTES + 1)
            connection.sendall(to_json(answer(docker, question)).encode() + b"\n")
    except OSError:
        pass  # the client went, or is too slow
    finally:
        free.release()


def _own_files() -> list[Path]:
    """The files of this program."""
    modules = (module for name, module in list(sys.modules.items()) if name.partition(".")[0] == "hostside")
    return [Path(file) for file in (__file__, *(module.__file__ for module in modules)) if file]


def _marks(files: list[Path]) -> list[tuple[int, int] | None]:
    """By which a file that was replaced is known; None: it is not there."""
    return [_mark(path) for path in files]


def _mark(path: Path) -> tuple[int, int] | None:
    try:
        seen = path.stat()
    except OSError:
        return None
    return seen.st_ino, seen.st_mtime_ns


def serve(listening: socket.socket, docker: Docker) -> None:
    """Until its own program is replaced. The connection that waits then is not taken: systemd starts the new program
    for it, so that nothing is ever answered by an old one."""
    files, free = _own_files(), threading.BoundedSemaphore(CLIENTS)
    loaded, waiting = _marks(files), select.poll()
    waiting.register(listening, select.POLLIN)
    while True:
        free.acquire()
        waiting.poll()
        if _marks(files) != loaded:
            return
        connection, _ = listening.accept()
        threading.Thread(target=_serve_one, args=(docker, connection, free)).start()


def main() -> int:
    """Serves on the socket that systemd hands over."""
    serve(socket.socket(fileno=LISTENING), Docker(DOCKER_SOCKET))
    return 0


if __name__ == "__main__":
    sys.exit(main())
