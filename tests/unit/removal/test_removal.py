"""What `gpuhost destroy` takes off a host: what gpuhost made, in an order that starts nothing again."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from pyinfra.api.command import StringCommand

from gpuhost.engine.containers import Container
from gpuhost.removal import operations, rules
from gpuhost.removal.facts import Ours, OursState
from gpuhost.removal.rules import Known
from tests.unit import sample

KNOWN = Known(
    units={"boot.service": "/units/boot.service", "firewall.service": "/units/firewall.service"},
    stacks={"front": ["/stacks/front/.env.docker", "/stacks/front/compose.yml"], "back": ["/stacks/back/compose.yml"]},
    programs=["/opt/programs/a.py", "/opt/programs/b.py"],
    whole=["/opt/venv"],
    tools="/opt",
    secret=frozenset({"/stacks/front/.env.docker"}),
)
ALL = Ours(KNOWN.files, ["/opt/venv"], True, ["inner"], ["gpuhost/api:1"])


def container(name: str, **over: Any) -> Container:
    return Container(f"id-{name}", name, over.pop("service", name), "front", "running", **over)


def removed(found: Ours, *containers: Container) -> list[tuple[str, str]]:
    changes = rules.reconcile(KNOWN, found, containers, "gpuhost")
    assert all(each.action == "remove" and each.stage == "destroy" for each in changes)
    return [(each.resource.kind, each.resource.name) for each in changes]


def test_what_starts_services_goes_first_then_they_then_what_they_ran_in() -> None:
    assert removed(ALL, container("b"), container("a")) == [
        ("unit", "boot.service"),
        ("unit", "firewall.service"),
        ("service", "a"),
        ("service", "b"),
        ("network", "inner"),
        ("firewall", "gpuhost"),
        ("image", "gpuhost/api:1"),
        ("stack", "front"),
        ("stack", "back"),
        ("programs", "/opt"),
    ]


def test_what_is_not_there_is_not_removed() -> None:
    assert removed(Ours()) == []
    assert removed(Ours(files=["/stacks/back/compose.yml"])) == [("stack", "back")]
    assert removed(Ours(folders=["/opt/venv"])) == [("programs", "/opt")]


def test_somebodys_own_containers_stay() -> None:
    assert removed(Ours(), container("mine", service="a", own="run"), container("copy", service="a", own="copy")) == []


def test_the_reason_says_where_the_data_is_and_how_many_files_go() -> None:
    changes = rules.reconcile(KNOWN, ALL, [container("a")], "gpuhost", lambda name: f"in /data/{name}")
    said = {each.resource.name: each.reason for each in changes}
    assert said["a"] == "its container; its data stays, in /data/a"
    assert said["front"] == "2 files: compose file, `.env.docker`, configuration, secrets"
    assert said["back"].startswith("1 file: ")
    assert said["/opt"] == "2 files of ours and their Python environment"


def test_one_question_finds_what_is_there(tmp_path: Path) -> None:
    file, folder, link = tmp_path / "it's a file", tmp_path / "folder", tmp_path / "link"
    file.touch()
    folder.mkdir()
    link.symlink_to(folder)
    asked = [str(file), str(link), str(folder), str(tmp_path / "absent")]
    script = OursState().command(files=asked, folders=[*asked], table="gpuhost-has-no-such-table")
    done = subprocess.run(
        ["sh", "-c", script], capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"}, check=True
    )
    found = OursState().process(done.stdout.splitlines())
    assert (found.files, found.folders, found.rules) == ([str(file), str(link)], [str(folder)], False)


@pytest.mark.parametrize("output", [[], ["file\t/a"]])
def test_half_an_answer_is_none(output: list[str]) -> None:
    with pytest.raises(ValueError, match="could not be read to its end"):
        OursState().read(output)


def test_files_go_to_the_backups_secrets_nowhere_and_folders_of_others_files_stay(tmp_path: Path) -> None:
    plain, secret, others = tmp_path / "opt/a b.py", tmp_path / "stack/.env", tmp_path / "opt/mine"
    for file in (plain, secret, others):
        file.parent.mkdir(exist_ok=True)
        file.write_text(file.name)
    known = Known(secret=frozenset({str(secret)}))
    run = sample.run({"state_root": str(tmp_path / "state")})
    folders = [str(plain.parent), str(secret.parent), str(tmp_path / "absent")]
    step = operations._taken(run, known, [str(plain), str(secret)], folders)
    assert isinstance(step, StringCommand)
    text = step.get_raw_value().replace("systemctl daemon-reload", "true")
    subprocess.run(["sh", "-c", text], check=True)
    assert others.read_text() == "mine" and not plain.exists() and not secret.parent.exists()
    kept = [path for path in (tmp_path / "state").rglob("*") if path.is_file()]
    assert [path.read_text() for path in kept] == ["a b.py"]
    assert kept[0].parent.stat().st_mode & 0o077 == 0


def test_everything_that_a_deploy_writes_is_known() -> None:
    run = sample.run(secrets={"API_KEY": "x" * 40})
    known = operations.known(run, ["boot.service"])
    assert set(known.units) == {"boot.service", "gpuhost-firewall.service"}
    assert set(known.stacks) == set(run.stacks)
    for stack in run.stacks:
        assert {run.paths.compose_file(stack), run.paths.env_file(stack)} <= set(known.stacks[stack])
        assert run.paths.env_file(stack) in known.secret and run.paths.compose_file(stack) not in known.secret
    assert {run.paths.firewall_rules, f"{run.paths.programs}/hostside/verify/__main__.py"} <= set(known.programs)
    assert known.whole == [run.paths.venv]
