"""What happens to a converged host, and what the next run makes of it. Each scenario leaves it converged."""

from __future__ import annotations

import json
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from gpuhost.run.lock import LOCKED

from ..instruments.control import Control
from ..instruments.converged import converged_host, saved_converged
from ..instruments.guide import shown
from ..instruments.proof import Proof
from ..instruments.sessions import counted
from ..world.freshhost import free_port
from ..world.run import wait_for
from ..world.saved import SAME_IN_A_COPY
from ..world.scenery import group_data
from ..world.snapshot import diff_snapshots, written
from ..world.world import World

pytestmark = [pytest.mark.rehearsal, pytest.mark.sampled(8)]
# Of a host, whatever it runs: whether sudo works, the host itself, all the rest.
COMMANDS_OF_A_PLAN = 3


@pytest.fixture(scope="module")
def converged(furnished: World) -> Iterator[Proof]:
    """A copy of a host that went the whole path."""
    proof = Proof(converged_host(furnished, "converged"))
    yield proof
    furnished.destroy(proof.host)


def test_a_restored_host_is_what_was_saved_and_converged(converged: Proof, furnished: World) -> None:
    """File by file as it was; every service answers, every secret is in sync, and there is nothing to do."""
    saved, restored = saved_converged(furnished).snapshot, converged.host.snapshot()
    for section in SAME_IN_A_COPY:
        assert not diff_snapshots({"files": {}, section: saved[section]}, {"files": {}, section: restored[section]})
    converged.answers("verify")
    converged.secrets_in_step()
    converged.nothing_to_do()


def test_a_plan_of_what_was_damaged_writes_nothing_here_nor_there(converged: Proof, tmp_path: Path) -> None:
    """Not even the same again: no file has another time, but what services write, and caches of this side."""
    home, scratch, site = tmp_path / "home", tmp_path / "tmp", converged.host.inventory.parent
    for folder in (home, scratch):
        folder.mkdir()
    own = {"HOME": str(home), "TMPDIR": str(scratch), "XDG_STATE_HOME": str(home / "state")}
    control = Control(converged.host, environment=own)
    converged.host.root("chmod 666 /opt/gpuhost/programs/hostside/wire.py; docker pause orchestrator", check=True)
    there, here, rules = converged.host.times(), _times(site), converged.host.packet_filter()
    assert control.plan().code == 2
    assert "table inet gpuhost" in rules and converged.host.packet_filter() == rules
    services = ("/srv/genai/services/", "/srv/genai/outputs/")
    assert [path for path in written(there, converged.host.times()) if not path.startswith(services)] == []
    assert _times(site) == here
    assert [path for path in _times(tmp_path) if not path.is_dir() and ".cache" not in path.parts] == []
    assert converged.control.apply().code == 0


def _times(folder: Path) -> dict[Path, tuple[int, int]]:
    found = {path: path.lstat() for path in folder.rglob("*") if not path.is_socket()}
    return {path: (each.st_mtime_ns, each.st_ctime_ns) for path, each in found.items() if "state" not in path.parts}


@pytest.mark.core
def test_a_plan_asks_a_host_in_few_round_trips(converged: Proof) -> None:
    """As many with two services as with eight (test_all_services.py). Whoever asks for something new names it ahead
    (`asks` in tasks/)."""
    with counted(converged.host) as asked:
        converged.nothing_to_do()
    assert asked.commands == COMMANDS_OF_A_PLAN


def test_the_ssh_line_at_the_end_reaches_the_services_from_the_operators_machine(converged: Proof) -> None:
    done = Control(converged.host).text("verify")
    line = next(line for line in done.stdout.splitlines() if "ssh -N" in line).partition(": ")[2]
    local = free_port()
    words = shlex.split(line.replace("-L 8193:", f"-L {local}:").replace("-L 8188:", f"-L {free_port()}:"))
    options = ["-F", "/dev/null", "-o", f"UserKnownHostsFile={converged.host.known_hosts}"]
    tunnel = subprocess.Popen([words[0], *options, *words[1:]], stdin=subprocess.DEVNULL)
    try:
        wait_for(lambda: _answers(local), "the orchestrator through the tunnel", 15)
        assert httpx.get(f"http://127.0.0.1:{local}/services").status_code == 401
    finally:
        tunnel.terminate()
        tunnel.wait(10)


def test_what_runs_and_what_it_says(converged: Proof) -> None:
    """A token that a service prints leaves the host masked."""
    # The host was started a moment ago.
    wait_for(lambda: converged.control.text("status").returncode == 0, "every service is healthy", 60)
    began = time.monotonic()
    shown = converged.control.text("status")
    print(f"gpuhost status: {time.monotonic() - began:.2f} s\n{shown.stdout}")
    assert shown.returncode == 0, shown.stderr
    rows = {line.split()[0]: line.split()[1:5] for line in shown.stdout.splitlines() if line.startswith("  ")}
    assert rows["orchestrator"] == ["running", "healthy", "8193", "-"]
    assert rows["comfyui-qwen"] == ["running", "healthy", "8188", "0"]
    said = """docker exec orchestrator sh -c 'echo "it is $ORCHESTRATOR_TOKEN." > /proc/1/fd/1'"""
    converged.host.root(said, check=True)

    def masked() -> bool:
        log = converged.control.text("logs", "orchestrator", "--tail", "5")
        assert log.returncode == 0, log.stderr
        return "it is [redacted]." in log.stdout.splitlines()

    wait_for(masked, "the line in Docker's log", 60)  # which Docker writes when it has a moment


def test_workflows_of_an_old_tree_are_copied_as_the_services_account(converged: Proof) -> None:
    """As docs/howto/move-from-hand-made.md says: root writes nothing where the service can write."""
    host = converged.host
    host.ssh(
        "mkdir -p ComfyUI/user/default/workflows; echo '{}' > ComfyUI/user/default/workflows/mine.json", check=True
    )
    typed = shown("move-from-hand-made", "sh")[3]
    host.ssh(f"set -e\n{typed.replace('/home/me', '/home/admin')}", check=True)
    there = "/srv/genai/services/comfyui-qwen/data/user/default/workflows"
    assert host.root(f"stat -c '%U %G' {there} {there}/mine.json").stdout.split() == ["genai-comfyui-qwen"] * 4
    host.root(f"rm -r {there}", check=True)


def test_what_stopped_is_shown(converged: Proof) -> None:
    converged.host.root("docker stop orchestrator", check=True)
    shown = converged.control.text("status")
    assert shown.returncode == 1 and "exited (" in shown.stdout and "not as it should be: orchestrator" in shown.stderr
    converged.host.root("docker start orchestrator", check=True)
    wait_for(lambda: converged.control.text("status").returncode == 0, "the orchestrator is healthy again", 60)


def _answers(port: int) -> bool:
    try:
        return bool(httpx.get(f"http://127.0.0.1:{port}/health").json() == {"status": "ok"})
    except httpx.HTTPError:
        return False


def test_a_service_that_fails_ends_the_deploy_with_cause_code_and_log(converged: Proof) -> None:
    services = group_data()["services"]
    services["orchestrator"]["secrets"] = []  # its program refuses to start without its token
    # For as long as the shipped value says: a service that dies and is started again must not pass in between.
    with _data(converged, services=services, verify_window_s=group_data()["verify_window_s"]):
        told = converged.control.apply()
        assert told.code == 1
        error = next(error for error in told.errors if "orchestrator" in error["what"])
        assert "exited with code 1" in error["what"] and error["hint"]
        shown = converged.control.text("verify")
        assert "ORCHESTRATOR_TOKEN" in shown.stderr  # the last words of the container
        assert shown.returncode == 1
    assert converged.control.apply().code == 0
    converged.nothing_to_do()


def test_what_somebody_changed_by_hand_is_seen_and_put_right(converged: Proof) -> None:
    host, stack = converged.host, "/srv/genai/stacks/orchestrator"
    host.root(f"echo '# mine' >> {stack}/docker-compose-orchestrator.yml; chmod 644 {stack}/.env.docker", check=True)
    host.root("docker rm -f comfyui-qwen", check=True)
    wanted = {
        ("stacks", f"{stack}/docker-compose-orchestrator.yml", "write"),
        ("stacks", f"{stack}/.env.docker", "write"),
        ("stacks", "comfyui-qwen", "create"),
    }
    assert set(converged.control.plan().changes) == wanted
    told = converged.control.apply()
    assert told.code == 0 and set(told.changes) == wanted
    backup = host.root("cat /var/lib/gpuhost/backups/*/srv/genai/stacks/orchestrator/docker-compose-orchestrator.yml")
    assert "# mine" in backup.stdout
    modes = host.root(
        "stat -c %a /var/lib/gpuhost/backups /var/lib/gpuhost/backups/*/srv/genai/stacks/*/*"
    ).stdout.split()
    assert modes[0] == "700" and set(modes[1:]) == {"600"}
    converged.nothing_to_do()


def test_other_keys_of_daemon_json_stay_and_dockerd_runs_with_ours(converged: Proof) -> None:
    host = converged.host
    host.root('echo \'{"debug": true, "log-opts": {"tag": "x"}}\' > /etc/docker/daemon.json', check=True)
    told = converged.control.apply()
    assert told.code == 0, told.errors
    assert ("engine", "/etc/docker/daemon.json", "write") in told.changes
    assert ("engine", "dockerd", "restart") in told.changes
    merged = host.root("cat /etc/docker/daemon.json").stdout
    assert '"debug": true' in merged and '"tag": "x"' in merged and '"max-size": "10m"' in merged
    assert host.root("docker info --format '{{.Debug}}'").stdout.strip() == "true"
    converged.nothing_to_do()


@pytest.mark.core
def test_a_change_that_was_not_planned_is_refused(converged: Proof) -> None:
    """The host changes between plan and apply: an own operation fails before it acts."""
    container = converged.host.root("docker inspect -f '{{.Id}}' orchestrator").stdout
    allow = converged.host.run_dir / "allow.json"
    allow.write_text(json.dumps({converged.host.name: []}))
    converged.host.root("docker rm -f comfyui-qwen", check=True)
    report = converged.host.run_dir / "report.jsonl"
    done = converged.control.pyinfra("-y", f"--data=gpuhost_allow={allow}", f"--data=gpuhost_report={report}")
    assert done.returncode == 1
    assert "was not planned" in done.stderr and "hint:" in done.stderr
    assert converged.host.root("docker ps -aq --filter name=comfyui-qwen").stdout == ""
    assert converged.host.root("docker inspect -f '{{.Id}}' orchestrator").stdout == container
    assert converged.control.apply().code == 0


def test_a_second_run_is_kept_out_while_one_works_and_let_in_when_it_died(converged: Proof) -> None:
    holder = _logged_in(converged, f"sudo flock --nonblock {LOCKED} sh -c 'echo held; cat'")
    assert holder.stdout and holder.stdout.readline() == b"held\n"
    converged.host.root("docker stop orchestrator", check=True)
    told = converged.control.apply()
    assert told.code == 1 and "another gpuhost run works on this host" in told.errors[0]["what"]
    assert converged.control.plan().code == 2  # a plan only reads
    holder.kill()
    holder.wait()
    free = f"until flock --nonblock {LOCKED} true; do sleep 0.1; done"
    converged.host.root(f"timeout 20 sh -c '{free}'", check=True)
    assert converged.control.apply().code == 0


_HOLD_ALL = """
import fcntl, os, resource, sys
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
held = []
for path in sys.argv[1:]:
    try:
        fcntl.flock(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), fcntl.LOCK_EX | fcntl.LOCK_NB)
        held.append(path)
    except OSError:
        pass
print(*held, flush=True)
sys.stdin.read()
"""


def test_who_may_only_log_in_holds_no_lock_that_a_run_waits_for(converged: Proof) -> None:
    """He takes the lock of everything that he can open. (`flock` asks for no right to write.)"""
    host = converged.host
    host.root("docker stop orchestrator", check=True)
    skipped = r"\( -path /usr -o -path /proc -o -path /sys \)"
    some = f"find / /run /srv /opt/gpuhost -xdev -maxdepth 3 {skipped} -prune -o -print"
    holder = _logged_in(converged, f"python3 -c {shlex.quote(_HOLD_ALL)} $({some} 2>/dev/null)")
    try:
        assert holder.stdout is not None
        held = holder.stdout.readline().decode().split()
        assert {"/", "/var/lib", "/run/gpuhost", "/var/lib/gpuhost", "/srv/genai"} <= set(held)
        told = converged.control.apply()
        assert told.code == 0 and told.changes == [("stacks", "orchestrator", "recreate")]
        locks = host.root("ls -d /root /run/gpuhost/*.lock", check=True).stdout.split()
        assert len(locks) > 1 and not {*locks} & {*held}
    finally:
        holder.kill()
        holder.wait()


def _logged_in(proof: Proof, command: str) -> subprocess.Popen[bytes]:
    line = [*shlex.split(proof.host.ssh_command), command]
    return subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_a_power_cut_leaves_services_that_come_back(converged: Proof) -> None:
    converged.host.power_cut()
    converged.host.power_on()
    converged.answers("verify after the power cut")
    converged.nothing_to_do()


def test_a_login_that_breaks_keeps_the_door_shut_and_the_next_apply_mends_it(converged: Proof) -> None:
    """An empty key file lets ComfyUI-Login's import fail; ComfyUI alone would then serve everything to anybody."""
    host, key = converged.host, "/srv/genai/services/comfyui-qwen/seeds/session-key.txt"
    host.root(f": > {key} && docker restart -t 20 comfyui-qwen", check=True)
    with _data(converged, verify_window_s=group_data()["verify_window_s"]):
        told = converged.control.verify()
    assert told.code == 1
    error = next(error for error in told.errors if "comfyui-qwen" in error["what"])
    assert "gpuhost-guard" in "\n".join(error["detail"])
    opened = "wget -q -O /dev/null http://127.0.0.1:8188/system_stats || curl -sf http://127.0.0.1:8188/system_stats"
    assert host.root(opened).rc != 0
    mended = converged.control.apply()
    assert mended.code == 0 and ("stacks", key, "create") in mended.changes
    converged.nothing_to_do()


def test_a_hole_in_the_login_is_seen_by_verify_which_leaves_nothing_behind(converged: Proof) -> None:
    """Without the guard ComfyUI-Login lets every path through that ends in .js or .css: the questions get through."""
    host, data = converged.host, "/srv/genai/services/comfyui-qwen/data"
    guard = host.root("ls -d /srv/genai/installs/comfyui/*/nodes/auth/gpuhost-guard/__init__.py", check=True).stdout
    kept = host.root(f"cat {guard}", check=True).stdout
    host.root(f"echo 'NODE_CLASS_MAPPINGS = {{}}' > {guard.strip()} && docker restart -t 20 comfyui-qwen", check=True)
    before = host.root(f"find {data} -type f | sort", check=True).stdout
    told = converged.control.verify()
    after = host.root(f"find {data} -type f | sort", check=True).stdout
    host.root(f"cat > {guard.strip()} && docker restart -t 20 comfyui-qwen", input=kept, check=True)
    [error] = told.errors
    assert told.code == 1 and "OPTIONS /system_stats is refused without a token" in error["what"]
    assert "answers 200: authentication is open" in error["what"]
    assert before == after
    assert converged.control.apply().code == 0  # which records the file anew
    converged.nothing_to_do()


class _data:
    """A proof's host with other data in its inventory's group_data, while the block runs."""

    def __init__(self, proof: Proof, **data: object) -> None:
        self._file = proof.host.run_dir / "group_data" / "all.py"
        self._data = data
        self._kept = self._file.read_text()

    def __enter__(self) -> None:
        self._file.write_text(self._kept + "".join(f"{name} = {value!r}\n" for name, value in self._data.items()))

    def __exit__(self, *error: object) -> None:
        self._file.write_text(self._kept)
