"""Whatever way a template chooses to write a field: the container that compose makes of it is what it should be."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from gpuhost.engine.containers import parse
from gpuhost.services.compose import changed_settings, environment_of, of_compose
from gpuhost.services.forms import normal
from tests.unit.engine.test_containers import inspected

# A field as a template may write it -> what `docker inspect` shows of the container (the host's part, the others).
WRITTEN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "ipc: host": ({"IpcMode": "host"}, {}),
    "ipc: shareable": ({"IpcMode": "shareable"}, {}),
    'ipc: "service:other"': ({"IpcMode": "container:abc"}, {}),
    'pid: "container:other"': ({"PidMode": "container:abc"}, {}),
    "uts: host": ({"UTSMode": "host"}, {}),
    "network_mode: host": ({"NetworkMode": "host"}, {"networks": ["host", None]}),
    "network_mode: none": ({"NetworkMode": "none"}, {"networks": ["none", None]}),
    'network_mode: "service:other"': ({"NetworkMode": "container:abc"}, {}),
    "networks: {b: {aliases: [x]}, a: }": ({}, {"networks": ["a", "b", None]}),
    "command: sleep '1 2'": ({}, {"command": ["sleep", "1 2"]}),
    "entrypoint: env 'a b'": ({}, {"entrypoint": ["env", "a b"], "command": None}),
    "restart: no": ({"RestartPolicy": {"Name": "no"}}, {}),
    'restart: "on-failure:3"': ({"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3}}, {}),
    "user: 1000": ({}, {"user": "1000"}),
    "dns_search: mine.example": ({"DnsSearch": ["mine.example"]}, {}),
    "mem_reservation: 512m": ({"MemoryReservation": 2**29}, {}),
    'cpuset: "0,1"': ({"CpusetCpus": "0,1"}, {}),
    "security_opt: ['systempaths=unconfined']": ({"MaskedPaths": []}, {}),
    "dns: 192.0.2.1": ({"Dns": ["192.0.2.1"]}, {}),
    "tmpfs: /tmp": ({"Tmpfs": {"/tmp": ""}}, {}),
    "cap_add: [CAP_SYS_NICE, chown]": ({"CapAdd": ["CAP_CHOWN", "CAP_SYS_NICE"]}, {}),
    "cap_drop: [ALL]": ({"CapDrop": ["ALL"]}, {}),
    "group_add: [5]": ({"GroupAdd": ["5"]}, {}),
    "sysctls: [net.x=1]": ({"Sysctls": {"net.x": "1"}}, {}),
    "sysctls: {net.x: 1}": ({"Sysctls": {"net.x": "1"}}, {}),
    "extra_hosts: {a: 192.0.2.1}": ({"ExtraHosts": ["a:192.0.2.1"]}, {}),
    'extra_hosts: ["b=192.0.2.2", "a:192.0.2.1"]': ({"ExtraHosts": ["a:192.0.2.1", "b:192.0.2.2"]}, {}),
    "devices: [/dev/kvm, '/dev/a:/dev/b:rwm']": (
        {
            "Devices": [
                {"PathOnHost": "/dev/kvm", "PathInContainer": "/dev/kvm"},
                {"PathOnHost": "/dev/a", "PathInContainer": "/dev/b"},
            ]
        },
        {},
    ),
    "ulimits: {nofile: {soft: 1, hard: 2}, core: 0}": (
        {"Ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}, {"Name": "nofile", "Soft": 1, "Hard": 2}]},
        {},
    ),
    'ports: ["80:81"]': ({"PortBindings": {"81/tcp": [{"HostIp": "", "HostPort": "80"}]}}, {}),
    'ports: ["127.0.0.1:80:81/tcp"]': ({"PortBindings": {"81/tcp": [{"HostIp": "127.0.0.1", "HostPort": "80"}]}}, {}),
    "ports: [{target: 81, published: 80, host_ip: 127.0.0.1}]": (
        {"PortBindings": {"81/tcp": [{"HostIp": "127.0.0.1", "HostPort": "80"}]}},
        {},
    ),
    "ports: [{target: 81, published: 80, protocol: udp}]": (
        {"PortBindings": {"81/udp": [{"HostIp": "", "HostPort": "80"}]}},
        {},
    ),
    'volumes: ["/a:/b:ro", "/c:/d"]': (
        {},
        {
            "mounts": [
                {"Type": "bind", "Source": "/a", "Destination": "/b", "RW": False},
                {"Type": "bind", "Source": "/c", "Destination": "/d", "RW": True},
            ]
        },
    ),
    'volumes: ["named:/a", "/anonymous", {type: tmpfs, target: /t}]': (
        {},
        {"mounts": [{"Type": "volume", "Source": "named", "Destination": "/a", "RW": True}]},
    ),
    "healthcheck: {disable: true}": ({}, {"health": {"Test": ["NONE"]}}),
    "healthcheck: {test: curl x, interval: 1m30s}": (
        {},
        {"health": {"Test": ["CMD-SHELL", "curl x"], "Interval": 90 * 10**9}},
    ),
}


@pytest.mark.parametrize(("text", "host", "over"), [(text, *shown) for text, shown in WRITTEN.items()], ids=WRITTEN)
def test_what_compose_makes_of_it_was_changed_by_nobody(text: str, host: dict[str, Any], over: dict[str, Any]) -> None:
    spec = of_compose(json.dumps({"api": {"image": "x", **yaml.safe_load(text)}}), {}, {}, {}, {})
    bare = {**inspected(), "image": "x", "host": host, "mounts": [], "networks": [None], **over}
    assert changed_settings(spec, parse(json.dumps(bare))) == ()
    if text != "ipc: shareable" and "named" not in text and "curl" not in text and "restart: no" not in text:
        untouched = {**inspected(), "image": "x", "host": {}, "mounts": [], "networks": [None], "health": None}
        assert changed_settings(spec, parse(json.dumps(untouched)))  # and a container that has it not is another


def test_variables_and_labels_as_a_list() -> None:
    text = "a: {image: x, environment: [A=1, B=x=y, C], labels: [gpuhost.service=a, gpuhost.spec=x]}"
    spec = of_compose(text, {}, {}, {}, {})
    assert spec["environment"] == {"A": "1", "B": "x=y", "C": None}
    assert spec["labels"] == {"gpuhost.service": "a"}


def test_the_variables_that_a_container_should_have() -> None:
    written = {
        "N": 7,
        "YES": True,
        "TEXT": "a",
        "SECRET": "${TOKEN}",
        "WITH": "Bearer ${TOKEN}",
        "F": 1.5,
        "GONE": None,
    }
    found = environment_of({"environment": written})
    assert found == {
        **{"N": "7", "YES": "true", "TEXT": "a"},
        **dict.fromkeys(("SECRET", "WITH", "F", "GONE")),
    }
    assert environment_of({}) == {}


@pytest.mark.parametrize(
    ("field", "written", "form"),
    [
        ("command", "a 'b c'", ["a", "b c"]),
        ("command", None, []),
        ("entrypoint", ["a", "b c"], ["a", "b c"]),
        ("environment", {"A": 1}, {"A": 1}),
        ("environment", ["A=1=2", "B=", "C"], {"A": "1=2", "B": "", "C": None}),
        ("labels", ["a.b=c"], {"a.b": "c"}),
        ("restart", False, "no"),
        ("restart", "always", "always"),
        ("dns", ["192.0.2.2", "192.0.2.1"], ["192.0.2.2", "192.0.2.1"]),  # asked in this order
        ("dns_search", "b", ["b"]),
        ("networks", {"b": None, "a": {"aliases": ["x"]}}, ["a", "b"]),
        ("cap_add", ["sys_nice", "CAP_CHOWN"], ["CHOWN", "SYS_NICE"]),
        ("cap_drop", ["sys_nice", "CAP_CHOWN"], ["CHOWN", "SYS_NICE"]),
        ("security_opt", ["b:1", "a:1"], ["a:1", "b:1"]),
        ("group_add", [7, 5], ["5", "7"]),
        ("tmpfs", ["/tmp", "/run"], ["/run", "/tmp"]),
        ("ports", ["80:81/udp", "127.0.0.1:80:81/tcp"], ["0.0.0.0:80:81/udp", "127.0.0.1:80:81"]),
        ("ports", [81], ["81"]),
        ("ports", [{"target": 81}], ["0.0.0.0::81"]),
        ("ports", [{"target": 81, "published": 80, "host_ip": "192.0.2.1", "protocol": "tcp"}], ["192.0.2.1:80:81"]),
        ("devices", ["/dev/b", "/dev/a:/dev/x:r"], ["/dev/a:/dev/x", "/dev/b:/dev/b"]),
        ("volumes", ["/a:/b:z,ro"], [{"source": "/a", "target": "/b", "read_only": True}]),
        ("volumes", ["/a:/b:z"], [{"source": "/a", "target": "/b", "read_only": False}]),
        ("volumes", ["/a"], [{"type": "volume", "target": "/a"}]),
        ("volumes", [{"type": "tmpfs", "target": "/a"}], [{"type": "tmpfs", "target": "/a"}]),
        ("ulimits", {"core": 0, "nofile": {"soft": 1, "hard": 2}}, {"core": [0, 0], "nofile": [1, 2]}),
        ("extra_hosts", {"b": "192.0.2.2", "a": "192.0.2.1"}, ["a:192.0.2.1", "b:192.0.2.2"]),
        ("extra_hosts", ["b=::1", "a:192.0.2.1"], ["a:192.0.2.1", "b:::1"]),
        ("healthcheck", {"disable": True, "test": ["CMD", "a"]}, {"test": ["NONE"]}),
        ("healthcheck", {"disable": False, "test": ["CMD", "a"]}, {"disable": False, "test": ["CMD", "a"]}),
    ],
)
def test_each_way_to_write_a_field_becomes_the_one_that_docker_shows(field: str, written: Any, form: Any) -> None:
    assert normal({field: written}) == {field: form}


@pytest.mark.parametrize("mode", ["host", "none", "bridge", "service:other", "container:other"])
def test_docker_has_networks_of_three_modes(mode: str) -> None:
    found = normal({"network_mode": mode}).get("networks")
    assert found == ([mode] if ":" not in mode else None)


def test_a_field_of_nobodys_is_as_it_is() -> None:
    assert normal({"image": "a", "x-mine": [1]}) == {"image": "a", "x-mine": [1]}
