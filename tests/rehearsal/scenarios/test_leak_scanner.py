"""Every instrument of the leak scan finds what is planted for it, under its name, and nothing before."""

from __future__ import annotations

import io
import os
import random
import shlex
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

from ..instruments.leaks import (
    Canaries,
    Processes,
    SshCommands,
    in_container_logs,
    in_journal,
    in_labels,
    in_layers,
    on_host,
)
from ..instruments.watcher import Watched, watch, watch_local
from ..world.freshhost import FreshHost
from ..world.run import run
from ..world.world import BUSYBOX_IMAGE, World

pytestmark = pytest.mark.rehearsal

SEED = 8193
NASTY = "'\"$& é\\%"
ENGINE = f"""
export DEBIAN_FRONTEND=noninteractive
apt-get update -q && apt-get install -y -q --no-install-recommends docker.io docker-cli
docker pull -q {BUSYBOX_IMAGE}
"""
FOLDERS = ("/tmp", "/run/a", "/var/lib/docker", "/var/lib/docker/volumes/x y", "/home/admin/.b", "/root", "/dev/shm")
Look = Callable[[Canaries, FreshHost], list[str]]


@dataclass(frozen=True)
class Channel:
    """How to plant "$x" (a shell's variable) or a build context on stdin, how to remove it, and what must see it.

    `form`: where only this one will do. `found_as`: what it is when the channel encodes it once more.
    """

    look: Look
    plant: str
    clean: str = ":"
    context: Callable[[bytes], dict[str, bytes]] | None = None
    form: str = ""
    found_as: str = ""


BUILD = "DOCKER_BUILDKIT=0 docker build -q -t leak"
UNTAG = "docker image rm leak"
UNNAME = "docker rm -f leak"
SAY = f"docker run -i --name leak {BUSYBOX_IMAGE}"
CHANNELS = {
    "JOURNAL": Channel(in_journal, "printf '%s\\n' \"$x\" | systemd-cat -t leak; journalctl --sync"),
    # What is long lies compressed in the journal's file.
    "LONG_JOURNAL": Channel(
        in_journal, "{ head -c 20000 /dev/zero | tr '\\0' a; printf '%s' \"$x\"; } | systemd-cat; journalctl --sync"
    ),
    "CONTAINER_LABEL": Channel(in_labels, f'docker create --name leak --label "key=$x" {BUSYBOX_IMAGE}', UNNAME),
    "LABEL_KEY": Channel(
        in_labels, f'docker create --name leak --label "$x=1" {BUSYBOX_IMAGE}', UNNAME, form="raw in base64 at 0"
    ),
    "IMAGE_LABEL": Channel(in_labels, f'echo "FROM {BUSYBOX_IMAGE}" | {BUILD} --label "key=$x" -', UNTAG),
    "NETWORK_LABEL": Channel(in_labels, 'docker network create --label "key=$x" leak', "docker network rm leak"),
    "VOLUME_LABEL": Channel(in_labels, 'docker volume create --label "key=$x" leak', "docker volume rm leak"),
    "VOLUME_NAME": Channel(
        in_labels, 'docker volume create "v$x"', 'docker volume rm "v$x"', form="raw in base64 at 1, first half"
    ),
    "IMAGE_FILE": Channel(
        in_layers, f"{BUILD} -", UNTAG, lambda x: {"Dockerfile": b"FROM scratch\nCOPY a /\n", "a": b"\0" * 999 + x}
    ),
    "OVERWRITTEN_FILE": Channel(
        in_layers,
        f"{BUILD} -",
        UNTAG,
        lambda x: {"Dockerfile": b"FROM scratch\nCOPY a /f\nCOPY b /f\n", "a": x, "b": b"clean"},
    ),
    "FILE_NAME": Channel(
        in_layers,
        f"{BUILD} -",
        UNTAG,
        lambda x: {"Dockerfile": b"FROM scratch\nCOPY d /\n", f"d/{os.fsdecode(x)}": b""},
    ),
    "IMAGE_ENV": Channel(
        in_layers,
        f'printf \'FROM {BUSYBOX_IMAGE}\\nARG x\\nENV key="$x"\\n\' | {BUILD} --build-arg "x=$x" -',
        UNTAG,
        form="raw",
        found_as="Go JSON",
    ),
    "STDOUT": Channel(in_container_logs, f"printf '%s' \"$x\" | {SAY} cat", UNNAME),
    "STDERR": Channel(in_container_logs, f"printf '%s' \"$x\" | {SAY} sh -c 'cat >&2' 2>/dev/null", UNNAME),
}
LOOKS = (on_host, *dict.fromkeys(channel.look for channel in CHANNELS.values()))


@pytest.fixture(scope="module")
def leaky(world: World) -> Iterator[FreshHost]:
    """A host with the distribution's Docker and one image."""
    host = world.boot("leaky", gpus=[])
    host.root(ENGINE, check=True)
    yield host
    world.destroy(host)


@pytest.fixture(scope="module")
def canaries() -> Canaries:
    """One for each place, the same in every run."""
    chance = random.Random(SEED)
    names = [*CHANNELS, "FILE", "NAME", "LINK", "KEY", "PROCESS", "SSH", "STDIN", "WATCHED"]
    values = {name: f"{chance.randbytes(12).hex()}{NASTY}{chance.randbytes(6).hex()}" for name in names}
    return Canaries({**values, "KEY": f"-----BEGIN\n{values['KEY']}\n\n{chance.randbytes(40).hex()}\nEND-----\n"})


def some_form(canaries: Canaries, name: str, turn: int = 0, form: str = "") -> tuple[str, bytes]:
    """What the finding must say, and the bytes to plant: in a form by chance, the same in every run, or in `form`."""
    forms = canaries.forms(name)
    chosen = form or random.Random(f"{SEED} {name} {turn}").choice(sorted(forms))
    return f"{name} as {chosen.partition(',')[0]}", forms[chosen]


def hits(findings: list[str]) -> set[str]:
    """The "NAME as FORM" of findings."""
    return {line.rpartition(": ")[2] for line in findings}


def names(findings: list[str]) -> set[str]:
    """The names alone."""
    return {hit.partition(" as ")[0] for hit in hits(findings)}


def with_x(script: str) -> str:
    """A script that finds in "$x" what it gets by stdin: no argument and no file shows it."""
    return f"set -e; x=$(cat; echo .); x=${{x%.}}; exec </dev/null >/dev/null; export x\n{script}"


# -- the host's files and its Docker ------------------------------------------------------------------------------


@pytest.mark.parametrize("look", LOOKS, ids=lambda look: look.__name__)
def test_nothing_is_found_before_anything_is_planted(look: Look, leaky: FreshHost, canaries: Canaries) -> None:
    assert look(canaries, leaky) == []


def test_contents_names_and_links_of_the_hosts_files_are_found(leaky: FreshHost, canaries: Canaries) -> None:
    files = {f"{folder}/planted {turn}": some_form(canaries, "FILE", turn) for turn, folder in enumerate(FOLDERS)}
    wanted = {"/srv/wanted/deep/er/.env": some_form(canaries, "FILE"), "/opt/wanted": some_form(canaries, "FILE")}
    for path, (_, pattern) in {**files, **wanted}.items():
        where = shlex.quote(path)
        plant = f'mkdir -p "$(dirname {where})"; (head -c 99999 /dev/urandom; cat) > {where}'
        leaky.root(plant, input=pattern, check=True)
    named = {
        "NAME": ('mkdir -p "/srv/$x/below"; touch "/srv/$x/below/file"', "host name /srv/<NAME>: NAME as raw"),
        "LINK": ('ln -s "to-$x" /srv/wanted/link.env', "host name /srv/wanted/link.env: LINK as raw"),
        "KEY": ('printf "%s" "$x" > /srv/key', "host /srv/key: KEY as raw"),
    }
    for name, (script, _) in named.items():
        leaky.root(with_x(script), input=canaries.value(name), check=True)
    # A line of it is no leak of the whole.
    leaky.root("cat > /srv/part", input=canaries.value("KEY")[10:], check=True)
    found = {*on_host(canaries, leaky, intended=["/srv/wanted/*.env", "/opt/want[e]d"])}
    assert {f"host {path}: {hit}" for path, (hit, _) in files.items()} <= found
    assert {line.partition(": ")[0] for line in found if "FILE as" in line} == {f"host {path}" for path in files}
    assert {line for line in found if "FILE as" not in line} == {told for _, told in named.values()}
    leaky.root("find / -name 'planted ?' -not -path '/proc/*' -delete; rm -rf /srv/* /opt/wanted", check=True)


@pytest.mark.parametrize("name", CHANNELS)
def test_each_channel_finds_what_is_planted_in_it(name: str, leaky: FreshHost, canaries: Canaries) -> None:
    channel = CHANNELS[name]
    hit, pattern = some_form(canaries, name, form=channel.form)
    hit = f"{name} as {channel.found_as}" if channel.found_as else hit
    before = {*channel.look(canaries, leaky)}
    assert name not in names([*before])
    try:
        if channel.context:
            leaky.root(channel.plant, input=tar_of(channel.context(pattern)), check=True)
        else:
            leaky.root(with_x(channel.plant), input=pattern, check=True)
        found = {*channel.look(canaries, leaky)} - before
    finally:
        leaky.root(with_x(channel.clean), input=pattern, check=True)
    assert hit in hits([*found]) and names([*found]) == {name}
    if channel.clean != ":":
        assert {*channel.look(canaries, leaky)} == before


def tar_of(files: dict[str, bytes]) -> bytes:
    """A build context."""
    blob = io.BytesIO()
    with tarfile.open(fileobj=blob, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return blob.getvalue()


# -- command lines ------------------------------------------------------------------------------------------------


def test_a_process_inside_the_host_is_seen(leaky: FreshHost, canaries: Canaries) -> None:
    hit, pattern = some_form(canaries, "PROCESS")
    with Processes() as quiet:
        leaky.root(with_x("sh -c 'sleep 0.2; true' sh"), input=pattern, check=True)
    assert quiet.findings(canaries) == [] and quiet.samples > 1 and quiet.seen > 10
    with Processes() as processes:
        leaky.root(with_x("sh -c 'sleep 0.2; true' sh \"$x\""), input=pattern, check=True)
    assert hit in hits(processes.findings(canaries)) and names(processes.findings(canaries)) == {"PROCESS"}
    in_container = f'docker run --rm {BUSYBOX_IMAGE} sh -c "sleep 0.2; true" sh --token="$x"'
    with Processes() as processes:
        leaky.root(with_x(in_container), input=pattern, check=True)
    assert any("sleep 0.2" in line and "docker" not in line for line in processes.findings(canaries))


def test_short_processes_are_seen_when_the_kernel_tells(canaries: Canaries) -> None:
    """A fifth may be missed, and more while the machine is busy, which it isn't in each of ten tries; without the
    kernel's help nearly all are."""
    several = Canaries({f"N{number}": f"{number:03}{canaries.value('PROCESS')}" for number in range(50)})
    seen: list[int] = []
    while len(seen) < 10 and max(seen, default=0) < 40:
        with Processes() as processes:
            for name in several.names:
                subprocess.run(["/bin/true", several.value(name)], check=True)
        if not processes.events:
            pytest.skip("the kernel does not tell of processes here")
        assert not processes.lost
        seen.append(len(names(processes.findings(several))))
    assert max(seen) >= 40


def test_ssh_commands_are_recorded_and_run_as_ever(leaky: FreshHost, canaries: Canaries, tmp_path: Path) -> None:
    hit, pattern = some_form(canaries, "SSH")
    command = f"printf %s {shlex.quote(pattern.decode())}"
    surroundings = "env | grep -Ev '^(SSH_C|XDG_SESSION_ID)' | sort; pwd; id; umask; echo $0 $-; tty"
    blob = random.Random(SEED).randbytes(3_000_000)
    alone = leaky.ssh(surroundings)
    with SshCommands(leaky) as commands:
        assert leaky.ssh(surroundings) == alone
        assert leaky.ssh("cat >&2; exit 37", input=canaries.value("STDIN")).rc == 37
        digest = run(["sha256sum"], input=blob).stdout
        assert leaky.ssh("sha256sum", input=blob).stdout == digest
        assert commands.count == 3 and commands.findings(canaries) == []
        assert leaky.ssh(command).stdout.encode() == pattern
        assert leaky.ssh("", input="echo $((6 * 7))\n").stdout.splitlines()[-1] == "42"
        assert commands.count == 5
        assert hit in hits(commands.findings(canaries)) and names(commands.findings(canaries)) == {"SSH"}
        (tmp_path / "blob").write_bytes(blob)
        sftp(leaky, f"put {tmp_path}/blob blob-1")
        pyinfra(leaky, "files.put", f"src={tmp_path}/blob", "dest=/home/admin/blob-2")
        sums = leaky.ssh("sha256sum < blob-1; sha256sum < blob-2; rm -f blob-?").stdout
        assert sums == digest * 2
        count = commands.count
        assert count > 8
    assert leaky.ssh(command).stdout.encode() == pattern
    assert commands.count == count and names(commands.findings(canaries)) == {"SSH"}
    left = "ls -d /etc/ssh/sshd_config.d/*; ls -d /usr/local/sbin/rehearsal* " + commands.folder
    assert leaky.root(left).stdout == "/etc/ssh/sshd_config.d/rehearsal.conf\n"


def sftp(host: FreshHost, order: str) -> None:
    """One order to the sftp program."""
    words = ["-P" if word == "-p" else word for word in shlex.split(host.ssh_command)]
    run(["sftp", *words[1:-1], "-b", "-", words[-1]], input=order + "\n")


def pyinfra(host: FreshHost, *operation: str) -> None:
    """One operation of pyinfra's own."""
    run([sys.executable, "-m", "pyinfra", "-y", host.inventory, *operation], cwd=host.run_dir)


# -- watchers -----------------------------------------------------------------------------------------------------

WRITE = 'for turn in $(seq 100); do (umask {umask}; printf "%s" "$x" > new; chmod 600 new; mv new file); done'


@pytest.fixture
def folder(leaky: FreshHost) -> Iterator[str]:
    """A folder on the host that everybody can list, and below it one for root."""
    leaky.root("mkdir -p -m 755 /srv/open /srv/open/deep; mkdir -p -m 700 /srv/open/shut", check=True)
    leaky.root("for name in deep shut; do echo text > /srv/open/$name/text; done", check=True)
    yield "/srv/open"
    leaky.root("rm -rf /srv/open", check=True)


def write(host: FreshHost, canaries: Canaries, script: str) -> None:
    """Run a script in the watched folder."""
    host.root(with_x(f"cd /srv/open; {script}"), input=canaries.value("WATCHED"), check=True)


def caught(watching: Callable[[], AbstractContextManager[Watched]], writing: Callable[[], None]) -> Watched:
    """What a watcher saw of a file that was there for a moment. A busy machine may not let it run in that moment: it
    has 20 tries, of which the first that sees a file counts."""
    for _ in range(20):
        with watching() as watched:
            writing()
        if watched.reads:
            break
    return watched


@pytest.mark.parametrize("path", ["", "/new"], ids=["by its folder", "by its name"])
def test_a_file_that_is_readable_for_a_moment_is_read(
    path: str, leaky: FreshHost, canaries: Canaries, folder: str
) -> None:
    with watch(leaky, [folder + path]) as idle:
        pass
    assert idle.reads == {} and idle.attempts > 0 and idle.findings(canaries) == []
    readable = WRITE.format(umask="022")
    watched = caught(lambda: watch(leaky, [folder + path]), lambda: write(leaky, canaries, readable))
    assert watched.reads.keys() == {f"{folder}/new"} and watched.attempts > 1000
    assert watched.findings(canaries) == [f"watcher {folder}/new: WATCHED as raw"]
    assert not canaries.find(repr(watched).encode())
    with watch(leaky, [folder + path]) as watched:
        write(leaky, canaries, WRITE.format(umask="077"))
    assert watched.reads == {} and watched.attempts > 1000


def test_who_got_hold_of_an_empty_file_reads_what_comes_later(
    leaky: FreshHost, canaries: Canaries, folder: str
) -> None:
    held = ': > held; sleep 0.3; chmod 600 held; sleep 0.1; printf "%s" "$x" >> held; sleep 0.1; rm held'
    watched = caught(lambda: watch(leaky, [folder]), lambda: write(leaky, canaries, held))
    assert watched.findings(canaries) == [f"watcher {folder}/held: WATCHED as raw"]


def test_a_watcher_sees_what_its_user_and_group_may_see(leaky: FreshHost, canaries: Canaries, folder: str) -> None:
    for_mates = 'umask 077; printf "%s" "$x" > mates; chgrp users mates; chmod 640 mates; sleep 0.3'

    def mates() -> None:
        write(leaky, canaries, for_mates)

    with watch(leaky, [folder]) as stranger:
        mates()
    assert stranger.reads == {} and stranger.attempts > 1000
    mate = caught(lambda: watch(leaky, [folder], group="users"), mates)
    assert names(mate.findings(canaries)) == {"WATCHED"}
    deep = caught(lambda: watch(leaky, [folder, f"{folder}/shut"], depth=2), mates)
    assert deep.reads.keys() == {f"{folder}/deep/text"}
    assert deep.listings.keys() == {folder, f"{folder}/deep"}


def test_the_same_on_this_machine(canaries: Canaries) -> None:
    folder = Path(run(["mktemp", "-d", "--tmpdir=/var/tmp"]).stdout.strip())

    def written() -> None:
        for turn in range(300):
            for path in (folder / "new", folder / "shut" / "new"):
                path.write_text(canaries.value("WATCHED"))
                path.chmod(0o600)
                path.rename(path.with_name(f"file-{turn % 3}"))

    try:
        folder.chmod(0o755)
        (folder / "shut").mkdir(mode=0o700)
        watched = caught(lambda: watch_local([folder, folder / "shut"]), written)
        assert watched.findings(canaries) == [f"watcher {folder}/new: WATCHED as raw"]
        assert watched.reads.keys() == {f"{folder}/new"} and watched.listings.keys() == {str(folder)}
    finally:
        run(["rm", "-rf", folder])
