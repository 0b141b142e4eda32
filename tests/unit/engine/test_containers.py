"""What `docker inspect` says of a container, in the words of a spec."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from gpuhost.engine.containers import Container, parse, parse_image, size_bytes, size_text
from gpuhost.plan.spec import canonical
from gpuhost.services.compose import changed_settings

# As Docker Engine 26.1 gives it, less what nobody reads.
HOST: dict[str, Any] = {
    "NetworkMode": "inner",
    "PortBindings": {"9001/tcp": [{"HostIp": "127.0.0.1", "HostPort": "9001"}]},
    "RestartPolicy": {"Name": "unless-stopped", "MaximumRetryCount": 0},
    "LogConfig": {"Type": "json-file", "Config": {"max-file": "3", "max-size": "10m"}},
    "Memory": 2147483648,
    "MemorySwap": 2147483648,
    "PidsLimit": 256,
    "Ulimits": [{"Name": "core", "Hard": 0, "Soft": 0}, {"Name": "nofile", "Hard": 65536, "Soft": 65536}],
    "Dns": ["127.0.0.1"],
    "Devices": [],
    "PidMode": "",
    "IpcMode": "private",
    "CpusetCpus": "",
    "CpusetMems": "",
    "CpuShares": 0,
    "MemoryReservation": 0,
    "DeviceCgroupRules": None,
    "UsernsMode": "",
    "CgroupParent": "",
    "OomKillDisable": None,
    "OomScoreAdj": 0,
    "DnsSearch": [],
    "DnsOptions": [],
    "MaskedPaths": ["/proc/kcore", "/sys/firmware"],
    "ReadonlyPaths": ["/proc/sys"],
    "UTSMode": "",
    "NanoCpus": 2000000000,
    "ShmSize": 67108864,
    "ReadonlyRootfs": True,
    "Privileged": False,
    "CapAdd": None,
    "CapDrop": ["ALL"],
    "SecurityOpt": ["no-new-privileges:true"],
    "GroupAdd": ["105"],
    "Tmpfs": {"/tmp": "mode=1777", "/run": ""},
    "DeviceRequests": [
        {"Driver": "cdi", "Count": 0, "DeviceIDs": ["nvidia.com/gpu=GPU-1"], "Capabilities": [["gpu"]], "Options": None}
    ],
}
IMAGE_ID = "sha256:aa"
SPEC: dict[str, Any] = {
    "name": "api",
    "image": "gpuhost/api:1",
    "command": ["serve"],
    "entrypoint": ["/entry"],
    "user": "10001:10001",
    "restart": "unless-stopped",
    "memory": "2g",
    "swap": "0",
    "cpus": "2",
    "pids": 256,
    "ulimits": {"core": [0, 0], "nofile": [65536, 65536]},
    "dns": ["127.0.0.1"],
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
    "group_add": ["105"],
    "tmpfs": ["/run", "/tmp:mode=1777"],
    "logging": {"driver": "json-file", "options": {"max-size": "10m", "max-file": "3"}},
    "networks": ["inner"],
    "ports": ["127.0.0.1:9001:9001"],
    "gpus": ["GPU-1"],
    "volumes": {"/data": "/srv/data", "/models": "/srv/models:ro"},
    "working_dir": "/app",
    "stop_signal": "SIGINT",
    "healthcheck": {"test": ["CMD", "true"], "interval": "15s", "timeout": "1m", "retries": 3, "start_period": "90s"},
}
HEALTH = {"Test": ["CMD", "true"], "Interval": 15 * 10**9, "Timeout": 60 * 10**9, "Retries": 3}
HEALTH |= {"StartPeriod": 90 * 10**9, "StartInterval": 10**9}


# What the container above has of its image.
IMAGE: dict[str, Any] = {
    "id": IMAGE_ID,
    "user": "",
    "command": ["serve"],
    "entrypoint": ["/entry"],
    "working_dir": "/app",
}
IMAGE |= {"stop_signal": None, "health": None}


def inspected(host: dict[str, Any] | None = None, **over: Any) -> dict[str, Any]:
    """One container's line, parsed."""
    labels = {"gpuhost.service": "api", "gpuhost.spec": canonical(SPEC), "com.docker.compose.project": "front"}
    mounts = [
        {"Type": "bind", "Source": "/srv/data", "Destination": "/data", "Mode": "", "RW": True},
        {"Type": "bind", "Source": "/srv/models", "Destination": "/models", "Mode": "", "RW": False},
        {"Type": "tmpfs", "Destination": "/tmp", "RW": True},
    ]
    made: dict[str, Any] = {
        "id": "abc",
        "name": "/api",
        "labels": labels,
        "image": "gpuhost/api:1",
        "user": "10001:10001",
    }
    made |= {
        "image_id": IMAGE_ID,
        "entrypoint": ["/entry"],
        "command": ["serve"],
        "state": "running",
        "started": "2026-11-21T11:41:15.25Z",
        "restarts": 0,
        "ended": "0001-01-01T00:00:00Z",
        "exit_code": 0,
        "health_now": "healthy",
    }
    made |= {"working_dir": "/app", "stop_signal": "SIGINT", "health": HEALTH}
    made |= {"host": {**HOST, **(host or {})}, "mounts": mounts, "networks": ["inner", None]}
    return {**made, **over}


def container(host: dict[str, Any] | None = None, **over: Any) -> Container:
    return parse(json.dumps(inspected(host, **over)))


def test_a_container_that_nobody_touched_is_its_spec() -> None:
    seen = container()
    assert (seen.name, seen.service, seen.project, seen.own) == ("api", "api", "front", "")
    assert seen.spec == SPEC
    assert (seen.started_s, seen.restarts, container(started="0001-01-01T00:00:00Z").started_s) == (1795261275.25, 0, 0)
    assert (seen.gpus, seen.ports) == (["GPU-1"], {"127.0.0.1:9001:9001"})
    assert (seen.health, seen.ended_s, seen.exit_code, container(health_now=None).health) == ("healthy", 0.0, 0, "")
    assert changed_settings(SPEC, seen) == ()


NOBODY_ASKED: dict[str, Any] = {
    **{"user": "", "command": [], "entrypoint": [], "working_dir": "", "stop_signal": None},
    "healthcheck": {"test": [], "retries": 0}
    | dict.fromkeys(("interval", "timeout", "start_period", "start_interval"), "0s"),
    **{"cpuset": "", "cpuset_mems": "", "cpu_shares": 0, "device_cgroup_rules": [], "userns_mode": ""},
    **{"cgroup_parent": "", "oom_kill_disable": False, "oom_score_adj": 0, "dns_search": [], "dns_opt": []},
    **{"image": "gpuhost/api:1", "runtime": "", "restart": "no", "memory": "0", "swap": "0", "mem_reservation": "0"},
    **{"pids": 0, "ulimits": {}, "cpus": "0", "shm": "0", "read_only": False, "init": False, "namespaces": []},
    **{"devices": [], "privileged": False, "cap_add": [], "cap_drop": [], "security_opt": [], "group_add": []},
    **{"tmpfs": [], "logging": {"driver": "", "options": {}}, "dns": [], "extra_hosts": [], "sysctls": {}},
    **{"networks": [], "ports": [], "gpus": [], "volumes": {}},
}


@pytest.mark.parametrize("host", [{}, dict.fromkeys([*HOST, "ExtraHosts", "Sysctls", "Init", "Runtime"])])
def test_what_an_engine_leaves_out_is_what_nobody_asked_for(host: dict[str, Any]) -> None:
    """Engines differ in whether they leave a field out or give null."""
    none = dict.fromkeys(("user", "command", "entrypoint", "working_dir", "stop_signal", "health", "mounts"))
    seen = parse(json.dumps({**inspected(networks=[None], **none), "host": host}))
    assert seen.settings == NOBODY_ASKED and (seen.gpus, seen.ports) == ([], set())


def test_the_order_in_which_docker_names_things_says_nothing() -> None:
    host = {
        "Devices": [{"PathOnHost": f"/dev/{name}", "PathInContainer": "/dev/x"} for name in "ba"],
        "CapAdd": ["cap_sys_admin", "NET_ADMIN"],
        "CapDrop": ["SETUID", "CAP_CHOWN"],
        "SecurityOpt": ["seccomp=unconfined", "apparmor=unconfined"],
        "GroupAdd": ["7", "5"],
        "ExtraHosts": ["b:192.0.2.1", "a:192.0.2.1"],
        "PidMode": "host",
        "IpcMode": "service:other",
        "PortBindings": {
            "9001/tcp": [{"HostIp": "127.0.0.1", "HostPort": "9001"}, {"HostIp": "::1", "HostPort": "9001"}],
            "53/udp": [{"HostIp": "", "HostPort": "53"}],
            "80/tcp": None,
        },
        "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3},
        "DeviceRequests": [{"Driver": "nvidia", "Count": -1}],
        "MemorySwap": -1,
    }
    seen = container(host, networks=["b", "a", None], health={"StartInterval": 5 * 10**8}).settings
    assert {name: seen[name] for name in ("devices", "cap_add", "cap_drop", "security_opt", "group_add")} == {
        "devices": ["/dev/a:/dev/x", "/dev/b:/dev/x"],
        "cap_add": ["NET_ADMIN", "SYS_ADMIN"],
        "cap_drop": ["CHOWN", "SETUID"],
        "security_opt": ["apparmor=unconfined", "seccomp=unconfined"],
        "group_add": ["5", "7"],
    }
    assert (seen["extra_hosts"], seen["networks"]) == (["a:192.0.2.1", "b:192.0.2.1"], ["a", "b"])
    assert seen["ports"] == ["0.0.0.0:53:53/udp", "127.0.0.1:9001:9001", "[::1]:9001:9001"]
    assert (seen["namespaces"], seen["restart"], seen["gpus"]) == (["ipc", "pid"], "on-failure:3", ["nvidia:-1"])
    assert (seen["swap"], seen["healthcheck"]["start_interval"]) == ("unlimited", "0.5s")


def test_how_a_container_ended() -> None:
    seen = container(state="exited", ended="2026-11-21T11:41:15.25Z", exit_code=137, restarts=2)
    assert (seen.id, seen.state, seen.ended_s, seen.exit_code, seen.restarts) == (
        "abc",
        "exited",
        1795261275.25,
        137,
        2,
    )


TOUCHED: dict[str, tuple[dict[str, Any], dict[str, Any], set[str]]] = {
    "docker update --memory": ({"Memory": 2**30, "MemorySwap": 2**30}, {}, {"memory"}),
    "docker update --memory-swap": ({"MemorySwap": 3 * 2**30}, {}, {"swap"}),
    "docker update --pids-limit": ({"PidsLimit": None}, {}, {"pids"}),
    "docker update --memory-reservation": ({"MemoryReservation": 2**20}, {}, {"mem_reservation"}),
    "docker update --cpuset-cpus": ({"CpusetCpus": "0"}, {}, {"cpuset"}),
    "docker update --cpuset-mems": ({"CpusetMems": "0"}, {}, {"cpuset_mems"}),
    "docker update --cpu-shares": ({"CpuShares": 2}, {}, {"cpu_shares"}),
    "every device allowed": ({"DeviceCgroupRules": ["a *:* rwm"]}, {}, {"device_cgroup_rules"}),
    "the host's users": ({"UsernsMode": "host"}, {}, {"userns_mode"}),
    "a cgroup of somebody's": ({"CgroupParent": "/mine"}, {}, {"cgroup_parent"}),
    "never ended for memory": ({"OomKillDisable": True}, {}, {"oom_kill_disable"}),
    "ended last for memory": ({"OomScoreAdj": -1000}, {}, {"oom_score_adj"}),
    "a domain to search": ({"DnsSearch": ["mine.example"]}, {}, {"dns_search"}),
    "an option of the resolver": ({"DnsOptions": ["ndots:9"]}, {}, {"dns_opt"}),
    "nothing of /proc kept from it": ({"MaskedPaths": [], "ReadonlyPaths": []}, {}, {"security_opt"}),
    "core dumps": ({"Ulimits": [{"Name": "nofile", "Hard": 65536, "Soft": 65536}]}, {}, {"ulimits"}),
    "a soft limit of its own": (
        {"Ulimits": [*HOST["Ulimits"][:1], {**HOST["Ulimits"][1], "Soft": 9}]},
        {},
        {"ulimits"},
    ),
    "the host's processes": ({"PidMode": "host"}, {}, {"namespaces"}),
    "another container's memory": ({"IpcMode": "container:abc"}, {}, {"namespaces"}),
    "the host's network": ({"NetworkMode": "host"}, {"networks": ["host", None]}, {"namespaces", "networks"}),
    "the host's name": ({"UTSMode": "host"}, {}, {"namespaces"}),
    "a disk of the host": ({"Devices": [{"PathOnHost": "/dev/sda", "PathInContainer": "/dev/sda"}]}, {}, {"devices"}),
    "a DNS server": ({"Dns": []}, {}, {"dns"}),
    "docker update --cpus": ({"NanoCpus": 10**9}, {}, {"cpus"}),
    "docker update --restart": ({"RestartPolicy": {"Name": "no"}}, {}, {"restart"}),
    "published to the network": (
        {"PortBindings": {"9001/tcp": [{"HostIp": "0.0.0.0", "HostPort": "9001"}]}},
        {},
        {"ports"},
    ),
    "published on every address": ({"PortBindings": {"9001/tcp": [{"HostIp": "", "HostPort": "9001"}]}}, {}, {"ports"}),
    "one more port": (
        {"PortBindings": {**HOST["PortBindings"], "22/tcp": [{"HostIp": "", "HostPort": "2222"}]}},
        {},
        {"ports"},
    ),
    "privileged": ({"Privileged": True}, {}, {"privileged"}),
    "capabilities": ({"CapAdd": ["SYS_ADMIN"], "CapDrop": None}, {}, {"cap_add", "cap_drop"}),
    "no security options": ({"SecurityOpt": None}, {}, {"security_opt"}),
    "a writable root": ({"ReadonlyRootfs": False}, {}, {"read_only"}),
    "reaped by a process of Docker's own": ({"Init": True}, {}, {"init"}),
    "another group": ({"GroupAdd": ["0"]}, {}, {"group_add"}),
    "without its GPU": ({"DeviceRequests": None}, {}, {"gpus"}),
    "every GPU": ({"DeviceRequests": [{"Driver": "nvidia", "Count": -1, "DeviceIDs": None}]}, {}, {"gpus"}),
    "another log driver": ({"LogConfig": {"Type": "none", "Config": {}}}, {}, {"logging.driver"}),
    "cut off from its network": ({}, {"networks": [None]}, {"networks"}),
    "on a second network": ({}, {"networks": ["bridge", "inner", None]}, {"networks"}),
    "one more file system in memory": ({"Tmpfs": {**HOST["Tmpfs"], "/mine": ""}}, {}, {"tmpfs"}),
    "a file system in memory without its size": ({"Tmpfs": {**HOST["Tmpfs"], "/tmp": ""}}, {}, {"tmpfs"}),
    "names of its own": ({"ExtraHosts": ["github.com:192.0.2.1"]}, {}, {"extra_hosts"}),
    "a kernel setting": ({"Sysctls": {"net.ipv4.ip_forward": "1"}}, {}, {"sysctls"}),
    "another folder": ({}, {"working_dir": "/"}, {"working_dir"}),
    "another signal to stop": ({}, {"stop_signal": "SIGKILL"}, {"stop_signal"}),
    "no health check": ({}, {"health": {"Test": ["NONE"]}}, {"healthcheck"}),
    "no health check at all": ({}, {"health": None}, {"healthcheck"}),
    "a health check that always succeeds": ({}, {"health": {**HEALTH, "Test": ["CMD", "exit"]}}, {"healthcheck"}),
    "another user": ({}, {"user": "root"}, {"user"}),
    "another image": ({}, {"image": "gpuhost/api:0"}, {"image"}),
    "another program": ({}, {"entrypoint": ["/usr/bin/env"]}, {"entrypoint"}),
    "a mount more": (
        {},
        {"mounts": [*inspected()["mounts"], {"Type": "bind", "Source": "/", "Destination": "/host", "RW": True}]},
        {"volumes./host"},
    ),
    "a mount that can be written": (
        {},
        {"mounts": [{**each, "RW": True} for each in inspected()["mounts"]]},
        {"volumes./models"},
    ),
}


@pytest.mark.parametrize(("host", "over", "fields"), TOUCHED.values(), ids=TOUCHED)
def test_what_somebody_changed_is_seen(host: dict[str, Any], over: dict[str, Any], fields: set[str]) -> None:
    found = {difference.field for difference in changed_settings(SPEC, container(host, **over))}
    assert {field if field.startswith(("volumes", "logging")) else field.partition(".")[0] for field in found} >= fields
    assert {field.partition(".")[0] for field in found} == {field.partition(".")[0] for field in fields}


def test_what_a_spec_does_not_name_is_dockers_default() -> None:
    bare = {"restart": "unless-stopped", "networks": ["inner"], "ports": SPEC["ports"]}
    found = {difference.field.partition(".")[0] for difference in changed_settings(bare, container())}
    assert {"memory", "cpus", "read_only", "gpus", "volumes"} <= found and "shm" not in found


def test_what_daemon_json_gives_to_every_container_was_changed_by_nobody() -> None:
    """dockerd merges its own log options and its default size of /dev/shm into what a container shows."""
    log = {"Type": "json-file", "Config": {"max-file": "3", "max-size": "10m", "tag": "x"}}
    assert changed_settings(SPEC, container({"LogConfig": log, "ShmSize": 2**30})) == ()
    assert (
        changed_settings(SPEC, container({"Ulimits": [*HOST["Ulimits"], {"Name": "cpu", "Hard": 9, "Soft": 9}]})) == ()
    )
    less = {"Type": "json-file", "Config": {"max-file": "3"}}
    [difference] = changed_settings(SPEC, container({"LogConfig": less}))
    assert difference.field == "logging.options.max-size"


def test_another_runtime_than_was_asked_for_is_seen() -> None:
    """daemon.json may have a default of its own for those that ask for none."""
    assert changed_settings(SPEC, container({"Runtime": "mine"})) == ()
    asked = {**SPEC, "runtime": "nvidia"}
    assert changed_settings(asked, container({"Runtime": "nvidia"})) == ()
    assert [each.field for each in changed_settings(asked, container({"Runtime": "runc"}))] == ["runtime"]


def test_a_kernel_that_does_not_count_swap_is_no_drift() -> None:
    """Docker then keeps -1 of any limit."""
    assert changed_settings(SPEC, container({"MemorySwap": -1})) == ()


@pytest.mark.parametrize("stamp", ["", "0123abcd", "[]", "{"])
def test_a_label_that_cannot_be_read(stamp: str) -> None:
    labels = {"gpuhost.service": "api", "gpuhost.spec": stamp}
    assert container(labels=labels).spec is None


def test_a_container_of_which_little_is_known() -> None:
    bare = Container("id", "a", "a", "front", "running")
    assert (bare.own, bare.health, bare.image_id, bare.environment, bare.spec) == ("", "", "", None, None)
    assert (bare.started_s, bare.restarts, bare.ended_s, bare.exit_code, bare.gpus_denied) == (0.0, 0, 0.0, 0, False)
    assert (bare.gpus, bare.ports, bare.holds, bare.added, bare.image_settings) == ([], set(), (), {}, {})
    assert container(labels={"gpuhost.service": "api"}).project == ""


def test_a_one_off_container_says_so() -> None:
    assert container(labels={"gpuhost.service": "api", "com.docker.compose.oneoff": "True"}).own == "run"


@pytest.mark.parametrize(
    ("text", "size", "shown"),
    [
        ("28g", 28 * 2**30, "28g"),
        ("1024m", 2**30, "1g"),
        ("512mb", 2**29, "512m"),
        ("3k", 3072, "3k"),
        ("0", 0, "0"),
    ],
)
def test_sizes(text: str, size: int, shown: str) -> None:
    assert (size_bytes(text), size_text(size)) == (size, shown)


# --- What a container has of its image --------------------------------------------------------------------------------

# A service that asks for none of it.
ASKED = ("user", "command", "entrypoint", "working_dir", "stop_signal", "healthcheck")
PLAIN = {key: value for key, value in SPEC.items() if key not in ASKED}


def of_image(image: dict[str, Any] | None = None, **over: Any) -> Container:
    """A container for which nobody asked for more than its image gives. `image`: where it gives something else."""
    identity, settings = parse_image(json.dumps({**IMAGE, **(image or {})}))
    made = {"user": "", "stop_signal": None, "health": None, **over}
    found = container(**made)
    assert found.image_id == identity
    return replace(found, image_settings=settings)


def test_what_an_image_gives_was_changed_by_nobody() -> None:
    assert changed_settings(PLAIN, of_image()) == ()


@pytest.mark.parametrize(
    ("over", "field"),
    [
        ({"entrypoint": ["/usr/bin/env"]}, "entrypoint"),
        ({"entrypoint": None}, "entrypoint"),
        ({"command": ["sleep", "3600"]}, "command"),
        ({"user": "0:0"}, "user"),
        ({"working_dir": "/"}, "working_dir"),
        ({"stop_signal": "SIGKILL"}, "stop_signal"),
        ({"health": {"Test": ["NONE"]}}, "healthcheck.test"),
    ],
)
def test_what_is_not_as_the_image_gives_it_is_seen(over: dict[str, Any], field: str) -> None:
    assert [each.field for each in changed_settings(PLAIN, of_image(**over))] == [field]
    gone = replace(of_image(**over), image_settings={})
    assert changed_settings(PLAIN, gone) == ()  # nobody knows what it gave


def test_what_a_service_asks_for_counts_before_what_its_image_gives() -> None:
    assert changed_settings({**PLAIN, "entrypoint": ["/mine"]}, of_image(entrypoint=["/mine"], command=None)) == ()
    [seen] = changed_settings({**PLAIN, "entrypoint": ["/mine"]}, of_image(entrypoint=["/mine"]))
    assert (seen.field, seen.after) == ("command", "[]")  # an image's command goes with its own entrypoint
    assert changed_settings({**PLAIN, "command": ["other"]}, of_image(command=["other"])) == ()
    assert changed_settings({**PLAIN, "entrypoint": []}, of_image(entrypoint=[])) == ()


@pytest.mark.parametrize(
    ("over", "own"),
    [
        ({"name": "/mine", "image": "mine:1"}, "copy"),  # docker commit api mine:1; docker run --name mine mine:1
        ({"name": "/mine"}, ""),  # renamed
        ({"image": "mine:1"}, ""),  # made again by hand from another image
    ],
)
def test_what_somebody_runs_from_a_copy_of_a_container_is_his(over: dict[str, Any], own: str) -> None:
    assert container(**over).own == own
    for stamp in ("{", "[]", "{}", "3"):  # nobody knows of what it was made
        labels = {**inspected()["labels"], "gpuhost.spec": stamp}
        assert container(**over, labels=labels).own == ""
