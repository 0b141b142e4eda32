"""Facts: what is read of a host, from recorded lines; the scripts themselves run here under a plain sh."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
from dataclasses import asdict, replace
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from gpuhost.apt.facts import AptReading, AptState
from gpuhost.engine.facts import DockerReading, DockerState
from gpuhost.errors import UserError
from gpuhost.files.facts import FilesState, Texts
from gpuhost.gpu.facts import Gpu, GpuProcess
from gpuhost.host.facts import BRIDGE_OPTION, HostContainer, HostReading, HostState, parse
from gpuhost.host.measures import Measure, noted
from hostside.protocol.verify import Held
from tests.unit.engine.test_containers import IMAGE, inspected


def sh(script: str) -> list[str]:
    done = subprocess.run(["sh"], input=script, capture_output=True, text=True, check=True, timeout=20)
    return done.stdout.splitlines()


def command(*roots: str, measured: str = "/absent", stamp: str = "/absent") -> str:
    accounts = [("svc", 10001, 10001), ("svc-api", 10002, 10002)]
    return HostState().command(list(roots), list(roots), accounts, measured, stamp)


def docker() -> str:
    return DockerState().command(["images", "networks", "containers"])


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


# --- The host -----------------------------------------------------------------------------------------------------

LINES = """\
os	PRETTY_NAME="Debian GNU/Linux 13 (trixie)"
os	VERSION_ID="13"
os	VERSION_CODENAME=trixie
os	ID=debian
os	HOME_URL="https://www.debian.org/"
os	BUG_REPORT_URL=
arch	x86_64
init	systemd
cpus	16
memory_kib	131072000
disk_kib	/srv/my data	512000	/dev/sdb1 /srv
disk_kib	/var/lib/state	1024	/dev/sda1 /
disk_kib	/var/lib/docker	1023	/dev/sda1 /
measure	service	api	43.1	
measure	image	gpuhost/api	61.0	9876543210
measure	torn
mount	/
mount	/srv
listen	0100007F:1FF8
listen	00000000000000000000000000000000:0016
listener	0.0.0.0:22	users:(("sshd",pid=712,fd=3))
listener	[::1]:631	users:(("cupsd",pid=801,fd=7),("cupsd",pid=802,fd=7))
listener	127.0.0.1:8184
route	eth0	00000000	00000000
route	eth0	0000FEA9	0000FFFF
route	docker0	000011AC	0000FFFF
daemon_json	e30=
docker_network	bridge	172.17.0.0/16 	null
docker_network	host		{}
docker_network	dual	172.30.0.0/16 fd00::/64 	{"com.docker.network.bridge.name":"gh-dual"}
docker_version	29.0.1
docker_info	true	inactive	/var/lib/docker
daemon_json_kind	symbolic link	/opt/theirs.json
docker_silent	yes
user	admin	10001
group	svc	10001
engine	docker-ce
apt_source	/etc/apt/sources.list.d/docker.list	https://apt.example/debian
container	/api	paused	unless-stopped	"api"	"False"	9001 	nvidia.com/gpu=GPU-1 nvidia.com/gpu=GPU-2 	"a"	null	false
container	/painter	exited	no	"painter"	null	9002 9003-9005 		"acme/painter"	null	false
container	/api-run-1	running	no	"api"	"True"	9009 		"a"	"{\\"image\\":\\"a\\"}"	true
container	/theirs	running	no	null	null			"theirs:1"	null	false
container	/copy-of-api	running	no	"api"	null	9010 		"mine:1"	"{\\"image\\":\\"a\\"}"	false
container	/renamed	exited	no	"painter"	null	9011 		"acme/painter"	"{\\"image\\":\\"acme/painter\\"}"	false
nvidia_pci	0x030200
nvidia_module	 NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build  (dvs-builder@U22)
nvidia_library	/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.580.159.04
gpu	0, GPU-00000000-1111-2222-3333-444444444444, NVIDIA H200, 143771, 143156, 580.159.04, 9.0, Disabled
gpu	1, GPU-00000000-5555-2222-3333-444444444444, NVIDIA GB10, [N/A], [N/A], 580.159.04, 12.1, [N/A]
gpu_process	4711, python3, 640, GPU-00000000-1111-2222-3333-444444444444
end	end
"""  # noqa: E501


@pytest.fixture(scope="module")
def host() -> HostReading:
    return parse(LINES.splitlines())


def test_the_system(host: HostReading) -> None:
    assert (host.os_id, host.os_version, host.suite, host.deb_arch) == ("debian", "13", "trixie", "amd64")
    assert host.os["PRETTY_NAME"] == "Debian GNU/Linux 13 (trixie)"
    assert (host.init, host.wsl, host.cpus, host.memory_kib) == ("systemd", False, 16, 131072000)


def test_space_and_mounts(host: HostReading) -> None:
    assert host.disk_kib == {"/srv/my data": 512000, "/var/lib/state": 1024}  # a file system once
    assert [host.disk_of(each) for each in ("/srv/my data", "/var/lib/state", host.docker_root)] == [
        *("/srv/my data", "/var/lib/state", "/var/lib/state"),
    ]
    assert host.disk_of("/nobody/looked") == ""
    assert host.mounts == {"/", "/srv"}


def test_what_took_how_long_the_last_time(host: HostReading) -> None:
    assert host.measures == [Measure("service", "api", 43.1), Measure("image", "gpuhost/api", 61.0, 9876543210)]


def test_who_listens_where(host: HostReading) -> None:
    assert host.listening == {8184: "", 22: "sshd (pid 712)", 631: "cupsd (pid 801)"}


def test_networks(host: HostReading) -> None:
    # The default route is no subnet that anybody has.
    assert host.routes == [("eth0", IPv4Network("169.254.0.0/16")), ("docker0", IPv4Network("172.17.0.0/16"))]
    assert host.networks == {
        "bridge": ["172.17.0.0/16"],
        "host": [],
        "dual": ["172.30.0.0/16", "fd00::/64"],
    }
    assert host.network_options == {"bridge": {}, "host": {}, "dual": {BRIDGE_OPTION: "gh-dual"}}
    assert host.published == {9001}  # of those that live


def test_containers(host: HostReading) -> None:
    assert host.containers == [
        HostContainer("api", "paused", "unless-stopped", "api", frozenset({9001}), ("GPU-1", "GPU-2")),
        HostContainer("painter", "exited", "no", "painter", frozenset({9002, 9003, 9004, 9005})),
        HostContainer("api-run-1", "running", "no", "", frozenset({9009}), (), True),
        HostContainer("theirs", "running", "no", ""),
        HostContainer("copy-of-api", "running", "no", "", frozenset({9010})),
        HostContainer("renamed", "exited", "no", "painter", frozenset({9011})),
    ]
    assert host.placed == {"api": ("GPU-1", "GPU-2")}


def test_what_others_left(host: HostReading) -> None:
    assert host.docker_silent and host.docker_version == "29.0.1" and host.engines == {"docker-ce"}
    assert host.apt_sources == [("/etc/apt/sources.list.d/docker.list", "https://apt.example/debian")]
    assert host.url_marks == {"os": "debian", "suite": "trixie", "arch": "amd64"}


SOURCES = """\
# ours once
Types: deb
URIs: https://off.example/a
Enabled: no

Types: deb
URIs: https://on.example/b https://on.example/c
Suites: trixie

Enabled: False
URIs: https://off.example/d

# URIs: https://comment.example/e
Enabled: yes
URIs: https://on.example/f
"""


def test_a_stanza_that_is_switched_off_does_not_hide_the_others(tmp_path: Path) -> None:
    script = command("/")
    loop = script[script.index("for file in /etc/apt/sources.list") :]
    loop = loop[: loop.index("\ndone") + 5].replace("/etc/apt/", f"{tmp_path}/")
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d" / "mixed.sources").write_text(SOURCES)
    (tmp_path / "sources.list").write_text("deb https://one.example/x stable main\n\n#deb https://gone.example/y s m\n")
    (tmp_path / "sources.list.d" / "two.list").write_text(
        "deb [trusted=yes] file:/srv/mine ./\n# deb cdrom:x\ndeb https://two.example/z s m\n"
    )
    found = parse(sh(f"t=\"$(printf '\\t')\"\n{loop}")).apt_sources
    assert found == [
        (f"{tmp_path}/sources.list", "https://one.example/x"),
        (f"{tmp_path}/sources.list.d/two.list", "https://two.example/z"),
        (f"{tmp_path}/sources.list.d/two.list", "other"),
        *((f"{tmp_path}/sources.list.d/mixed.sources", f"https://on.example/{name}") for name in "bcf"),
    ]


def test_who_has_the_accounts_names_and_ids(host: HostReading) -> None:
    assert (host.users, host.groups) == ({"admin": 10001}, {"svc": 10001})
    own = HostState().command(
        ["/"], ["/"], [("root", 0, 0), ("daemon", 1, 1), ("nobody-of-ours", 54321, 54321)], "/absent", "/absent"
    )
    found = HostState().process(sh(own))
    assert (found.users, found.groups) == ({"root": 0, "daemon": 1}, {"root": 0, "daemon": 1})


def test_what_lies_above_our_folders_is_read_as_it_is_called_and_where_links_lead(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    (real / "inner").mkdir(parents=True)
    real.chmod(0o777)
    link.symlink_to(real)
    script = HostState().command(["/"], [f"{link}/inner/ours", "/"], [("root", 0, 0)], "/absent", "/absent")
    above = {folder.path: folder for folder in HostState().process(sh(script)).above}
    assert {"/", str(tmp_path), str(real), str(link), f"{real}/inner", f"{link}/inner"} <= above.keys()
    assert f"{real}/inner/ours" not in above
    assert (above[str(real)].kind, above[str(real)].mode, above[str(real)].uid) == ("directory", "777", os.geteuid())
    assert above[str(link)].kind == "symbolic link"


def test_gpus(host: HostReading) -> None:
    driver = "580.159.04"
    rest = "2222-3333-444444444444"
    process = GpuProcess(4711, "python3", 640)
    assert host.gpus == [
        Gpu(
            "GPU-00000000-1111-2222-3333-444444444444",
            "NVIDIA H200",
            143771,
            143156,
            driver,
            0,
            "9.0",
            False,
            (process,),
        ),
        # memory shared with the host
        Gpu(f"GPU-00000000-5555-{rest}", "NVIDIA GB10", 0, 0, driver, 1, "12.1"),
    ]
    assert (host.nvidia_pci, host.nvidia_error) == (1, "")
    assert (host.nvidia_module, host.nvidia_library) == (driver, driver)
    assert not host.nouveau and not host.secure_boot


def test_the_engine_that_runs(host: HostReading) -> None:
    assert host.live_restore and not host.swarm and not host.docker_desktop
    assert host.daemon_json_kind == ("symbolic link", "/opt/theirs.json")
    other = parse(["docker_info\tfalse\tactive\t/mnt/docker", "docker_desktop\tyes"])
    assert not other.live_restore and other.swarm and other.docker_desktop and other.docker_root == "/mnt/docker"


@pytest.mark.parametrize(
    ("text", "seen"),
    [('{"debug":true}\n', {"debug": True}), ("", {}), ("[]", {}), ('{"deb', {}), ("\0\n", {})],
    ids=["written", "empty", "no object", "cut", "after a power cut"],
)
def test_what_of_daemon_json_is_our_work(tmp_path: Path, text: str, seen: dict[str, Any]) -> None:
    """Where nobody knows, it is nobody's."""
    file = tmp_path / "a stamp"
    assert HostState().process(sh(command("/", stamp=str(file)))).engine_written == {}
    file.write_text(text)
    assert HostState().process(sh(command("/", stamp=str(file)))).engine_written == seen
    file.write_bytes(b"\xff{}")
    assert HostState().process(sh(command("/", stamp=str(file)))).engine_written == {}


@pytest.mark.parametrize("end", ["", "\n"])
def test_a_value_may_end_with_anything(end: str) -> None:
    assert parse([f"mount\t/srv/X{end}"]).mounts == {"/srv/X"}


def test_of_a_host_that_says_nothing_nothing_is_known() -> None:
    known = {name: value for name, value in asdict(parse([])).items() if value not in ({}, [], set())}
    texts = ("arch", "init", "docker_version", "nvidia_error", "nvidia_module", "nvidia_library")
    flags = ("wsl", "docker_silent", "docker_desktop", "live_restore", "swarm", "nouveau", "secure_boot")
    none = {"daemon_json": None, "daemon_json_kind": None, "cpus": 0, "memory_kib": 0, "nvidia_pci": 0}
    assert known == {
        **dict.fromkeys(texts, ""),
        **dict.fromkeys(flags, False),
        **none,
        "docker_root": "/var/lib/docker",
    }
    assert parse([]).url_marks == {"os": "unknown", "suite": "", "arch": ""} and parse([]).os_version == ""


def test_a_route_is_that_of_its_whole_network() -> None:
    """The kernel writes addresses with their last byte first."""
    assert parse(["route\twg0\t0105A8C0\t00FFFFFF"]).routes == [("wg0", IPv4Network("192.168.5.0/24"))]


def test_a_swarm_that_docker_does_not_speak_of_is_none() -> None:
    for said in ("", "inactive"):
        assert not parse([f"docker_info\tfalse\t{said}\t/var/lib/docker"]).swarm


@pytest.mark.parametrize(
    ("one_off", "service", "image", "ours"),
    [
        (None, "api", "gpuhost/api:1", "api"),
        ("False", "api", "gpuhost/api:1", "api"),
        ("True", "api", "gpuhost/api:1", ""),
        (None, None, "acme/x:1", ""),
        (None, "api", "mine:1", ""),
    ],
)
def test_whose_a_container_is(one_off: str | None, service: str | None, image: str, ours: str) -> None:
    stamp = json.dumps({"image": "gpuhost/api:1"})
    labels = [json.dumps(each) for each in (service, one_off)]
    values = ["/x", "running", "no", *labels, "80 8000-8002 ", "nvidia.com/gpu=GPU-a GPU-b ", json.dumps(image)]
    line = "\t".join(["container", *values, json.dumps(stamp), "true"])
    [found] = parse([line]).containers
    assert found == HostContainer(
        "x", "running", "no", ours, frozenset({80, 8000, 8001, 8002}), ("GPU-a", "GPU-b"), True, ""
    )
    assert parse([f"{line}\tabc"]).containers[0].id == "abc" and found.id == ""


def test_lines_of_another_kind_are_left_alone() -> None:
    assert parse(["Welcome to this host!", "", "motd\tx"]) == HostReading()


def test_the_rest_is_read_while_nvidia_smi_wakes_the_driver(tmp_path: Path) -> None:
    """Each waits for the other."""
    begun, done = tmp_path / "begun", tmp_path / "done"
    os.mkfifo(begun)
    os.mkfifo(done)
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\necho > {begun}; cat {done}; false\n")
    (tmp_path / "getconf").write_text(f"#!/bin/sh\ncat {begun} >/dev/null; echo > {done}; echo 7\n")
    for name in ("nvidia-smi", "getconf"):
        (tmp_path / name).chmod(0o755)
    script = f"PATH={tmp_path}:$PATH\n{command('/')}"
    reading = parse(sh(script))
    assert reading.cpus == 7 and reading.nvidia_error == "" and reading.memory_kib > 0


def test_the_script_reads_this_machine_without_python(tmp_path: Path) -> None:
    root = tmp_path / "a folder" / "not made yet"
    reading = HostState().process(sh(command(str(root))))
    assert reading.cpus >= 1 and reading.memory_kib > 1000
    assert reading.disk_kib[str(root)] > 0  # of the nearest folder that is there
    both = HostState().process(sh(command(str(root), str(root.parent))))
    assert str(root.parent) not in both.disk_kib  # one a file system
    assert both.disk_of(str(root.parent)) == str(root) and both.disk_of(both.docker_root)
    assert both.measures == []
    file = tmp_path / "a file"
    sh(f"began=0; {noted(str(file), 'service', 'api')}")
    assert [each.name for each in HostState().process(sh(command("/", measured=str(file)))).measures] == ["api"]
    assert "/proc" in reading.mounts
    assert reading.arch == os.uname().machine


# --- Files --------------------------------------------------------------------------------------------------------


def test_files_as_they_are(tmp_path: Path) -> None:
    text, empty, folder, link = (tmp_path / name for name in ("it's a file", "empty", "folder", "link"))
    text.write_text("content\n")
    text.chmod(0o640)
    empty.touch(0o600)
    folder.mkdir(0o755)
    link.symlink_to("nowhere")
    paths = [str(path) for path in (text, empty, folder, link, tmp_path / "absent")]
    found = FilesState().process(sh(FilesState().command(paths)))
    assert {path: (state.kind, state.mode) for path, state in found.items() if path != str(link)} == {
        str(text): ("regular file", "640"),
        str(empty): ("regular empty file", "600"),
        str(folder): ("directory", "755"),
    }
    assert found[str(text)].sha256 == "434728a410a78f56fc1b5899c3593436e61ab0c731e9072d95e96db290205e53"
    assert found[str(text)].user == text.owner()
    assert (found[str(link)].kind, found[str(link)].sha256) == ("symbolic link", "-")


def test_texts_of_any_content(tmp_path: Path) -> None:
    path = tmp_path / "stamp $x"
    path.write_text("tab\there\nend\nno newline at the end, ü")
    found = Texts().process(sh(Texts().command([str(path), str(tmp_path / "absent")])))
    assert found == {str(path): "tab\there\nend\nno newline at the end, ü"}


def test_an_account_is_looked_for_by_its_name_and_by_its_ids() -> None:
    script = HostState().command(["/"], [], [("svc", 10001, 10002), ("other", 10003, 10004)], "/absent", "/absent")
    assert "getent passwd svc 10001 other 10003 |" in script
    assert "getent group svc 10002 other 10004 |" in script


def test_no_path_at_all() -> None:
    assert FilesState().process(sh(FilesState().command([]))) == {}
    assert Texts().process(sh(Texts().command([]))) == {}


# --- apt ----------------------------------------------------------------------------------------------------------


def test_packages_holds_and_unread_sources() -> None:
    lines = [
        "package\tcurl\t8.14.1-2",
        "hold\tnvidia-container-toolkit",
        "unread\t/etc/apt/sources.list.d/new.sources\tnot read since it changed:",
        "end\tend",
    ]
    assert AptState().process(lines) == AptReading(
        {"curl": "8.14.1-2"},
        {"nvidia-container-toolkit"},
        {"/etc/apt/sources.list.d/new.sources": "not read since it changed:"},
    )
    assert AptState().process(["end\tend"]) == AptReading()
    assert AptState().process(["download\t1234", "end\tend"]).download_bytes == 1234


def test_what_apt_would_download_is_what_its_indexes_say(tmp_path: Path) -> None:
    """An `apt-get` that knows one package; what it is asked."""
    program = tmp_path / "apt-get"
    program.write_text(
        f"""#!/bin/sh
echo "$*" >> {tmp_path}/asked
case "$*" in *" unknown"*) echo "E: Unable to locate package unknown" >&2; exit 100;; esac
echo "'http://apt.example/jq.deb' jq_1_amd64.deb 2147483648 SHA256:00"
echo "'http://apt.example/libjq.deb' libjq_1_amd64.deb 1000 SHA256:00"
"""
    )
    program.chmod(0o755)

    def found(*install: str) -> int | None:
        script = AptState().command(["jq"], "/stamp", install=install)
        return AptState().process(sh(f"PATH={tmp_path}:$PATH\n{script}")).download_bytes

    assert found("jq=1", "libjq") == 2147484648
    [asked] = (tmp_path / "asked").read_text().splitlines()
    assert asked.endswith(" install jq=1 libjq") and "--print-uris" in asked and "Dir::Cache::pkgcache= " in asked
    assert found("jq", "unknown") is None
    assert found() is None and len((tmp_path / "asked").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("stamp", "lists", "newer", "why"),
    [
        (True, True, False, None),
        (False, True, False, "gpuhost has not read"),
        (True, False, False, "apt has no index of"),
        (True, True, True, "not read since it changed:"),
    ],
)
def test_why_apts_index_lacks_a_source(tmp_path: Path, stamp: bool, lists: bool, newer: bool, why: str | None) -> None:
    """Of one source of ours; what apt has of other repositories does not count."""
    folder, source, read = tmp_path / "lists", tmp_path / "gpuhost-x.sources", tmp_path / "stamp"
    folder.mkdir()
    (folder / "other.example_Packages").touch()
    source.write_text("Types: deb\n")
    if stamp:
        read.touch()
    if lists:
        (folder / "apt.example_a_b_dists_x_InRelease").touch()
    os.utime(source, (2, 2) if newer else (1, 1))
    if stamp:
        os.utime(read, (1, 1) if newer else (2, 2))
    script = AptState().command([], str(read), str(source), "https://apt.example/a/b/")
    found = AptState().process(sh(script.replace("/var/lib/apt/lists", str(folder)))).unread
    assert found == ({str(source): why} if why else {})


@pytest.mark.parametrize("indexes", [True, False])
def test_of_all_other_sources_any_index_counts(tmp_path: Path, indexes: bool) -> None:
    lists, stamp = tmp_path / "lists", tmp_path / "stamp"
    lists.mkdir()
    (tmp_path / "apt" / "sources.list.d").mkdir(parents=True)
    source = tmp_path / "apt" / "sources.list.d" / "debian.sources"
    source.touch()
    stamp.touch()
    os.utime(source, (1, 1))
    if indexes:
        (lists / "deb.example_dists_x_main_binary-amd64_Packages.lz4").touch()
    script = AptState().command([], str(stamp)).replace("/var/lib/apt/lists", str(lists))
    found = AptState().process(sh(script.replace("/etc/apt", str(tmp_path / "apt")))).unread
    assert list(found) == ([] if indexes else [str(source)])


# --- Docker -------------------------------------------------------------------------------------------------------


def test_no_docker() -> None:
    assert DockerState().process(["absent"]) == DockerReading(installed=False)


def test_docker_that_does_not_run() -> None:
    reading = DockerState().process(["at_boot\tenabled", f"config\t{encoded('{}')}", "stale", "end"])
    assert reading == DockerReading(installed=True, at_boot="enabled", config={}, stale=True)


def test_docker_that_runs() -> None:
    container = inspected(name="/api", started="2026-11-21T11:41:15.25Z")
    lines = [
        "active",
        "version\t29.0.1",
        'image\t{"tags":["gpuhost/api:1","gpuhost/api:old"],"spec":"s"}',
        'image\t{"tags":null,"spec":"dangling"}',
        "tag\tgpuhost/api:1",
        "tag\tacme/server@sha256:aa",
        'network\t{"name":"inner","subnets":["172.20.0.0/16"]}',
        'network\t{"name":"none","subnets":[]}',
        "now\t1795261275.500000000",
        f"container\t{json.dumps(container)}",
        f"container\t{json.dumps({**container, 'name': '/0123456789ab_api', 'id': 'def', 'image_id': 'gone'})}",
        f"container\t{json.dumps({**container, 'name': '/mine', 'id': 'ghi', 'image': 'mine:1'})}",
        f"of_image\t{json.dumps(IMAGE)}",
        "end",
    ]
    reading = DockerState().process(lines)
    assert (reading.installed, reading.active, reading.at_boot, reading.version) == (True, True, "", "29.0.1")
    assert reading.images == {"gpuhost/api:1": "s", "gpuhost/api:old": "s"}
    assert reading.tags == {"gpuhost/api:1", "acme/server@sha256:aa"}
    assert reading.networks == {"inner": ["172.20.0.0/16"], "none": []}
    one, other, copy = reading.containers
    assert (one.own, other.own, copy.own) == ("", "", "copy")
    assert (one.name, other.name, one.service) == ("api", "0123456789ab_api", "api")
    assert one.image_settings["entrypoint"] == ["/entry"] and other.image_settings == {}
    assert one.started_s == 1795261275.25 < reading.now_s


def test_what_a_container_has_of_the_host_is_read_beside_what_lies_there(tmp_path: Path) -> None:
    """A fake `docker` says which process it is: this test's own, whose view of the files is the host's."""
    kept, gone, inside = tmp_path / "kept", tmp_path / "gone", tmp_path / "inside it"
    for folder in (kept, inside):
        folder.mkdir()
    programs = tmp_path / "bin"
    programs.mkdir()
    runs, stopped = inspected(id="abc"), inspected(id="def", name="/other", state="exited")
    shown = [
        f"container\t{json.dumps(runs)}",
        f"bind\tabc\t{os.getpid()}\t{kept}\t{kept}",
        f"bind\tabc\t{os.getpid()}\t{kept}\t{inside}",
        f"bind\tabc\t{os.getpid()}\t{gone}\t{inside}",
        "",
        f"container\t{json.dumps(stopped)}",
        f"bind\tdef\t0\t{kept}\t{kept}",
        "",
    ]
    (tmp_path / "shown").write_text("\n".join(shown))
    docker = f'#!/bin/sh\ncase "$1" in version) echo 29.0.1;; ps) echo abc;; inspect) cat {tmp_path}/shown;; esac\n'
    for name, text in (("docker", docker), ("systemctl", "#!/bin/sh\n")):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    found = DockerState().read(sh(f"PATH={programs}:$PATH\n{DockerState().command(['containers'])}"))
    inodes = {path: f"{path.stat().st_dev}:{path.stat().st_ino}" for path in (kept, inside)}
    [one, other] = found.containers
    assert one.holds == (
        Held(str(kept), str(kept), inodes[kept], inodes[kept]),
        Held(str(kept), str(inside), inodes[inside], inodes[kept]),
        Held(str(gone), str(inside), inodes[inside], None),
    )
    assert (other.name, other.holds) == ("other", ())


def test_a_reading_that_ends_in_the_middle_is_none() -> None:
    """Docker died between two questions: nothing seems to be there."""
    with pytest.raises(UserError, match="stopped answering"):
        DockerState().read(["active", "version\t29.0.1"])


def test_a_broken_daemon_json_fails_this_host_alone() -> None:
    with pytest.raises(UserError, match=r"daemon\.json is not JSON"):
        DockerState().read([f"config\t{encoded('{')}", "end"])


def test_no_environment_is_ever_read() -> None:
    script = docker() + command("/x")
    assert "Env" not in script and ".Config.Labels" in script
    # Nor as a part of something larger.
    assert not re.findall(r"json +\.(?:Config)? *}}|{{ *\.Config *}}", script)


@pytest.mark.parametrize(
    "script",
    [
        docker(),
        AptState().command(["a b", "c"], "/stamp"),
        command("/x"),
    ],
    ids=["docker", "apt", "host"],
)
def test_the_scripts_are_plain_sh(script: str) -> None:
    subprocess.run(["sh", "-n"], input=script, text=True, check=True, timeout=10)


def test_what_others_hold_of_a_gpu() -> None:
    """Of a card on which a container of ours lives, what foreign processes say; of another one, all that is taken."""
    ours, theirs = "a" * 64, "b" * 64
    mine = GpuProcess(1, "python3", 9000, ours)
    others = (GpuProcess(2, "python3", 700, theirs), GpuProcess(3, "Xorg", 40))
    gpus = [
        Gpu("GPU-0", "NVIDIA", 24576, 14000, "580", processes=(mine, *others)),
        Gpu("GPU-1", "NVIDIA", 24576, 24276, "580"),
    ]
    lives = HostContainer("paint", "running", "no", "paint", gpus=("GPU-0",), id=ours)
    somebodys = HostContainer("own", "running", "no", "", gpus=("GPU-0",), id=theirs)
    reading = HostReading(gpus=gpus, containers=[lives, somebodys])
    assert reading.foreign_vram == {"GPU-0": 740, "GPU-1": 300}
    assert HostReading(gpus=gpus, containers=[replace(lives, state="exited")]).foreign_vram["GPU-0"] == 10576


def test_of_a_process_on_a_gpu_the_container_is_read() -> None:
    lines = ["gpu\t0, GPU-0, NVIDIA, 24576, 24000, 580", f"gpu_process\t7, python3, 640, GPU-0\t{'c' * 64}"]
    [found] = parse(lines).gpus
    assert found.processes == (GpuProcess(7, "python3", 640, "c" * 64),)
