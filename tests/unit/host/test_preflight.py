"""What stops a run before anything changes, and what does not."""

from __future__ import annotations

import base64
import re
from ipaddress import IPv4Network
from typing import Any

import pytest

from gpuhost.errors import Problem
from gpuhost.host.facts import FolderAbove, HostContainer
from gpuhost.host.preflight import limits, memory_together, problems, root_problem, sudo_problem
from gpuhost.network.rules import options
from tests.unit import sample

GIB = 1024 * 1024


def system(identifier: str, version: str, name: str) -> dict[str, str]:
    return {"ID": identifier, "VERSION_ID": version, "PRETTY_NAME": name}


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def found(seen: dict[str, Any], wanted: dict[str, Any] | None = None) -> list[Problem]:
    return problems(sample.reading(**seen), sample.catalog(wanted), ["api", "painter"], "gpu1")


# what the host shows, what the catalogue says otherwise, sentence, hint
REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str, str]] = {
    "another distribution": (
        {"os": system("fedora", "43", "Fedora Linux 43")},
        {},
        "Fedora Linux 43 is not a system that gpuhost supports",
        "supported: Debian 12, 13; Ubuntu 22.04, 24.04, 26.04",
    ),
    "an old release": (
        {"os": system("debian", "11", "Debian GNU/Linux 11")},
        {},
        "Debian GNU/Linux 11 is not a system that gpuhost supports",
        "supported: Debian 12, 13; Ubuntu 22.04, 24.04, 26.04",
    ),
    "no systemd": ({"init": "sh"}, {}, "PID 1 is `sh`, not systemd", "boot the host with systemd"),
    "no systemd on WSL": (
        {"init": "init(Ubuntu)", "wsl": True},
        {},
        "PID 1 is `init(Ubuntu)`, not systemd",
        "boot the host with systemd; on WSL2 write the two lines `[boot]` and `systemd=true` into /etc/wsl.conf, "
        "then `wsl --shutdown`",
    ),
    "the distribution's Docker is too old": (
        {"os": system("debian", "12", "Debian GNU/Linux 12")},
        {"engine_source": "distro"},
        "the Docker packages of Debian GNU/Linux 12 itself are too old (Docker 25.0 or later is needed)",
        'set `engine_source = "docker"` in group_data',
    ),
    "the distribution's Docker is too old, on Ubuntu": (
        {"os": system("ubuntu", "22.04", "Ubuntu 22.04.5 LTS")},
        {"engine_source": "distro"},
        "the Docker packages of Ubuntu 22.04.5 LTS itself are too old (Docker 25.0 or later is needed)",
        'set `engine_source = "docker"` in group_data',
    ),
    "a system without a name": (
        {"os": {"ID": "debian"}},
        {},
        "this system is not a system that gpuhost supports",
        "supported: Debian 12, 13; Ubuntu 22.04, 24.04, 26.04",
    ),
    "disk, by one KiB": (
        {"disk_kib": {"/data": 5 * GIB - 1}},
        {},
        "/data has 5.0 GiB free, 5 GiB are needed",
        "free space there, or move `data_root` to a larger disk",
    ),
    "memory, by one KiB": (
        {"memory_kib": 2 * GIB - 1},
        {},
        "the host has 2.0 GiB of memory, 2 GiB are needed",
        "add memory",
    ),
    "disk": (
        {"disk_kib": {"/data": int(1.5 * GIB)}},
        {},
        "/data has 1.5 GiB free, 5 GiB are needed",
        "free space there, or move `data_root` to a larger disk",
    ),
    "memory": ({"memory_kib": GIB}, {}, "the host has 1.0 GiB of memory, 2 GiB are needed", "add memory"),
    "data disk not mounted": (
        {},
        {"data_mount": "/srv"},
        "nothing is mounted at /srv: the data would land on the system disk",
        "mount the data disk (`mount /srv`), or set `data_mount = None`",
    ),
    "a driver that does not work": (
        {"gpus": [], "nvidia_error": "Failed to initialize NVML: Driver/library version mismatch"},
        {},
        "reboot needed: NVIDIA's driver was updated since the host started",
        "reboot the host, then run again",
    ),
    "daemon.json is no JSON": (
        {"daemon_json": encoded('{"debug": true,}')},
        {},
        "/etc/docker/daemon.json is not JSON: Illegal trailing comma before end of object: line 1 column 15 (char 14)",
        "mend or move that file; dockerd cannot read it either",
    ),
    "daemon.json is no object": (
        {"daemon_json": encoded("[]")},
        {},
        "/etc/docker/daemon.json does not hold a JSON object",
        "mend or move that file",
    ),
    "port taken": (
        {"listening": {9001: "nginx (pid 12)"}},
        {},
        "port 9001 of `api` is already in use by nginx (pid 12)",
        "stop that program, or give `services.api.port` another port",
    ),
    "port taken while our service that had it is stopped": (
        {
            "listening": {9001: "nginx (pid 12)"},
            "containers": [HostContainer("api", "exited", "no", "api", frozenset({9001}))],
        },
        {},
        "port 9001 of `api` is already in use by nginx (pid 12)",
        "stop that program, or give `services.api.port` another port",
    ),
    "the account's uid is somebody's": (
        {"users": {"admin": 10001}},
        {},
        "the uid 10001 is already that of the user `admin`",
        'set `account["uid"]` to a free one, such as 10004',
    ),
    "the account's name is somebody's": (
        {"users": {"svc": 1000}, "groups": {"svc": 10001}},
        {},
        "the user `svc` exists with the uid 1000, not 10001",
        'set `account` to another name, or to {"uid": 1000}',
    ),
    "the account's gid is a group's": (
        {"groups": {"staff": 10001, "other": 10004}},
        {},
        "the gid 10001 is already that of the group `staff`",
        'set `account["gid"]` to a free one, such as 10005',
    ),
    "a service's uid is somebody's": (
        {"users": {"svc": 10001, "admin": 10003}, "groups": {"svc": 10001}},
        {},
        "the uid 10003 is already that of the user `admin`",
        'set `services.painter.account["uid"]` to a free one, such as 10004',
    ),
    "a service's group has another id": (
        {"groups": {"svc-api": 999}},
        {},
        "the group `svc-api` exists with the gid 999, not 10002",
        'set `services.api.account` to another name, or to {"gid": 999}',
    ),
    "others may write above our folders": (
        {"above": [FolderAbove("/", "directory", "755", 0, 0), FolderAbove("/srv", "directory", "1777", 0, 0)]},
        {},
        "others than root may write to /srv (mode 1777), which holds gpuhost's folders",
        "`chmod go-w /srv`, or choose other folders (`data_root`, `tools_root`, `state_root`)",
    ),
    "a group may write above our folders": (
        {"above": [FolderAbove("/srv", "directory", "775", 0, 50)]},
        {},
        "others than root may write to /srv (mode 775), which holds gpuhost's folders",
        "`chmod go-w /srv`, or choose other folders (`data_root`, `tools_root`, `state_root`)",
    ),
    "somebody's link leads to our folders": (
        {"above": [FolderAbove("/srv/data", "symbolic link", "777", 1000, 0)]},
        {},
        "the symbolic link /srv/data, which leads to gpuhost's folders, belongs to the uid 1000",
        "`chown -h root:root /srv/data`, or choose other folders (`data_root`, `tools_root`, `state_root`)",
    ),
    "a foreign container has the name": (
        {"containers": [HostContainer("api", "exited", "no", "")]},
        {},
        "a container that is not gpuhost's has the name of the service `api`",
        "rename it (`docker rename api ...`) or remove it, then run again",
    ),
    "port taken by somebody": (
        {"listening": {9002: ""}},
        {},
        "port 9002 of `painter` is already in use",
        "stop that program, or give `services.painter.port` another port",
    ),
    "Docker that has containers and does not answer": (
        # Its bridges outlive it: their routes are no clash.
        {"docker_silent": True, "engines": {"docker-ce"}, "routes": [("br-1", IPv4Network("172.20.0.0/16"))]},
        {},
        "Docker has containers on this host, and dockerd does not run or does not answer",
        "`systemctl restart docker`; `journalctl -u docker` says why it ended",
    ),
    "a Docker whose package is gone, and its containers are not": (
        {"docker_silent": True, "engines": set()},
        {},
        "Docker has containers on this host, and dockerd is not installed",
        "`apt-get install docker-ce`, as it was; then run again",
    ),
    "an old Docker": (
        {"engines": {"docker-ce"}, "docker_version": "24.0.9"},
        {},
        "Docker 24.0.9 runs on this host: 25.0 or later is needed",
        "upgrade it (`apt-get install --only-upgrade` its packages), then run again",
    ),
    "a Docker without CDI, and CDI asked for": (
        {"engines": {"docker-ce"}, "docker_version": "25.0.5"},
        {"gpu_access": "cdi"},
        "Docker 25.0.5 runs on this host: CDI needs 26.1 or later",
        'upgrade it (`apt-get install --only-upgrade` its packages), then run again; or set `gpu_access = "auto"`',
    ),
    "Docker Desktop's engine": (
        {"wsl": True, "docker_desktop": True, "docker_silent": True, "docker_version": "20.10.1"},
        {},
        "the Docker of this WSL2 distribution is Docker Desktop's, whose engine gpuhost cannot configure",
        "Docker Desktop, Settings, Resources, WSL integration: switch this distribution off; then run again",
    ),
    "Windows's disk": (
        {"wsl": True},
        {"data_root": "/mnt/d/genai"},
        "/mnt/d/genai is Windows's disk: it keeps neither owners nor modes",
        "set `data_root` to a folder of WSL2's own disk, such as /srv/genai",
    ),
    "live-restore in a swarm": (
        {"engines": {"docker-ce"}, "docker_version": "29.0.1", "swarm": True},
        {"engine_config": {"live-restore": True}},
        "Docker is a member of a swarm: with live-restore it would not start",
        'leave `"live-restore"` out of `engine_config` in group_data',
    ),
    "another version of Docker, for which containers would stop": (
        {
            "engines": {"docker-ce"},
            "docker_version": "27.5.1",
            "containers": [HostContainer("theirs", "running", "no", "")],
        },
        {"engine_version": "28.3.3"},
        "Docker 27.5.1 would become 28.3.3 (`engine_version`), and containers would stop for it",
        'apply `engine_config = {"live-restore": True}` first, without `engine_version`; then with it',
    ),
    "daemon.json is a link, and is to be written": (
        {"daemon_json": encoded("{}"), "daemon_json_kind": ("symbolic link", "/opt/theirs.json")},
        {},
        "/etc/docker/daemon.json is a link to /opt/theirs.json, and these keys differ there: features",
        "put the file itself in its place: `cp --remove-destination /opt/theirs.json /etc/docker/daemon.json`",
    ),
    "daemon.json is a link, and a key is to be taken out": (
        {
            "daemon_json": encoded('{"features": {"cdi": true}, "debug": true, "mtu": 9}'),
            "daemon_json_kind": ("symbolic link", "/opt/theirs.json"),
            "engine_written": {"debug": True, "mtu": 8},
        },
        {},
        "/etc/docker/daemon.json is a link to /opt/theirs.json, and these keys differ there: debug",
        "put the file itself in its place: `cp --remove-destination /opt/theirs.json /etc/docker/daemon.json`",
    ),
    "daemon.json is a link, and lacks nothing but the nvidia runtime": (
        {
            "daemon_json": encoded('{"features": {"cdi": true}}'),
            "daemon_json_kind": ("symbolic link", "/opt/theirs.json"),
        },
        {"gpu_access": "runtime"},
        "/etc/docker/daemon.json is a link to /opt/theirs.json, and these keys differ there: runtimes",
        "put the file itself in its place: `cp --remove-destination /opt/theirs.json /etc/docker/daemon.json`",
    ),
    "daemon.json is a link to nothing": (
        {"daemon_json_kind": ("symbolic link", "/opt/theirs.json")},
        {},
        "/etc/docker/daemon.json is a link to /opt/theirs.json, where no file is",
        "remove it, or make the file",
    ),
    "daemon.json is a folder": (
        {"daemon_json_kind": ("directory", "")},
        {},
        "/etc/docker/daemon.json cannot be read: it is a directory",
        "move it away; it must be a file of JSON",
    ),
    "another Docker": (
        {"engines": {"docker.io"}},
        {},
        "Docker is installed from the package docker.io: another would replace it and stop its containers",
        'keep it by `engine_source = "distro"` where that is new enough, or remove docker.io yourself',
    ),
    "another Docker, the other way round": (
        {"engines": {"docker-ce"}},
        {"engine_source": "distro"},
        "Docker is installed from the package docker-ce: another would replace it and stop its containers",
        'keep it by `engine_source = "docker"` where that is new enough, or remove docker-ce yourself',
    ),
    "the repository is declared already": (
        {"apt_sources": [("/etc/apt/d.list", "https://apt.example/debian/"), ("/etc/apt/d.list", "other")]},
        {"apt_repositories.nvidia.url": "https://other.example"},
        "/etc/apt/d.list declares https://apt.example/debian with a key of its own, and others besides: "
        "apt reads nothing when gpuhost declares it too",
        "take it out of /etc/apt/d.list; gpuhost then declares the repository, with its checked key",
    ),
    "NVIDIA's repository is declared already, as NVIDIA's own page writes it": (
        {
            "apt_sources": [
                ("/etc/apt/n.list", "https://n.example/deb/$(ARCH)"),
                ("/etc/apt/n.list", "https://x.example"),
            ]
        },
        {"apt_repositories.nvidia.url": "https://n.example/deb/{arch}"},
        "/etc/apt/n.list declares https://n.example/deb/amd64 with a key of its own, and others besides: "
        "apt reads nothing when gpuhost declares it too",
        "take it out of /etc/apt/n.list; gpuhost then declares the repository, with its checked key",
    ),
    "subnet of another Docker network": (
        {"networks": {"lab": ["172.20.5.0/24"]}},
        {},
        "the subnet 172.20.0.0/16 of network `inner` is already in use: Docker network `lab` has 172.20.5.0/24",
        'set `networks["inner"]["subnet"]` to a free one, such as 172.21.0.0/16',
    ),
    "the network was made by hand": (
        {"networks": {"inner": ["172.20.0.0/16"]}, "network_options": {"inner": {}}},
        {},
        "a Docker network `inner` exists that was not made as gpuhost makes it: its containers would not be kept from "
        "the host and from each other",
        "remove its containers, then it: docker network rm inner; the next apply makes them again",
    ),
    "subnet is routed": (
        {"routes": [("wg0", IPv4Network("172.16.0.0/12"))]},
        {},
        "the subnet 172.20.0.0/16 of network `inner` is already in use: 172.16.0.0/12 is routed over wg0",
        'set `networks["inner"]["subnet"]` to a free one, such as 10.99.0.0/16',
    ),
    "the network exists with another subnet": (
        {"networks": {"inner": ["10.1.0.0/16"]}},
        {},
        "a Docker network `inner` exists with the subnet 10.1.0.0/16, not 172.20.0.0/16",
        'set `networks["inner"]["subnet"]` to that, or remove it: docker network rm inner',
    ),
}


@pytest.mark.parametrize(("seen", "wanted", "what", "hint"), REFUSED.values(), ids=REFUSED)
def test_refused_with_one_sentence(seen: dict[str, Any], wanted: dict[str, Any], what: str, hint: str) -> None:
    [problem] = found(seen, wanted)
    # Python's own words about JSON differ between versions.
    assert problem.what.partition("is not JSON")[:2] == what.partition("is not JSON")[:2]
    assert (problem.hint, problem.host) == (hint, "gpu1")


def test_where_daemon_json_is_no_json() -> None:
    """Pythons differ in whether the comma or what follows it is the mistake."""
    [problem] = found({"daemon_json": encoded('{\n "debug": true,\n}\n')})
    assert re.fullmatch(r"/etc/docker/daemon.json is not JSON: .*: line [23] column \d+ \(char \d+\)", problem.what)


ACCEPTED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "as it is": ({}, {}),
    "Docker is there": ({"engines": {"docker-ce"}, "docker_version": "29.0.1"}, {}),
    "a Docker without CDI": ({"engines": {"docker-ce"}, "docker_version": "25.0.5"}, {}),
    "a Docker without CDI, and no GPU": (
        {"engines": {"docker-ce"}, "docker_version": "25.0.5", "gpus": [], "nvidia_pci": 0},
        {"gpu_access": "cdi"},
    ),
    "a swarm without live-restore": ({"docker_version": "29.0.1", "swarm": True}, {}),
    "another version of Docker while containers outlive its restart": (
        {
            "docker_version": "27.5.1",
            "live_restore": True,
            "containers": [HostContainer("theirs", "running", "no", "")],
        },
        {"engine_version": "28.3.3"},
    ),
    "another version of Docker while nothing runs": (
        {"docker_version": "27.5.1", "containers": [HostContainer("theirs", "exited", "no", "")]},
        {"engine_version": "28.3.3"},
    ),
    "daemon.json is a link, and all is right there": (
        {"daemon_json": encoded('{"features": {"cdi": true}}'), "daemon_json_kind": ("symbolic link", "/opt/x")},
        {},
    ),
    "Windows's disk, where there is no Windows": ({}, {"data_root": "/mnt/d/genai"}),
    "no GPU at all": ({"gpus": [], "nvidia_pci": 0}, {}),
    "a GPU that is no PCI device, as on WSL2": ({"nvidia_pci": 0}, {}),
    "the data disk is mounted": ({}, {"data_mount": "/data"}),
    **{
        f"our own service has the port, {state}": (
            {
                "listening": {9001: "docker-proxy (pid 9)"},
                "containers": [HostContainer("api", state, "no", "api", frozenset({9001}))],
            },
            {},
        )
        for state in ("running", "restarting", "paused")
    },
    "a service of ours that is to go has the port": (
        {
            "listening": {9001: "docker-proxy (pid 9)"},
            "containers": [HostContainer("old", "running", "no", "old", frozenset({9001}))],
        },
        {},
    ),
    "a foreign container has another name": ({"containers": [HostContainer("theirs", "running", "no", "")]}, {}),
    "another port is taken": ({"listening": {22: "sshd (pid 1)"}}, {}),
    "the account is there": ({"users": {"svc": 10001}, "groups": {"svc": 10001}}, {}),
    "the accounts are there": (
        {
            "users": {"svc": 10001, "svc-api": 10002, "svc-painter": 10003},
            "groups": {"svc": 10001, "svc-api": 10002, "svc-painter": 10003},
        },
        {},
    ),
    "the ids of a service that this host does not run are somebody's": (
        {"users": {"admin": 10003}, "groups": {"staff": 10003}},
        {"enabled_services": ["api"]},
    ),
    "root's own link and folders lead to ours": (
        {
            "above": [
                FolderAbove("/srv", "symbolic link", "777", 0, 0),
                FolderAbove("/", "directory", "775", 0, 0),
                FolderAbove("/mnt", "directory", "755", 0, 50),
            ]
        },
        {},
    ),
    "our own network has the subnet": (
        {
            "network_options": {"inner": options("inner")},
            "networks": {"inner": ["172.20.0.0/16"], "bridge": ["172.17.0.0/16"]},
            "routes": [("br-1", IPv4Network("172.20.0.0/16"))],
        },
        {},
    ),
    "other networks are routed elsewhere": ({"routes": [("wg0", IPv4Network("10.0.0.0/8"))]}, {}),
    "containers live, and no version of the engine is asked for": (
        {"docker_version": "29.0.1", "containers": [HostContainer("mine", "running", "no", "")]},
        {},
    ),
    "networks without subnets, or in IPv6": ({"networks": {"host": [], "six": ["fd00::/64"]}}, {}),
    "a daemon.json of the operator's": ({"daemon_json": encoded('{"debug": true}')}, {}),
    "the distribution's own Docker, new enough": ({}, {"engine_source": "distro"}),
    "the repository is declared in a file of its own": (
        {"apt_sources": [("/etc/apt/sources.list.d/d.list", "https://apt.example/debian/")] * 2},
        {"apt_repositories.nvidia.url": "https://other.example"},
    ),
    "another repository is declared whose URL begins like ours": (
        {"apt_sources": [("/etc/apt/d.list", "https://apt.example/debianX")]},
        {"apt_repositories.nvidia.url": "https://other.example"},
    ),
    "a repository that nobody needs is declared": (
        {"apt_sources": [("/etc/apt/n.list", "https://n.example")], "gpus": [], "nvidia_pci": 0},
        {"apt_repositories.nvidia.url": "https://n.example"},
    ),
    "exactly enough space and memory": ({"disk_kib": {"/data": 5 * GIB}, "memory_kib": 2 * GIB}, {}),
    **{
        f"{name} {version}, {source}": ({"os": system(name, version, "x")}, {"engine_source": source})
        for name, versions in {"debian": ("12", "13"), "ubuntu": ("22.04", "24.04", "26.04")}.items()
        for version in versions
        for source in ("docker", "distro")
        if source == "docker" or version not in ("12", "22.04")
    },
    "Docker's repository is declared, and the engine is the distribution's": (
        {"apt_sources": [("/etc/apt/d.list", "https://apt.example/debian")]},
        {"engine_source": "distro", "apt_repositories.nvidia.url": "https://other.example"},
    ),
}


@pytest.mark.parametrize(("seen", "wanted"), ACCEPTED.values(), ids=ACCEPTED)
def test_accepted(seen: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert found(seen, wanted) == []


def test_every_problem_is_told_at_once() -> None:
    assert len(found({"memory_kib": 1, "disk_kib": {"/data": 1}, "gpus": []})) == 3


def test_only_services_that_run_here_need_their_ports() -> None:
    taken = sample.reading(listening={9002: "other (pid 1)"})
    assert problems(taken, sample.catalog(), ["api"], "gpu1") == []


NOPASSWD = "run again with --use-sudo-password, or allow NOPASSWD for this user"


@pytest.mark.parametrize(
    ("answer", "has_password", "problem"),
    [
        ("sudo=root", False, None),
        ("sudo=ok", False, None),
        (
            "sudo=absent",
            False,
            ("the login user is not root, and there is no sudo on the host", "install sudo, or log in as root"),
        ),
        ("sudo=sudo: a password is required", False, ("sudo asks for a password", NOPASSWD)),
        ("sudo=sudo: interactive authentication is required", False, ("sudo asks for a password", NOPASSWD)),
        ("sudo=sudo: a password is required", True, None),
        (
            "sudo=eve is not in the sudoers file.",
            True,
            ("sudo refuses: eve is not in the sudoers file.", "add the login user to the group sudo"),
        ),
        ("", False, ("sudo refuses: no word", "add the login user to the group sudo")),
    ],
)
def test_sudo(answer: str, has_password: bool, problem: tuple[str, str] | None) -> None:
    assert sudo_problem(answer, has_password) == problem


@pytest.mark.parametrize(
    ("ok", "said", "problem"),
    [
        (True, "0\n", None),
        (True, "Welcome!\n0\n", None),
        (
            True,
            "1000\n",
            (
                "commands do not run as root on this host",
                "set `_sudo` to True for it in the inventory, or log in as root",
            ),
        ),
        (
            False,
            "Sorry, try again.\nsudo: 3 incorrect password attempts\n",
            ("sudo refuses the password", "type the login user's own password"),
        ),
        (
            False,
            "eve is not in the sudoers file.\n",
            ("sudo refuses: eve is not in the sudoers file.", "add the login user to the group sudo"),
        ),
    ],
)
def test_commands_must_run_as_root(ok: bool, said: str, problem: tuple[str, str] | None) -> None:
    assert root_problem(ok, said) == problem


def test_limits_that_the_host_cannot_give_are_said() -> None:
    services = sample.catalog({"services.painter.memory": "200g", "services.api.cpus": 4}).services
    assert limits(sample.reading(cpus=2), services) == [
        ("painter", "its limit of 200g of memory is above this host's 64 GiB: it limits nothing"),
        ("api", "it gets 2 of the 4 cores that it asks for: this host has no more"),
        ("painter", "it gets 2 of the 4 cores that it asks for: this host has no more"),
    ]
    assert limits(sample.reading(), sample.catalog().services) == []
    exactly = sample.catalog({"services.painter.memory": "64g", "services.painter.cpus": 8}).services
    assert limits(sample.reading(), exactly) == []
    assert [name for name, _ in limits(sample.reading(memory_kib=64 * GIB - 1), exactly)] == ["painter"]


def test_a_free_subnet_is_offered() -> None:
    """The first of those that nobody has, none of the catalogue's own."""
    taken = {"lab": ["172.20.0.0/16"], "odd": ["172.21.3.7/24", "no subnet"]}
    [problem] = found(
        {"networks": taken, "routes": [("wg0", IPv4Network("172.22.0.0/15"))]},
        {"networks.own": {"subnet": "172.24.0.0/16"}},
    )
    assert problem.hint == 'set `networks["inner"]["subnet"]` to a free one, such as 172.25.0.0/16'


def test_each_network_is_offered_a_subnet_of_its_own() -> None:
    """As on a host with the one flat network of an earlier gpuhost; also where nothing of the first range is free."""
    flat = {"genai": ["172.20.0.0/16"]}
    small = {"networks.inner": {"subnet": "172.20.1.0/24"}, "networks.outer": {"subnet": "172.20.2.0/24"}}
    services = {"services.painter.network": "outer"}
    for routes, offered in (([], ("172.21", "172.22")), ([("wg0", IPv4Network("172.16.0.0/12"))], ("10.99", "10.100"))):
        hints = [problem.hint for problem in found({"networks": flat, "routes": routes}, small | services)]
        assert hints == [
            f'set `networks["{name}"]["subnet"]` to a free one, such as {first}.0.0/16'
            for name, first in zip(("inner", "outer"), offered, strict=True)
        ]


@pytest.mark.parametrize(
    ("inner", "told"),
    [
        ({"networks": {"inner": ["172.20.0.0/16"]}, "network_options": {"inner": options("inner")}}, []),
        ({"networks": {"inner": ["10.1.0.0/16"]}}, ["a Docker network `inner` exists with the subnet 10.1.0.0/16"]),
        ({"networks": {"inner": []}}, ["a Docker network `inner` exists with the subnet none, not 172.20.0.0/16"]),
    ],
    ids=["right", "another subnet", "no subnet"],
)
def test_each_network_is_looked_at(inner: dict[str, Any], told: list[str]) -> None:
    """Whatever is said of the one before it."""
    seen = {**inner, "routes": [("wg0", IPv4Network("172.30.0.0/16"))]}
    outer = {"networks.outer": {"subnet": "172.30.2.0/24"}, "services.painter.network": "outer"}
    problems = [problem.what for problem in found(seen, outer)]
    said = "the subnet 172.30.2.0/24 of network `outer` is already in use: 172.30.0.0/16 is routed over wg0"
    assert len(problems) == len(told) + 1 and problems[-1] == said
    assert all(what.startswith(start) for what, start in zip(problems, told, strict=False))


def test_where_no_subnet_is_free_the_last_is_offered() -> None:
    routes = [("wg0", IPv4Network("172.16.0.0/12")), ("wg1", IPv4Network("10.0.0.0/8"))]
    [problem] = found({"routes": routes})
    assert problem.hint.endswith("such as 10.255.0.0/16")


def test_what_always_runs_may_not_together_take_more_memory_than_there_is() -> None:
    services = sample.catalog().services  # 28 and 2 GiB
    assert memory_together(sample.reading(memory_kib=30 * GIB), services) == ""
    said = memory_together(sample.reading(memory_kib=30 * GIB - 1), services)
    assert said.startswith("api, painter may together take 30 GiB of memory, this host has 30: ")
    on_demand = sample.catalog({"services.painter.start": "on-demand"}).services
    assert memory_together(sample.reading(memory_kib=2 * GIB), on_demand) == ""
