"""files/install_comfyui.sh and files/comfyui on a fresh host: installed once, killed anywhere, never open."""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import json
import random
import re
import shlex
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

import pytest

from ..instruments.converged import converged_host
from ..standins import comfyui as standins
from ..world.machine import PROJECT
from ..world.run import Completed, RunError, wait_for
from ..world.world import World

pytestmark = [pytest.mark.rehearsal, pytest.mark.sampled(24)]

FILES = PROJECT / "files"
IMAGE = "gpuhost/comfyui:rehearsal"
SCRIPT = "/opt/rehearsal/install_comfyui.sh"
ROOT = "/srv/rehearsal"
UID = 10001
TOKEN = "$2b$12$RLTdZkHYMP539qoBnX9DCOsvgbGsUIlnFNYsVq71BGZBtnkwSnTlK"  # noqa: S105 (of "rehearsal")
LOGIN_NODE = "/app/nodes/auth/ComfyUI-Login"
LISTENS = "To see the GUI go to"
GUARD_EXIT = 78
SEED = 20251008

# Where a kill falls: a line of the installer's log, then up to so many ms. The packages stage says "Installing
# collected packages" for the second time.
KILL_MOMENTS = [
    (r"^stage 1/7 comfyui", 150),
    (r"^stage 2/7 login", 150),
    (r"^stage 3/7 guard", 80),
    (r"^stage 4/7 venv", 1500),
    (r"^stage 5/7 torch", 900),
    (r"^Installing collected packages: .*torch", 400),
    (r"^stage 6/7 packages", 1500),
    (r"^Installing collected packages: .*aiohttp", 700),
    (r"^stage 7/7 proof", 300),
    (r"^ComfyUI version", 200),
]


class Machine(Protocol):
    """A machine with Docker: what these tests need of a rehearsal's host."""

    def root(self, command: str, input: str | bytes | None = None, check: bool = False) -> Completed:
        """Run a shell command as root."""
        ...


@dataclass(frozen=True)
class Commits:
    """What the stand-ins' repositories hold (40 hex digits each)."""

    comfyui: str
    login: str
    node: str


def put(machine: Machine, folder: str, files: dict[str, str]) -> None:
    """Write files below a folder of the machine, 0644."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text.encode()), 0o644
            tar.addfile(entry, io.BytesIO(text.encode()))
    machine.root(f"mkdir -p {folder} && tar -x -C {folder}", input=packed.getvalue(), check=True)


@pytest.fixture(scope="module")
def commits(world: World) -> Commits:
    """Repositories and wheels under the names that the product uses."""
    standins.build_torch_wheels(world.torch_wheels)
    return Commits(
        standins.make_comfyui_repo(world.git_root / "comfyanonymous" / "ComfyUI.git"),
        standins.make_login_repo(world.git_root / "liusida" / "ComfyUI-Login.git"),
        standins.make_node_repo(world.git_root / "rehearsal" / "node.git"),
    )


@pytest.fixture(scope="module")
def machine(furnished: World) -> Iterator[Machine]:
    """A host with the product's engine and its image of files/comfyui; no service of it runs."""
    host = converged_host(furnished, "comfyui")
    put(host, "/opt/rehearsal", {"install_comfyui.sh": (FILES / "install_comfyui.sh").read_text()})
    host.root("docker stop $(docker ps -q) && docker container prune -f", check=True)
    built = host.root("docker images -q gpuhost/comfyui", check=True).stdout.split()
    assert len(built) == 1, built
    host.root(f"docker tag {built[0]} {IMAGE}", check=True)
    yield host
    furnished.destroy(host)


@dataclass
class Install:
    """One folder, and how the installer is called for it."""

    machine: Machine
    name: str
    variables: dict[str, str]
    docker: list[str] = field(default_factory=list)

    @property
    def app(self) -> str:
        return f"{ROOT}/comfyui/{self.name}"

    def command(self, *options: str, container: str | None = None, detach: bool = False, app: bool = True) -> str:
        """The installer's `docker run`, as the product calls it."""
        words = ["docker", "run", "--rm" if not detach else "-d", "--user", f"{UID}:{UID}", "--pull", "never"]
        words += ["--name", container or f"install-{self.name}", "--cap-drop", "ALL", "--read-only"]
        words += ["--security-opt", "no-new-privileges", "--tmpfs", "/tmp", *self.docker, *options]
        words += [f"--env={key}={value}" for key, value in self.variables.items()]
        words += [f"--volume={self.app}:/app"] if app else []
        words += [f"--volume={SCRIPT}:/install_comfyui.sh:ro", IMAGE, "bash", "/install_comfyui.sh"]
        return shlex.join(words)

    def run(self, *options: str, app: bool = True) -> Completed:
        """Run it to its end."""
        self.machine.root(f"mkdir -p {self.app} && chown {UID}:{UID} {self.app}", check=True)
        return self.machine.root(self.command(*options, app=app))

    def start(self, container: str, *options: str) -> None:
        """Start it in the background."""
        self.machine.root(f"mkdir -p {self.app} && chown {UID}:{UID} {self.app}", check=True)
        self.machine.root(f"docker rm -f {container}")
        self.machine.root(self.command(*options, container=container, detach=True), check=True)

    def wait(self, container: str) -> tuple[int, str]:
        """Its exit status and log."""
        code = int(self.machine.root(f"docker wait {container}", check=True).stdout)
        log = self.machine.root(f"docker logs {container} 2>&1; docker rm {container} >/dev/null").stdout
        return code, log

    def stamp(self) -> dict[str, Any]:
        stamp: dict[str, Any] = json.loads(
            self.machine.root(f"cat {self.app}/.gpuhost/installed.json", check=True).stdout
        )
        return stamp

    def listing(self) -> str:
        """Path, size, mode, owner, inode and time of everything in the folder."""
        return self.machine.root(f"find {self.app} -printf '%P %s %m %U %i %T@\\n' | sort", check=True).stdout

    def content(self) -> dict[str, str]:
        """path -> sha256 of what two complete installs have in common."""
        volatile = r"-name .git -prune -o -path '*/.gpuhost' -prune -o -name '*.pyc' -prune -o"
        lines = self.machine.root(
            f"cd {self.app} && find . {volatile} -type f -print0 | xargs -0 sha256sum", check=True
        ).stdout.splitlines()
        return {path: sha for sha, path in (line.split(maxsplit=1) for line in lines)}

    def prove(self) -> None:
        """Complete: the stamp, both checkouts clean at their commits, torch imports, nothing left over."""
        stamp = self.stamp()
        assert stamp["spec"] == json.loads(self.variables["INSTALL_SPEC"])
        checkouts = {"/app/ComfyUI": stamp["comfyui"]["commit"]}
        if stamp["login"]:
            checkouts[LOGIN_NODE] = stamp["login"]["commit"]
        proof = "set -e; cd /app\n"
        for tree, commit in checkouts.items():
            proof += f'[ $(git -C {tree} rev-parse HEAD) = {commit} ]; [ -z "$(git -C {tree} status --porcelain)" ]\n'
        proof += "venv/bin/python -c 'import torch, aiohttp; print(torch.__version__)'; venv/bin/python -m pip check\n"
        words = ["docker", "run", "--rm", "--network", "none", f"--volume={self.app}:/app:ro", IMAGE, "sh", "-c", proof]
        done = self.machine.root(shlex.join(words))
        assert done.rc == 0, done.stdout + done.stderr
        assert stamp["torch"]["version"] in done.stdout
        left = self.machine.root(f"ls -A {self.app}/.gpuhost", check=True).stdout.split()
        assert sorted(left) == ["extra-requirements.txt", "installed.json", "last-command.log", "lock", "packages.txt"]


def an_install(machine: Machine, commits: Commits, name: str, **changes: str) -> Install:
    """An install as the product would ask for it, with some variables changed."""
    variables = {
        "COMFYUI_URL": "https://github.com/comfyanonymous/ComfyUI.git",
        "COMFYUI_REF": commits.comfyui,
        "TORCH_INDEX_URL": "https://download.pytorch.org/whl/cu128",
        "TORCH_PACKAGES": standins.TORCH_PACKAGES,
        "AUTH": "1",
        "LOGIN_URL": "https://github.com/liusida/ComfyUI-Login.git",
        "LOGIN_REF": commits.login,
        **changes,
    }
    spec = json.dumps(variables, sort_keys=True)
    return Install(machine, name, {"INSTALL_SPEC": spec, **variables})


@pytest.fixture(scope="module")
def installed(machine: Machine, commits: Commits) -> Install:
    """The install that most tests share; nobody changes it."""
    install = an_install(machine, commits, "shared")
    done = install.run()
    assert done.rc == 0, done.stdout + done.stderr
    return install


# --- installing ----------------------------------------------------------------------------------------------


@pytest.mark.core
def test_first_run_is_complete_and_says_what_it_did(installed: Install, commits: Commits) -> None:
    installed.prove()
    stamp = installed.stamp()
    assert stamp["comfyui"] == {"ref": commits.comfyui, "commit": commits.comfyui}
    assert stamp["login"] == {"ref": commits.login, "commit": commits.login}
    assert stamp["torch"] == {"version": "2.8.0+cu128", "cuda": "12.8"}
    paths = installed.listing()
    guard = [f"gpuhost-guard/{path.name}" for path in (FILES / "comfyui" / "guard").glob("*.py")]
    for path in ("ComfyUI/login", *(f"nodes/auth/{node}" for node in ("ComfyUI-Login/.secret-key.txt", *guard))):
        assert re.search(f"^{re.escape(path)} ", paths, re.M), path
    assert f"{UID}" in paths.splitlines()[0]


@pytest.mark.core
def test_second_run_reads_one_file_and_needs_no_network(installed: Install) -> None:
    before = installed.listing()
    started = time.monotonic()
    done = installed.run("--network", "none")
    assert (done.rc, done.stdout.splitlines()) == (0, ["already installed"])
    assert installed.listing() == before
    nothing = installed.machine.root(f"docker run --rm --network none {IMAGE} true", check=True)
    assert nothing.rc == 0
    assert time.monotonic() - started < 30


def test_two_at_once_one_works_the_other_waits(machine: Machine, commits: Commits) -> None:
    install = an_install(machine, commits, "two")
    install.start("two-a")
    install.start("two-b")
    (code_a, log_a), (code_b, log_b) = install.wait("two-a"), install.wait("two-b")
    assert (code_a, code_b) == (0, 0), log_a + log_b
    logs = sorted((log_a, log_b), key=lambda log: "stage " in log)
    assert logs[0].splitlines() == [
        "another install works in this folder: waiting for it",
        "already installed",
    ]
    assert "stage 7/7" in logs[1]
    install.prove()


def test_the_lock_dies_with_its_owner(machine: Machine, commits: Commits) -> None:
    install = an_install(machine, commits, "heir")
    install.start("heir-a")
    wait_for_line(machine, "heir-a", r"^stage 5/7")
    install.start("heir-b")
    wait_for_line(machine, "heir-b", r"^another install works")
    machine.root("docker kill -s KILL heir-a", check=True)
    code, log = install.wait("heir-b")
    assert code == 0, log
    assert install.wait("heir-a")[0] == 137
    install.prove()


def wait_for_line(machine: Machine, container: str, pattern: str, timeout_s: float = 120) -> bool:
    """Wait on the machine for a line of a container's log; False when the container ended without it."""
    script = (
        f"until docker logs {container} 2>&1 | grep -Eq {shlex.quote(pattern)}; do "
        f"[ \"$(docker inspect -f '{{{{.State.Running}}}}' {container})\" = true ] || exit 3; sleep 0.02; done"
    )
    done = machine.root(f"timeout {timeout_s:g} sh -c {shlex.quote(script)}")
    if done.rc == 124:
        raise RunError(f"{container} did not say {pattern}")
    return done.rc == 0


def kill_and_run_again(machine: Machine, commits: Commits, number: int, whole: dict[str, str]) -> None:
    """kill -9 at a moment, run again: complete, and the same as an install that nobody disturbed."""
    pattern, spread_ms = KILL_MOMENTS[number]
    install = an_install(machine, commits, f"kill-{number}")
    container = f"kill-{number}"
    install.start(container)
    wait_for_line(machine, container, pattern)
    after_ms = random.Random(SEED + number).randrange(spread_ms)
    machine.root(f"sleep {after_ms / 1000}; docker kill -s KILL {container}")
    code, log = install.wait(container)
    assert code == 137, f"not killed, the moment came too late: {log}"
    assert machine.root(f"test -e {install.app}/.gpuhost/installed.json").rc != 0
    done = install.run()
    assert done.rc == 0, f"killed {after_ms} ms after {pattern}:\n{log}\nthen:\n{done.stdout}{done.stderr}"
    install.prove()
    assert install.content() == whole
    machine.root(f"rm -rf {install.app}")


def test_killed_at_a_sample_of_moments(machine: Machine, commits: Commits, installed: Install) -> None:
    whole = installed.content()
    for number in sorted(random.Random(SEED).sample(range(len(KILL_MOMENTS)), 3)):
        kill_and_run_again(machine, commits, number, whole)


@pytest.mark.soak
@pytest.mark.parametrize("number", range(len(KILL_MOMENTS)))
def test_killed_at_every_moment(machine: Machine, commits: Commits, installed: Install, number: int) -> None:
    kill_and_run_again(machine, commits, number, installed.content())


@pytest.mark.soak
def test_killed_again_and_again_it_still_arrives(machine: Machine, commits: Commits, installed: Install) -> None:
    install = an_install(machine, commits, "stubborn")
    for pattern in (r"^stage 4/7", r"^Installing collected packages: .*torch", r"^stage 6/7"):
        install.start("stubborn")
        assert wait_for_line(machine, "stubborn", pattern)
        machine.root("docker kill -s KILL stubborn", check=True)
        install.wait("stubborn")
    assert install.run().rc == 0
    install.prove()
    assert install.content() == installed.content()


def test_login_off_installs_no_node(machine: Machine, commits: Commits) -> None:
    install = an_install(machine, commits, "open", AUTH="0")
    done = install.run()
    assert done.rc == 0, done.stdout + done.stderr
    install.prove()
    assert install.stamp()["login"] is None
    assert "nodes/auth" not in install.listing()
    assert machine.root(f"ls {install.app}/venv/lib/python3*/site-packages | grep -c bcrypt").stdout.strip() == "0"
    # The same folder, now with the login; and without it again: what the installer made, it takes away.
    install.variables.update(AUTH="1", INSTALL_SPEC='{"number": 1}')
    assert install.run().rc == 0
    install.prove()
    install.variables.update(AUTH="0", INSTALL_SPEC='{"number": 0}')
    assert install.run().rc == 0
    assert "nodes/auth/ComfyUI-Login" not in install.listing()


def test_with_a_lock_only_what_it_names_is_installed(machine: Machine, commits: Commits, world: World) -> None:
    """Other bytes than were locked, and a source package, whose setup would run: neither is taken."""
    install = an_install(machine, commits, "locked", AUTH="0")
    torch = next(world.torch_wheels.glob("torch-2.8.0*.whl"))
    source = world.torch_wheels / "sourceonly-1.0.tar.gz"
    with tarfile.open(source, "w:gz") as packed:
        code = b"open('/app/ran', 'w')\n"
        entry = tarfile.TarInfo("sourceonly-1.0/setup.py")
        entry.size = len(code)
        packed.addfile(entry, io.BytesIO(code))
    sha256 = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in (torch, source)}
    locks = {
        "other-bytes": f"torch==2.8.0+cu128 --hash=sha256:{'0' * 64}",
        "source": f"torch==2.8.0+cu128 --hash=sha256:{sha256[torch]}\nsourceonly==1.0 --hash=sha256:{sha256[source]}",
        "unhashed": "torch==2.8.0+cu128",
        "too-few": f"torch==2.8.0+cu128 --hash=sha256:{sha256[torch]}",
    }
    put(machine, "/opt/rehearsal", {f"{name}.lock": f"{text}\n" for name, text in locks.items()})
    said = {}
    for name in locks:
        install.variables["INSTALL_SPEC"] = json.dumps({"lock": name})
        lock = [
            f"--volume=/opt/rehearsal/{name}.lock:/requirements.lock:ro",
            "--env=REQUIREMENTS_LOCK=/requirements.lock",
        ]
        done = install.run(*lock)
        assert done.rc == 1, done.stdout
        said[name] = re.search(r"^error: (.*)$", done.stderr, re.M)[1]  # type: ignore[index]
        assert machine.root(f"test -e {install.app}/ran").rc != 0
    source.unlink()
    assert said["other-bytes"] == "the package index has other bytes than were locked: torch==2.8.0+cu128"
    assert re.match(r"no locked wheel for this Python .*sourceonly==1.0", said["source"]), said
    assert said["unhashed"] == "the lock has a package without hashes: torch==2.8.0+cu128"
    assert said["too-few"] == "a required package does not work: aiohttp is asked for and not installed"


def test_extra_nodes_and_pins(machine: Machine, commits: Commits, world: World) -> None:
    node = f"stand-in https://github.com/rehearsal/node.git {commits.node}"
    changes = {"EXTRA_NODES": node, "EXTRA_REQUIREMENTS": "yarl==1.20.1\nidna==3.10"}
    install = an_install(machine, commits, "nodes", AUTH="0", **changes)
    done = install.run()
    assert done.rc == 0, done.stdout + done.stderr
    assert install.stamp()["comfyui"] == {"ref": commits.comfyui, "commit": commits.comfyui}
    assert install.stamp()["extra_nodes"] == {"stand-in": {"ref": commits.node, "commit": commits.node}}
    packages = machine.root(f"cat {install.app}/.gpuhost/packages.txt").stdout.split()
    assert {"yarl==1.20.1", "idna==3.10"} <= set(packages)
    # The node in a version that does not import: not installed, and named.
    broken = standins.make_node_repo(world.git_root / "rehearsal" / "broken.git", import_error=True)
    install.variables["EXTRA_NODES"] = f"stand-in https://github.com/rehearsal/broken.git {broken}"
    install.variables["INSTALL_SPEC"] = '{"number": 2}'
    done = install.run()
    assert (done.rc, "could not import stand-in" in done.stderr) == (1, True), done.stderr


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"COMFYUI_REF": "f" * 40},
            r"f{40} is not a commit of https://github.com/comfyanonymous/ComfyUI.git",
        ),
        ({"COMFYUI_REF": standins.TAG}, r"COMFYUI_REF is '.*', it must be a commit \(40 hex digits\)"),
        ({"COMFYUI_REF": "master"}, r"COMFYUI_REF is 'master', it must be a commit"),
        ({"COMFYUI_URL": "https://github.com/nobody/nothing.git"}, r"no readable git repository at https://.*nothing"),
        (
            {"COMFYUI_URL": "https://user:secret@nowhere.invalid/x.git"},
            r"https://\*\*\*@nowhere.invalid/x.git cannot be",
        ),
        ({"TORCH_PACKAGES": "torch==9.9.9"}, r"no wheel for this Python in .*torch==9\.9\.9"),
        ({"TORCH_INDEX_URL": "https://nowhere.invalid/whl"}, r"package index https://nowhere.invalid/whl cannot be"),
        ({"EXTRA_REQUIREMENTS": "aiohttp<3"}, r"contradict each other"),
        ({"MIN_FREE_MIB": "99999999"}, r"has \d+ MiB free, the install needs \d+ MiB"),
        ({"COMFYUI_REF": "--upload-pack=x"}, r"COMFYUI_REF is '--upload-pack=x', it must be a commit"),
        ({"TORCH_PACKAGES": "torch"}, r"TORCH_PACKAGES is 'torch'"),
    ],
)
def test_one_sentence_and_a_hint(machine: Machine, commits: Commits, changes: dict[str, str], sentence: str) -> None:
    install = an_install(machine, commits, "wrong", **changes)
    done = install.run()
    assert done.rc == 1, done.stdout
    error, hint = done.stderr.splitlines()
    assert error.startswith("error: ") and re.search(sentence, error), done.stderr
    assert hint.startswith("hint: ")
    assert "secret" not in done.stdout + done.stderr


def test_a_full_disk_is_named(machine: Machine, commits: Commits) -> None:
    install = an_install(machine, commits, "full", MIN_FREE_MIB="1")
    done = install.run("--tmpfs", f"/app:size=30m,uid={UID},gid={UID},exec", app=False)
    assert done.rc == 1
    assert "error: the disk of /app is full" in done.stderr or "MiB free" in done.stderr, done.stderr


@pytest.mark.parametrize("import_error", ["early", "late"])
def test_a_login_that_does_not_work_is_not_installed(
    machine: Machine, commits: Commits, world: World, import_error: Any
) -> None:
    repo = world.git_root / "rehearsal" / f"login-{import_error}.git"
    commit = standins.make_login_repo(repo, import_error=import_error)
    url = f"https://github.com/rehearsal/login-{import_error}.git"
    install = an_install(machine, commits, f"login-{import_error}", LOGIN_URL=url, LOGIN_REF=commit)
    done = install.run()
    assert done.rc == 1
    assert "could not import ComfyUI-Login" in done.stderr
    assert machine.root(f"test -e {install.app}/.gpuhost/installed.json").rc != 0
    # The right one in the same folder: only what differs is done again, a lost file of the guard included.
    install.variables.update(an_install(machine, commits, "x").variables)
    machine.root(f"rm {install.app}/nodes/auth/gpuhost-guard/prestartup_script.py", check=True)
    done = install.run()
    assert done.rc == 0, done.stderr
    assert "stage 1/7 comfyui: already at" in done.stdout
    assert "stage 3/7 guard: copying" in done.stdout
    assert "stage 5/7 torch: already installed" in done.stdout


def test_what_it_did_not_make_stays(machine: Machine, commits: Commits) -> None:
    install = an_install(machine, commits, "foreign")
    tree = f"{install.app}/ComfyUI"
    machine.root(f"mkdir -p {tree} && echo mine > {tree}/notes", check=True)
    done = install.run()
    assert done.rc == 1
    assert "/app/ComfyUI exists and was not made by this installer" in done.stderr
    assert machine.root(f"cat {tree}/notes").stdout == "mine\n"


def test_a_tree_changed_by_hand_is_kept_aside(machine: Machine, commits: Commits) -> None:
    install = an_install(machine, commits, "edited", AUTH="0")
    assert install.run().rc == 0
    main, stamp = f"{install.app}/ComfyUI/main.py", f"{install.app}/.gpuhost/installed.json"
    machine.root(f"echo '# mine' >> {main} && rm {stamp}", check=True)
    done = install.run()
    assert done.rc == 0, done.stderr
    assert "changed by hand" in done.stdout
    assert machine.root(f"grep -rl '# mine' {install.app}/.gpuhost/changed/").rc == 0


# --- serving -------------------------------------------------------------------------------------------------


@dataclass
class Service:
    """A ComfyUI service as the product starts it."""

    install: Install
    name: str
    auth: bool = True
    password: str | None = f"{TOKEN}\nadmin\n"
    key: str | None = None
    key_mode: str = "rw"
    options: tuple[str, ...] = ()
    paths: str | None = None

    @property
    def home(self) -> str:
        return f"{ROOT}/services/{self.name}"

    def prepare(self) -> None:
        """What the product lays out before the first start."""
        key = self.key
        if key is None:
            key = session_key(datetime.now())
        nodes = ["/app/nodes/extra"] + (["/app/nodes/auth"] if self.auth else [])
        lines = "".join(f"    {path}\n" for path in nodes)
        paths = self.paths or f"models:\n  base_path: /models\n  vae: vae\nnodes:\n  custom_nodes: |\n{lines}"
        put(self.install.machine, self.home, {"paths.yaml": paths, "key": key})
        script = f"cd {self.home}; mkdir -p data/custom_nodes login models/vae; echo x > models/vae/ae.safetensors\n"
        if self.password is not None:
            script += f"printf %s {shlex.quote(self.password)} > login/PASSWORD; chmod 600 login/PASSWORD\n"
        script += f"chmod 600 key; chown -R {UID}:{UID} data login key; docker rm -f {self.name} 2>/dev/null; :"
        self.install.machine.root(script, check=True)

    def start(self, *, offline: bool = False) -> bool:
        """Start it; True when it listens, False when it ended."""
        self.prepare()
        words = ["docker", "run", "-d", "--name", self.name, "--user", f"{UID}:{UID}", "--read-only", "--tmpfs", "/tmp"]
        words += ["--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
        words += ["--network", "none"] if offline else []
        words += [f"--volume={self.install.app}:/app:ro", f"--volume={self.home}/data:/data"]
        words += [f"--volume={self.home}/models:/models:ro"]
        words += [f"--volume={self.home}/paths.yaml:/etc/gpuhost/extra_model_paths.yaml:ro"]
        if self.auth:
            words += [f"--volume={self.home}/login:/app/ComfyUI/login:ro"]
            words += [f"--volume={self.home}/key:{LOGIN_NODE}/.secret-key.txt:{self.key_mode}"]
        environment = {"HOME": "/data/home", "XDG_CACHE_HOME": "/data/cache"}
        words += [f"--env={key}={value}" for key, value in environment.items()]
        words += [*self.options, IMAGE, "/app/venv/bin/python", "/app/ComfyUI/main.py", "--cpu"]
        words += ["--listen", "0.0.0.0", "--port", "8188", "--base-directory", "/data"]
        words += ["--database-url", "sqlite:////data/user/comfyui.db"]
        words += ["--extra-model-paths-config", "/etc/gpuhost/extra_model_paths.yaml"]
        self.install.machine.root(shlex.join(words), check=True)
        return wait_for_line(self.install.machine, self.name, LISTENS)

    def exec(self, *words: str, input: str | None = None) -> Completed:
        return self.install.machine.root(shlex.join(["docker", "exec", "-i", self.name, *words]), input=input)

    def ask(self, method: str, path: str, body: str | None = None, **headers: str) -> tuple[int, str, dict[str, str]]:
        """Status, text and headers of one request from within the container; redirects are not followed."""
        program = (
            "import http.client, json, sys\n"
            "m, p, b, h = json.load(sys.stdin)\n"
            "c = http.client.HTTPConnection('127.0.0.1', 8188, timeout=10)\n"
            "c.request(m, p, b, h)\n"
            "r = c.getresponse()\n"
            "print(json.dumps([r.status, r.read().decode(errors='replace'), dict(r.getheaders())]))\n"
        )
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        done = self.exec("python3", "-c", program, input=json.dumps([method, path, body, named]))
        assert done.rc == 0, done.stderr
        status, text, answered = json.loads(done.stdout)
        return status, text, answered

    def log(self) -> str:
        return self.install.machine.root(f"docker logs {self.name} 2>&1").stdout

    def exit_status(self) -> int:
        return int(self.install.machine.root(f"docker wait {self.name}", check=True).stdout)

    def healthy(self) -> bool:
        """The health check of files/comfyui, run by hand."""
        return self.exec("python3", "-c", health_check("/login" if self.auth else "/system_stats")).rc == 0


def health_check(path: str) -> str:
    """The image has no curl; http.client asks no proxy."""
    return (
        "import http.client, sys; c = http.client.HTTPConnection('127.0.0.1', 8188, timeout=5); "
        f"c.request('GET', '{path}'); sys.exit(c.getresponse().status != 200)"
    )


def session_key(made: datetime) -> str:
    """A key file of ComfyUI-Login."""
    return f"{base64.urlsafe_b64encode(bytes(range(32))).decode()},{made.isoformat()}"


_numbers = itertools.count()


@pytest.fixture
def service(installed: Install) -> Iterator[Any]:
    """Service, with the shared install, for services that go with the test."""
    started: list[Service] = []

    def make(**wishes: Any) -> Service:
        started.append(Service(installed, f"service-{next(_numbers)}", **wishes))
        return started[-1]

    yield make
    for each in started:
        installed.machine.root(f"docker rm -f {each.name}; rm -rf {each.home}")


MULTIPART = '--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\npicture\r\n--x--\r\n'


@pytest.mark.core
def test_login_on_401_without_200_with(service: Any) -> None:
    qwen = service()
    assert qwen.start(), qwen.log()
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    status, text, _ = qwen.ask("GET", "/system_stats")
    assert (status, json.loads(text)) == (401, {"error": "Authentication required."})
    assert qwen.ask("GET", "/system_stats?token=")[0] == 401
    status, _, headers = qwen.ask("GET", "/", Accept="text/html")
    assert (status, headers["Location"]) == (302, "/login")
    assert qwen.ask("GET", "/login")[0] == 200
    assert qwen.ask("GET", "/system_stats", Authorization="bearer x")[0] == 401
    status, text, _ = qwen.ask("GET", "/system_stats", **bearer)
    assert (status, json.loads(text)["system"]["comfyui_version"]) == (200, "0.3.64")
    assert qwen.ask("GET", f"/system_stats?token={TOKEN}")[0] == 200
    upload = {**bearer, "Content_Type": "multipart/form-data; boundary=x"}
    assert qwen.ask("POST", "/upload/image", MULTIPART, **upload)[0] == 200
    assert qwen.ask("POST", "/userdata/a.json", "{}", **bearer)[0] == 200
    assert json.loads(qwen.ask("GET", "/models/vae", **bearer)[1]) == ["ae.safetensors"]
    assert qwen.healthy()

    assert qwen.ask("GET", "/internal/logs")[0] == 401
    on_disk = qwen.install.machine.root(f"cat $(docker inspect -f '{{{{.LogPath}}}}' {qwen.name})", check=True).stdout
    for log in (qwen.log(), on_disk, qwen.ask("GET", "/internal/logs", **bearer)[1]):
        assert "For direct API calls, use token=[redacted]" in log
        assert TOKEN not in log

    written = qwen.exec("sh", "-c", "cd /data && ls user/comfyui.db input/a.png user/default/a.json")
    assert written.rc == 0, written.stderr
    for path in ("/app/x", "/app/ComfyUI/x", "/app/ComfyUI/login/PASSWORD", f"{LOGIN_NODE}/x", "/models/x", "/x"):
        assert qwen.exec("touch", path).rc != 0, path
    assert qwen.exec("sh", "-c", "cat /proc/1/cmdline").stdout.startswith("/app/venv/bin/python\0")
    assert qwen.exec("sh", "-c", "find /app/ComfyUI /app/nodes -name __pycache__").stdout == ""


PRIVATE = "the operator's own"
MOVE, STYLE = "/userdata/private.json/move/x.js", "/userdata/user.css"


def test_the_guard_closes_the_holes_of_the_login(service: Any) -> None:
    """First with a guard that does nothing: that the holes are there."""
    qwen, bearer = service(), {"Authorization": f"Bearer {TOKEN}"}
    put(qwen.install.machine, qwen.home, {"nothing.py": "NODE_CLASS_MAPPINGS = {}\n"})
    qwen.options = (f"--volume={qwen.home}/nothing.py:/app/nodes/auth/gpuhost-guard/__init__.py:ro",)
    assert qwen.start(), qwen.log()
    assert qwen.ask("POST", "/userdata/private.json", PRIVATE, **bearer)[0] == 200
    assert [qwen.ask("POST", path, "body")[0] for path in (MOVE, STYLE)] == [200, 200]
    assert qwen.ask("GET", "/userdata/x.js")[:2] == (200, PRIVATE)
    assert qwen.ask("GET", "/system_stats", Authorization="Bearer")[0] == 500

    qwen = service()
    assert qwen.start(), qwen.log()
    assert qwen.ask("POST", "/userdata/private.json", PRIVATE, **bearer)[0] == 200
    for method, path in (("POST", MOVE), ("POST", STYLE), ("GET", "/userdata/x.js"), ("DELETE", STYLE)):
        assert qwen.ask(method, path, "body")[0] == 401, path
    assert qwen.ask("GET", "/system_stats", Authorization="Bearer")[0] == 401
    assert qwen.ask("GET", "/userdata/private.json", **bearer)[:2] == (200, PRIVATE)
    assert qwen.exec("ls", "/data/user/default").stdout.split() == ["private.json"]
    # The login page stands.
    form = {"Content_Type": "application/x-www-form-urlencoded"}
    assert qwen.ask("GET", "/old_css/style.css")[0] == 200
    status, _, headers = qwen.ask("POST", "/login", "username=admin&password=wrong", **form)
    assert (status, headers["Location"]) == (302, "/login?wrong_password=1")
    assert qwen.ask("GET", "/system_stats", **bearer)[0] == 200


def test_an_image_comes_out(service: Any) -> None:
    flux = service(auth=False)
    assert flux.start(), flux.log()
    prompt = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 255}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "probe"}},
    }
    status, text, _ = flux.ask("POST", "/prompt", json.dumps({"prompt": prompt}), Content_Type="application/json")
    assert status == 200, text
    number = json.loads(text)["prompt_id"]
    history = wait_for(lambda: json.loads(flux.ask("GET", f"/history/{number}")[1]), "the image", 20)
    image = history[number]["outputs"]["2"]["images"][0]
    assert flux.ask("GET", f"/view?filename={image['filename']}&type=output")[1][1:4] == "PNG"
    bad = {"1": {"class_type": "NoSuchNode", "inputs": {}}, "2": prompt["2"]}
    assert flux.ask("POST", "/prompt", json.dumps({"prompt": bad}), Content_Type="application/json")[0] == 400


def test_login_off_answers_and_is_healthy(service: Any) -> None:
    flux = service(auth=False)
    assert flux.start(), flux.log()
    assert flux.ask("GET", "/system_stats")[0] == 200
    assert flux.ask("GET", "/login")[0] == 404
    assert flux.healthy()


def test_offline_an_installed_version_starts(service: Any) -> None:
    qwen = service()
    assert qwen.start(offline=True), qwen.log()
    assert qwen.ask("GET", "/system_stats")[0] == 401


OLD = datetime.now() - timedelta(days=31)


@pytest.mark.parametrize(
    ("wishes", "cause"),
    [
        ({"password": None}, "no password is set"),
        ({"password": ""}, "no password is set"),
        ({"key": ""}, "ComfyUI-Login is not loaded"),
        ({"key": session_key(OLD), "key_mode": "ro"}, "ComfyUI-Login is not loaded"),
    ],
    ids=["no PASSWORD", "empty PASSWORD", "empty key", "old read-only key"],
)
def test_it_ends_itself_rather_than_stand_open(service: Any, wishes: dict[str, Any], cause: str) -> None:
    qwen = service(**wishes)
    assert not qwen.start()
    assert qwen.exit_status() == GUARD_EXIT
    log = qwen.log()
    assert re.search(f"gpuhost-guard: ended before the port opened: {cause}", log), log
    assert LISTENS not in log


@pytest.mark.parametrize(
    ("line", "cause"),
    [("import nothing_of_this_name", "is not loaded"), ("", "half loaded")],
    ids=["import fails at once", "import fails half way"],
)
def test_a_login_node_whose_import_fails_ends_the_process(service: Any, line: str, cause: str) -> None:
    """Broken after the install, by a package or a hand: the file is shadowed by a broken copy."""
    code = (standins.TREES / "ComfyUI-Login" / "password.py").read_text()
    if line:
        broken = line + "\n" + code.partition('"""\n')[2]
    else:
        broken = code.replace("\n@web.middleware\n", '\nraise RuntimeError("late")\n\n@web.middleware\n')
    qwen = service()
    put(qwen.install.machine, qwen.home, {"broken.py": broken})
    qwen.options = (f"--volume={qwen.home}/broken.py:{LOGIN_NODE}/password.py:ro",)
    assert not qwen.start()
    assert qwen.exit_status() == GUARD_EXIT
    assert re.search(f"gpuhost-guard: ended before the port opened: ComfyUI-Login .*{cause}", qwen.log()), qwen.log()


def test_an_old_key_in_a_writable_file_is_renewed(service: Any) -> None:
    qwen = service(key=session_key(OLD))
    assert qwen.start(), qwen.log()
    made = qwen.exec("cat", f"{LOGIN_NODE}/.secret-key.txt").stdout.partition(",")[2]
    assert datetime.fromisoformat(made) > OLD + timedelta(days=30)
    assert qwen.ask("GET", "/system_stats")[0] == 401


def test_a_service_whose_nodes_are_not_named_is_unhealthy(service: Any) -> None:
    """The naive mount: --base-directory hides the tree's nodes, everything is open; the health check sees it."""
    qwen = service(paths="models:\n  base_path: /models\n  vae: vae\n")
    assert qwen.start(), qwen.log()
    assert qwen.ask("GET", "/system_stats")[0] == 200
    assert not qwen.healthy()
