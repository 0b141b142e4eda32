"""From a compose fragment to a spec, and from `docker inspect` to its words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gpuhost.engine.containers import parse, size_bytes
from gpuhost.plan.change import Difference
from gpuhost.services.compose import changed_settings, of_compose, secret_differences
from tests.unit.engine.test_containers import inspected

FRAGMENT = """
painter:
  # a comment
  image: acme/painter:1
  command: [serve, --price, "US$$5", "${PAINTER_PORT}"]
  mem_limit: ${PAINTER_MEMORY_LIMIT}
  shm_size: 1024m
  cpus: "2.50"
  read_only: true
  ports: ["127.0.0.1:${PAINTER_PORT}:8188", "127.0.0.1:22:22"]
  networks: [outer, inner]
  cap_drop: [NET_RAW, ALL]
  cap_add: [SYS_NICE, CHOWN]
  security_opt: [no-new-privileges:true, apparmor=x]
  group_add: [205, "105"]
  tmpfs: [/tmp, /run]
  environment: {TOKEN: "${API_TOKEN}", "NUMBER": 7}
  labels: {gpuhost.service: painter, gpuhost.models: "a,b", gpuhost.spec: "{}"}
  volumes:
    - {type: bind, source: /srv/data, target: /data}
    - {type: bind, source: /srv/models, target: /models, read_only: true}
    - {type: tmpfs, target: /scratch}
  deploy:
    resources:
      reservations:
        devices:
          - {driver: cdi, device_ids: [nvidia.com/gpu=GPU-1, nvidia.com/gpu=GPU-2]}
          - {driver: cdi, device_ids: [nvidia.com/gpu=GPU-3]}
"""


def test_the_spec_of_a_whole_service() -> None:
    variables = {"PAINTER_PORT": "9002", "PAINTER_MEMORY_LIMIT": "2048m"}
    secrets: dict[str, str | None] = {"API_TOKEN": "f" * 64, "OTHER": None}
    assert of_compose(FRAGMENT, variables, {"/config/x": "abc"}, {"KEY": "{API_TOKEN}"}, secrets) == {
        "name": "painter",
        "image": "acme/painter:1",
        "namespaces": [],
        "command": ["serve", "--price", "US$5", "9002"],
        "memory": "2g",
        "shm": "1g",
        "cpus": "2.5",
        "read_only": True,
        "ports": ["127.0.0.1:22:22", "127.0.0.1:9002:8188"],
        "networks": ["inner", "outer"],
        "cap_drop": ["ALL", "NET_RAW"],
        "cap_add": ["CHOWN", "SYS_NICE"],
        "security_opt": ["apparmor=x", "no-new-privileges:true"],
        "group_add": ["105", "205"],
        "tmpfs": ["/run", "/tmp"],
        "environment": {"TOKEN": "${API_TOKEN}", "NUMBER": 7},  # a secret stays a name
        "labels": {"gpuhost.service": "painter"},
        "volumes": {"/data": "/srv/data", "/models": "/srv/models:ro", "/scratch": ""},
        "gpus": ["GPU-1", "GPU-2", "GPU-3"],
        "files": {"/config/x": "abc"},
        "secret_files": {"KEY": "{API_TOKEN}"},
        "secrets": secrets,
    }


def test_the_spec_of_the_smallest_service() -> None:
    assert of_compose("a: {image: x}", {}, {}, {}, {}) == {
        "name": "a",
        "image": "x",
        "namespaces": [],
        "labels": {},
        "volumes": {},
        "gpus": [],
        "files": {},
        "secret_files": {},
        "secrets": {},
    }


def test_a_container_made_with_nothing_but_an_image() -> None:
    """`docker inspect` then has null in many places, or nothing."""
    for host in (
        {},
        dict.fromkeys(("PortBindings", "RestartPolicy", "LogConfig", "CapAdd", "CapDrop", "SecurityOpt", "GroupAdd")),
        dict.fromkeys(("Tmpfs", "DeviceRequests", "Memory", "NanoCpus", "ShmSize", "ReadonlyRootfs", "Privileged")),
    ):
        bare = {**inspected(), "host": host, "mounts": None, "networks": [None], "command": None, "user": ""}
        bare |= {"entrypoint": None, "working_dir": "", "stop_signal": None, "health": None}
        seen = parse(json.dumps(bare))
        assert dict(seen.settings) == {
            "image": "gpuhost/api:1",
            "user": "",
            "command": [],
            "entrypoint": [],
            "runtime": "",
            "restart": "no",
            "memory": "0",
            "mem_reservation": "0",
            "cpus": "0",
            "cpuset": "",
            "cpuset_mems": "",
            "cpu_shares": 0,
            "device_cgroup_rules": [],
            "userns_mode": "",
            "cgroup_parent": "",
            "oom_kill_disable": False,
            "oom_score_adj": 0,
            "dns_search": [],
            "dns_opt": [],
            "shm": "0",
            "read_only": False,
            "init": False,
            "privileged": False,
            "cap_add": [],
            "cap_drop": [],
            "security_opt": [],
            "group_add": [],
            "tmpfs": [],
            "swap": "0",
            "pids": 0,
            "ulimits": {},
            "namespaces": [],
            "devices": [],
            "dns": [],
            "extra_hosts": [],
            "sysctls": {},
            "working_dir": "",
            "stop_signal": None,
            "healthcheck": {"test": [], "retries": 0}
            | dict.fromkeys(("interval", "timeout", "start_period", "start_interval"), "0s"),
            "logging": {"driver": "", "options": {}},
            "networks": [],
            "ports": [],
            "gpus": [],
            "volumes": {},
        }
        assert changed_settings({"image": "gpuhost/api:1", "user": "", "command": []}, seen) == ()


def test_what_a_container_runs_with() -> None:
    host = {
        "RestartPolicy": {"Name": ""},
        "Memory": 2**20 * 3,
        "NanoCpus": 1_500_000_000,
        "ShmSize": 1025,
        "CapAdd": ["B", "A"],
        "SecurityOpt": ["y", "x"],
        "GroupAdd": ["2", "1"],
        "PortBindings": {
            "53/udp": [{"HostIp": "::1", "HostPort": "53"}],
            "80/tcp": [{"HostIp": "", "HostPort": "81"}, {"HostIp": "10.0.0.1", "HostPort": "80"}],
            "99/tcp": None,
        },
        "DeviceRequests": [
            {"Driver": "nvidia", "Count": -1},
            {"DeviceIDs": []},
            {"DeviceIDs": ["nvidia.com/gpu=GPU-1"]},
        ],
    }
    mounts = [
        {"Type": "bind", "Destination": "/a", "RW": True},
        {"Type": "bind", "Source": "/b", "Destination": "/b"},
        {"Type": "volume", "Source": "v", "Destination": "/c", "RW": True},
    ]
    seen = parse(json.dumps(inspected(host, mounts=mounts, networks=["z", "a", None], restarts=3)))
    found = dict(seen.settings)
    assert (found["restart"], found["memory"], found["cpus"], found["shm"]) == ("no", "3m", "1.5", "1025")
    assert (found["cap_add"], found["security_opt"], found["group_add"]) == (["A", "B"], ["x", "y"], ["1", "2"])
    assert found["ports"] == ["0.0.0.0:81:80", "10.0.0.1:80:80", "[::1]:53:53/udp"]
    assert found["gpus"] == ["nvidia:-1", ":", "GPU-1"]
    assert (found["networks"], found["volumes"]) == (["a", "z"], {"/a": "", "/b": "/b:ro"})
    assert (seen.id, seen.state, seen.restarts, seen.environment) == ("abc", "running", 3, None)


def test_a_container_of_another_project_or_of_none() -> None:
    seen = parse(json.dumps(inspected(labels={"gpuhost.service": "x"})))
    assert (seen.project, seen.service, seen.own, seen.spec) == ("", "x", "", None)
    with pytest.raises(KeyError):
        parse(json.dumps(inspected(labels=None)))


@pytest.mark.parametrize("text", ["", "g", "1t", "1.5g", " 1g", "-1g", "1gg"])
def test_no_size(text: str) -> None:
    with pytest.raises(ValueError, match=rf"^{text}$"):
        size_bytes(text)


def test_a_log_option_that_was_not_asked_for_is_nobodys_change() -> None:
    spec: dict[str, Any] = {"logging": {"driver": "json-file"}}
    assert "logging" not in {
        each.field.partition(".")[0] for each in changed_settings(spec, parse(json.dumps(inspected())))
    }


def test_the_secrets_among_the_differences() -> None:
    fields = ("memory", "secrets.A", "volumes./secrets.x", "secrets.B")
    assert secret_differences([Difference(field, "1", "2") for field in fields]) == ["A", "B"]
