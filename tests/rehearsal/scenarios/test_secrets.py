"""Secrets on a real host: nowhere seen, everywhere right, renewed with proof."""

from __future__ import annotations

import json
import shlex
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuhost.catalog.types import load
from gpuhost.files.operations import write_step
from gpuhost.files.rules import FileSpec
from gpuhost.secrets.store import SecretStore
from hostside.envfile import quote as env_quote

from ..instruments.control import Told
from ..instruments.leaks import (
    Canaries,
    in_container_logs,
    in_folder,
    in_git,
    in_journal,
    in_labels,
    in_layers,
    on_host,
)
from ..instruments.vault import LOUD, Vault
from ..instruments.watcher import watch, watch_local
from ..world.machine import PROJECT
from ..world.scenery import group_data

pytestmark = [pytest.mark.rehearsal, pytest.mark.sampled(10)]
STACKS = "/srv/genai/stacks"
PASSWORD_FILE = f"{STACKS}/comfyui-qwen/secrets/comfyui-qwen/PASSWORD"
ENV_FILE = f"{STACKS}/orchestrator/.env.docker"
# Where values are meant to be, all of it root's or the services' account's alone.
INTENDED = (
    f"{STACKS}/*/.env.docker",
    f"{STACKS}/*/secrets/*/PASSWORD",
    "/var/lib/gpuhost/backups/*",
    "/var/lib/docker/containers/*/config.v2.json",
    "/var/lib/containerd/io.containerd.metadata.v1.bolt/meta.db",
    "/run/containerd/io.containerd.runtime.v2.task/*/config.json",
)
# What no place on the host is meant to hold at all.
NEVER = ("HF_TOKEN", "COMFYUI_PASSWORD", "VLLM_API_KEY_MICRO", "VLLM_API_KEY_MINI", "LABEL_HMAC_KEY")


def locations(told: Told) -> dict[tuple[str, str, str], str]:
    """(secret, kind of location, where) -> state, of an audit."""
    assert told.document, told.stderr
    listed = told.document["locations"]
    return {(each["secret"], each["kind"], each["where"]): each["state"] for each in listed}


def wrong(told: Told) -> set[tuple[str, str, str]]:
    """What an audit found out of sync: (secret, kind of location, state)."""
    return {(secret, kind, state) for (secret, kind, _), state in locations(told).items() if state != "in sync"}


def converged(vault: Vault) -> None:
    """Every location in sync, and nothing to do."""
    with ThreadPoolExecutor() as pool:
        audited, planned = pool.submit(vault.control.secrets, "audit"), pool.submit(vault.control.plan)
    audit, plan = audited.result(), planned.result()
    assert audit.code == 0, wrong(audit)
    assert (plan.code, plan.changes) == (0, []), plan.errors


# -- nowhere seen ------------------------------------------------------------------------------------------------------


@pytest.mark.core
def test_no_value_is_seen_anywhere(vault: Vault) -> None:
    """A deploy (the fixture's), an audit, a rotation, a sync and two deploys that fail, all with everything shown."""
    host, control = vault.host, vault.control
    assert control.secrets("audit", "--", *LOUD).code == 0
    assert control.secrets("rotate", "COMFYUI_PASSWORD", "--", *LOUD).code == 0
    assert control.secrets_text("rotate", "ORCHESTRATOR_TOKEN", "--yes", "--", *LOUD).returncode == 0
    vault.change(CIVITAI_TOKEN="another-civitai-canary-$1'\"\\# \n`id`")
    assert control.plan("--diff", "-vvv", "--debug").code == 2
    assert control.text("logs", "comfyui-qwen", "--", *LOUD).returncode == 0
    assert control.text("status", "--", *LOUD).returncode == 0
    assert control.pyinfra("--dry", *LOUD).returncode == 0
    assert control.pyinfra("--dry", "--json", *LOUD).returncode == 0
    assert control.pyinfra("--debug-operations", "--dry").returncode == 0
    assert control.secrets_text("sync", "--yes", "--", *LOUD).returncode == 0
    unwell = group_data()["services"]
    unwell["orchestrator"]["health"] |= {"command": ["false"], "start_budget_s": 1, "retries": 1, "interval_s": 1}
    kept = (host.run_dir / "group_data" / "all.py").read_text()
    vault.settings(services=unwell)
    assert control.apply(*LOUD).code == 1
    assert control.pyinfra("-y", *LOUD).returncode == 1
    (host.run_dir / "group_data" / "all.py").write_text(kept)
    host.root(f"rm {ENV_FILE} && mkdir {ENV_FILE}", check=True)
    assert control.apply(*LOUD).code == 1
    host.root(f"rmdir {ENV_FILE}", check=True)
    assert control.apply(*LOUD).code == 0
    assert control.secrets_text("show", "ORCHESTRATOR_TOKEN").returncode == 1  # no terminal
    vault.stop_watching()

    canaries = vault.canaries()
    found = {
        "output": vault.output_findings(),
        "processes": vault.processes.findings(canaries),
        "commands at sshd": vault.ssh.findings(canaries),
        "files": on_host(canaries, host, INTENDED),
        "never there": on_host(Canaries({name: vault.ever[name] for name in NEVER}), host),
        "journal": in_journal(canaries, host),
        "labels": in_labels(canaries, host),
        "layers": in_layers(canaries, host),
        "container logs": in_container_logs(canaries, host),
        "control's temporary files": in_folder(canaries, host.run_dir / "tmp"),
        "control's run folder": in_folder(canaries, host.run_dir, ("*/secrets/*.env",)),
        "checkout": in_git(canaries, PROJECT),
    }
    assert {channel: hits for channel, hits in found.items() if hits} == {}
    # And it was looked at: the scanner's own proof is test_leak_scanner.py.
    assert vault.processes.seen > 100 and vault.ssh.count > 100 and len(vault.control.outputs) >= 13
    converged(vault)


def test_what_holds_values_is_readable_by_nobody_else(vault: Vault) -> None:
    listed = vault.host.root(
        f"find {STACKS} -name .env.docker -o -path '*/secrets/*' -type f -o -path '*/secrets/*' -type d | sort;"
        " find /var/lib/gpuhost/backups -type f; echo /var/lib/gpuhost/backups",
        check=True,
    ).stdout.split()
    assert ENV_FILE in listed and PASSWORD_FILE in listed
    modes = vault.host.root(f"stat -c '%a %U %n' {shlex.join(listed)}", check=True).stdout.splitlines()
    # The folder of a service's secret files is root's, who writes them; the account opens them by name.
    folders = [line for line in modes if line.startswith("710 ")]
    assert folders == [f"710 root {PASSWORD_FILE.rpartition('/')[0]}"]
    assert [line for line in modes if line not in folders and not line.startswith(("600 ", "700 "))] == []
    docker = (
        "/var/lib/docker/containers/*/config.v2.json /run/containerd/io.containerd.runtime.v2.task/moby/*/config.json"
    )
    kept = vault.host.root(f"ls -d {docker} /var/lib/containerd/io.*/meta.db {shlex.join(listed)}", check=True).stdout
    assert "config.v2.json" in kept and "config.json" in kept and "meta.db" in kept
    someone = "setpriv --reuid=nobody --regid=nogroup --clear-groups"
    readable = f'{someone} sh -c \'while read -r path; do [ ! -r "$path" ] || echo "$path"; done\''
    assert vault.host.root(readable, input=f"/etc/passwd\n{kept}", check=True).stdout == "/etc/passwd\n"
    assert vault.secrets_file.stat().st_mode & 0o777 == 0o600
    assert vault.secrets_file.parent.stat().st_mode & 0o777 == 0o700


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder into which everybody may look; pytest's own are its user's alone."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_nobody_else_can_read_a_file_while_it_is_written(vault: Vault, reachable: Path) -> None:
    """A hundred writes on the host and a hundred on the control, with somebody else trying all the time."""
    canary = Canaries({"WRITTEN": "written-canary-0123456789"})
    folder = "/srv/genai/stacks/watched"
    vault.host.root(f"mkdir {folder}", check=True)
    spec = FileSpec(f"{folder}/.env.docker", lambda: "", "600", secret=True)
    others = FileSpec(f"{folder}/secrets/PASSWORD", lambda: "", "600", "genai", "genai", secret=True)
    with watch(vault.host, [folder, "/tmp", "/var/lib/gpuhost/backups"], depth=2) as seen:
        for number in range(100):
            text = f"{canary.value('WRITTEN')} {number}\n"
            step = write_step([spec, others], {spec.path: text, others.path: text}, "/var/lib/gpuhost/backups")
            stdin = step.connector_arguments["_stdin"]
            assert isinstance(stdin, str | bytes)
            vault.host.root(step.get_raw_value(), input=stdin, check=True)
    assert seen.findings(canary) == [] and folder not in seen.reads
    assert seen.listings[folder] >= 100, "the watcher looked too seldom"
    vault.host.root(f"rm -r {folder} /var/lib/gpuhost/backups/*/srv/genai/stacks/watched", check=True)

    catalog = load({**group_data(), "secrets_dir": str(reachable / "secrets")})
    with watch_local([reachable], depth=2) as here:
        store = SecretStore(catalog, "watched", {})
        store.generate(["ORCHESTRATOR_TOKEN"])
        for _ in range(100):
            store.rotate("ORCHESTRATOR_TOKEN")
            store.forget(store.retired())
    assert here.reads == {} and here.listings.keys() == {str(reachable)} and here.attempts >= 100


# -- everywhere right --------------------------------------------------------------------------------------------------


def compose_values(vault: Vault, values: list[str]) -> tuple[list[str], list[str]]:
    """What `docker compose config` and a container's environment make of values in our env file."""
    host = vault.host
    named = {f"V{number}": value for number, value in enumerate(values)}
    image = host.root("docker inspect -f '{{.Config.Image}}' orchestrator", check=True).stdout.strip()
    passed = "".join(f"      {name}: ${{{name}}}\n" for name in named)
    compose = f"services:\n  echo:\n    image: {image}\n    network_mode: none\n    environment:\n{passed}"
    env = "".join(f"{name}={env_quote(value)}\n" for name, value in named.items())
    for path, text in {"compose.yml": compose, ".env.docker": env}.items():
        host.root(f"mkdir -p /tmp/env && cat > /tmp/env/{path}", input=text, check=True)
    run = "docker compose -p env -f /tmp/env/compose.yml --env-file /tmp/env/.env.docker"
    config = json.loads(host.root(f"{run} config --format json", check=True).stdout)
    show = "import json, os; print(json.dumps(dict(os.environ)))"
    seen = host.root(f'{run} run --rm -T echo python -c "{show}"', check=True).stdout
    host.root("rm -rf /tmp/env", check=True)
    # As a compose file again, so a dollar sign is doubled there.
    shown = config["services"]["echo"]["environment"]
    got = json.loads(seen.splitlines()[-1])
    return [shown[name].replace("$$", "$") for name in named], [got[name] for name in named]


NASTY = [
    "$2b$12$RLTdZkHYMP539qoBnX9DCO",
    "${HOME}",
    "$$",
    "a # b",
    "'",
    '"',
    "\\",
    "a\\",
    "\n",
    "\r\n",
    " x ",
    "%s",
    "`id`",
]
ANY_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=60)
SIGNS = st.text(st.sampled_from("aZ09 $#'\"`\\{}\n\r\t=:!%&|;<>()*?~^éλ漢🦊\x01\x7f"), min_size=1, max_size=60)


def test_any_value_in_an_env_file_reaches_a_container_byte_for_byte(vault: Vault) -> None:
    """Through the real compose and a real container, many values at a time."""

    @settings(max_examples=5, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.lists(ANY_TEXT | SIGNS, min_size=60, max_size=60))
    def arrives(values: list[str]) -> None:
        chosen = NASTY + values
        assert compose_values(vault, chosen) == (chosen, chosen)

    arrives()


def test_the_canaries_are_in_the_containers_as_they_are(vault: Vault) -> None:
    inspected = vault.host.root("docker inspect -f '{{json .Config.Env}}' orchestrator", check=True).stdout
    held = dict(entry.split("=", 1) for entry in json.loads(inspected))
    known = vault.secrets()
    assert all(held[name] == known[name] for name in ("ORCHESTRATOR_TOKEN", "CIVITAI_TOKEN"))
    assert not held.keys() & (known.keys() - {"ORCHESTRATOR_TOKEN", "CIVITAI_TOKEN"})
    file = vault.host.root(f"cat {PASSWORD_FILE}", check=True).stdout
    assert file == f"{known['COMFYUI_PASSWORD_HASH']}\n{known['COMFYUI_USER']}\n"


def test_a_stale_container_is_found_and_sync_restarts_it_alone(vault: Vault) -> None:
    before, old = vault.containers(), vault.secrets()["ORCHESTRATOR_TOKEN"]
    new = "changed-by-hand-0123456789-abcdef"
    vault.change(ORCHESTRATOR_TOKEN=new)
    audit = vault.control.secrets("audit")
    stale = {("ORCHESTRATOR_TOKEN", kind, "stale") for kind in ("env file", "container")}
    assert (audit.code, wrong(audit)) == (1, stale)
    shown = vault.control.secrets_text("audit")
    assert shown.returncode == 1 and "hint: `gpuhost secrets sync` makes them right" in shown.stderr
    told = vault.control.secrets("sync")
    assert told.code == 0, told.errors
    assert {subject for _, subject, _ in told.changes} == {
        ENV_FILE,
        f"{STACKS}/orchestrator/docker-compose-orchestrator.yml",
        "orchestrator",
    }
    [details] = [
        change["diff"] for change in (told.document or {})["changes"] if change["resource"]["name"] == ENV_FILE
    ]
    assert len(details) == 1 and details[0]["field"] == "ORCHESTRATOR_TOKEN" and details[0]["before"].startswith("(")
    after = vault.containers()
    assert before["comfyui-qwen"] == after["comfyui-qwen"] and before["orchestrator"] != after["orchestrator"]
    assert [vault.status(8193, "/services", token) for token in (None, old, new)] == [401, 401, 200]
    converged(vault)


def test_a_process_that_read_another_file_is_found_though_the_file_is_right_again(vault: Vault) -> None:
    """Somebody changes the login by hand, restarts, and puts the file back: the process still holds the wrong one."""
    host, before = vault.host, vault.containers()
    right = vault.secrets()["COMFYUI_PASSWORD_HASH"]
    other = "$2b$12$" + "x" * 53
    kept = host.root(f"cat {PASSWORD_FILE}", check=True).stdout
    host.root(f"cat > {PASSWORD_FILE}", input=kept.replace(right, other), check=True)
    assert wrong(vault.control.secrets("audit")) == {
        ("COMFYUI_PASSWORD_HASH", "secret file", "stale"),
        ("COMFYUI_PASSWORD_HASH", "container", "stale"),
        ("COMFYUI_USER", "container", "stale"),  # what a process holds that is older than its file, nobody knows
    }
    host.root("docker restart -t 20 comfyui-qwen", check=True)
    host.root(f"cat > {PASSWORD_FILE}", input=kept, check=True)
    audit = vault.control.secrets("audit")
    assert (audit.code, {kind for _, kind, _ in wrong(audit)}) == (1, {"container"})
    told = vault.control.secrets("sync")
    assert (told.code, told.changes) == (0, [("stacks", "comfyui-qwen", "recreate")]), told.errors
    assert vault.containers()["orchestrator"] == before["orchestrator"]
    assert [vault.status(8188, "/system_stats", token) for token in (other, right)] == [401, 200]
    converged(vault)


def test_a_mode_is_put_right_without_a_restart(vault: Vault) -> None:
    before = vault.containers()
    vault.host.root(f"chmod 644 {PASSWORD_FILE} {ENV_FILE}; chown root {PASSWORD_FILE}", check=True)
    told = vault.control.secrets("sync")
    assert told.code == 0 and {subject for _, subject, _ in told.changes} == {PASSWORD_FILE, ENV_FILE}
    modes = vault.host.root(f"stat -c '%a %U' {PASSWORD_FILE} {ENV_FILE}", check=True).stdout.split("\n")
    assert modes[:2] == ["600 genai-comfyui-qwen", "600 root"]
    assert vault.containers() == before
    converged(vault)


def test_what_a_killed_compose_left_is_made_right_by_sync(vault: Vault) -> None:
    """Killed between making the new container and starting it, or before it has the service's name."""
    files = f"--project-directory {STACKS}/orchestrator -f {STACKS}/orchestrator/docker-compose-orchestrator.yml"
    compose = f"docker compose {files} --env-file {ENV_FILE}"
    vault.host.root(f"{compose} create --force-recreate orchestrator", check=True)
    for leave in ("true", "docker rename orchestrator 0123456789ab_orchestrator"):
        vault.host.root(leave, check=True)
        told = vault.control.secrets("sync")
        assert told.code == 0 and ("stacks", "orchestrator", "recreate") in told.changes, told.errors
        assert set(vault.containers()) == {"orchestrator", "comfyui-qwen"}
    converged(vault)


def test_sync_leaves_the_host_alone_when_more_than_secrets_differs(vault: Vault) -> None:
    vault.host.root("docker stop -t 20 orchestrator", check=True)
    old = vault.secrets()["ORCHESTRATOR_TOKEN"]
    for told in (vault.control.secrets("sync"), vault.control.secrets("rotate", "ORCHESTRATOR_TOKEN")):
        assert (told.code, told.changes) == (1, [])
        assert (
            told.errors[0]["what"] == "not only secrets differ: `stacks: recreate orchestrator`, because it is exited"
        )
        assert told.errors[0]["hint"] == "`gpuhost apply` makes all right, the secrets too"
    assert vault.secrets()["ORCHESTRATOR_TOKEN"] == old
    assert vault.control.apply().code == 0
    converged(vault)


# -- renewed -----------------------------------------------------------------------------------------------------------


@pytest.mark.core
def test_a_rotation_proves_that_the_old_value_is_refused(vault: Vault) -> None:
    before, old = vault.containers(), vault.secrets()
    cookie = vault.cookie()
    assert vault.status_with_cookie("/system_stats", cookie) == 200
    told = vault.control.secrets("rotate", "COMFYUI_PASSWORD")
    assert told.code == 0 and told.document, told.errors
    # Who logged in with the old password is a stranger, too.
    assert [vault.status_with_cookie("/system_stats", each) for each in (cookie, vault.cookie())] == [401, 200]
    assert told.document["proved"] == [
        {
            "host": "vault",
            "service": "comfyui-qwen",
            "secret": "COMFYUI_PASSWORD_HASH",
            "old_status": 401,
            "new_status": 200,
        }
    ]
    new = vault.secrets()
    assert {name for name in new if new[name] != old[name]} == {"COMFYUI_PASSWORD", "COMFYUI_PASSWORD_HASH"}
    hashes = [secrets["COMFYUI_PASSWORD_HASH"] for secrets in (old, new)]
    assert [vault.status(8188, "/system_stats", token) for token in hashes] == [401, 200]
    assert vault.containers()["orchestrator"] == before["orchestrator"]
    converged(vault)


def test_a_rotation_that_was_cut_off_goes_on(vault: Vault) -> None:
    """The host is out of reach once the new value is made: nothing is lost, and the next run ends it."""
    old = vault.secrets()["ORCHESTRATOR_TOKEN"]
    store = SecretStore(load({**group_data(), "secrets_dir": str(vault.secrets_file.parent)}), "vault", {})
    store.rotate("ORCHESTRATOR_TOKEN")  # as the command does first; then it was cut off
    new = vault.secrets()["ORCHESTRATOR_TOKEN"]
    assert store.retired() == {"ORCHESTRATOR_TOKEN": [old]} and new != old
    refused = vault.control.verify()  # the service still runs with the old one, and verify says so
    assert refused.code == 1
    told = vault.control.secrets("rotate", "ORCHESTRATOR_TOKEN")
    assert told.code == 0 and [proof["secret"] for proof in (told.document or {})["proved"]] == ["ORCHESTRATOR_TOKEN"]
    assert vault.secrets()["ORCHESTRATOR_TOKEN"] == new and store.retired() == {}
    assert [vault.status(8193, "/services", token) for token in (old, new)] == [401, 200]
    converged(vault)


def test_the_key_of_the_fingerprints_can_be_rotated(vault: Vault) -> None:
    before = vault.containers()
    told = vault.control.secrets("rotate", "LABEL_HMAC_KEY")
    assert told.code == 0, told.errors
    assert not before.items() & vault.containers().items()  # every stamp is keyed by it
    converged(vault)


def test_what_is_the_operators_is_not_rotated(vault: Vault) -> None:
    told = vault.control.secrets_text("rotate", "HF_TOKEN", "--yes")
    assert told.returncode == 1 and "`HF_TOKEN` is yours" in told.stderr and "huggingface.co" in told.stderr


def test_a_secret_is_shown_on_a_terminal_and_carried_to_another_machine(vault: Vault, tmp_path: Path) -> None:
    """show, then export, the loss of the control's disk, import, and a plan that finds nothing to do."""
    shown = vault.control.typed("secrets", "show", "COMFYUI_PASSWORD", answers=[])
    assert (shown.code, shown.text.strip()) == (0, vault.secrets()["COMFYUI_PASSWORD"])
    forced = vault.control.secrets_text("show", "ORCHESTRATOR_TOKEN", "--force")
    assert forced.stdout == vault.secrets()["ORCHESTRATOR_TOKEN"] + "\n"
    archive, phrase = str(tmp_path / "rescue.age"), "correct horse battery"
    twice = [("passphrase: ", phrase), ("again: ", phrase)]
    assert vault.control.typed("secrets", "export", archive, answers=twice).code == 0
    content = vault.secrets_file.read_bytes()
    assert Canaries(vault.ever).find((tmp_path / "rescue.age").read_bytes()) == []
    vault.secrets_file.unlink()
    wrong_one = vault.control.typed("secrets", "import", archive, answers=[("passphrase: ", "another horse battery")])
    assert wrong_one.code == 1 and not vault.secrets_file.exists()
    assert vault.control.typed("secrets", "import", archive, answers=[("passphrase: ", phrase)]).code == 0
    assert vault.secrets_file.read_bytes() == content
    converged(vault)
