"""Files in the folder of the stacks: compose must accept new ones, foreign ones are archived. The scripts are run."""

from __future__ import annotations

import base64
import os
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpuhost.files import operations as file_operations
from gpuhost.files.diffs import unified
from gpuhost.services import operations
from gpuhost.services.files import ComposeFiles, foreign, is_compose_file
from gpuhost.services.stacks import Stacks
from hostside import labels
from tests.unit import sample

SECRETS = {"LABEL_HMAC_KEY": "key", "API_TOKEN": "a-secret-token", "LOGIN_HASH": "$2b$12$hash", "LOGIN_USER": "someone"}


@pytest.mark.parametrize(
    "name",
    ["docker-compose.yml", "docker-compose-no-auth.yml", "docker-compose.test.yaml", "compose.yml", "compose-x.yaml"],
)
def test_compose_files(name: str) -> None:
    assert is_compose_file(name)


@pytest.mark.parametrize("name", [".env.docker", "composed.yml", "compose.yml.bak", "my-compose.yml", "extra.yaml"])
def test_other_files(name: str) -> None:
    assert not is_compose_file(name)


@pytest.fixture
def stacks(tmp_path: Path) -> Path:
    """A folder of stacks with one of ours, and others."""
    made = tmp_path / "stacks"
    for file in (
        "front/docker-compose-front.yml",
        "front/docker-compose-old.yml",
        "front/.env.docker",
        "front/config/api/compose.yml",  # of a service, no stack's
        "gone/docker-compose-gone.yml",
        "compose.yml",
        "archived/2025-01-01/gone/compose.yml",
    ):
        (made / file).parent.mkdir(parents=True, exist_ok=True)
        (made / file).write_text(file)
    (made / "front/compose.yaml").symlink_to("/etc/passwd")
    (made / "front/docker-compose.yml").mkdir()
    return made


def found(stacks: Path) -> list[str]:
    """What the fact's command finds, and is foreign, below the folder."""
    done = subprocess.run(["sh", "-c", ComposeFiles().command(str(stacks))], capture_output=True, text=True, check=True)
    seen = ComposeFiles().read(done.stdout.splitlines())
    return foreign(seen, [f"{stacks}/front/docker-compose-front.yml"])


FOREIGN = ["compose.yml", "front/compose.yaml", "front/docker-compose-old.yml", "gone/docker-compose-gone.yml"]


def test_what_no_stack_has_is_foreign(stacks: Path) -> None:
    assert found(stacks) == [f"{stacks}/{file}" for file in FOREIGN]


def test_where_there_are_no_stacks_yet(tmp_path: Path) -> None:
    assert found(tmp_path / "nothing") == []


def archive(stacks: Path, *paths: str) -> list[str]:
    """Archive these; what is in the archive then, below today's folder."""
    step = operations._archive([f"{stacks}/{path}" for path in paths], str(stacks), f"{stacks}/archived")
    subprocess.run(["sh", "-c", step.get_raw_value()], check=True, timeout=20)
    [today] = [folder for folder in (stacks / "archived").iterdir() if folder.name != "2025-01-01"]
    return sorted(str(path.relative_to(today)) for path in today.rglob("*") if not path.is_dir() or path.is_symlink())


def test_foreign_files_are_moved_as_they_are(stacks: Path) -> None:
    assert archive(stacks, *FOREIGN) == FOREIGN
    assert found(stacks) == []
    [link] = stacks.glob("archived/*/front/compose.yaml")
    assert link.is_symlink() and str(link.readlink()) == "/etc/passwd"
    assert (stacks / "front/docker-compose-front.yml").exists() and (stacks / "front/.env.docker").exists()


def test_one_of_the_same_name_on_the_same_day_is_kept_beside(stacks: Path) -> None:
    archive(stacks, "compose.yml")
    (stacks / "compose.yml").write_text("second")
    assert archive(stacks, "compose.yml") == ["compose.yml", "compose.yml.~1~"]
    assert {path.read_text() for path in stacks.glob("archived/2[!0]*/compose.yml*")} == set()
    [today] = [folder for folder in (stacks / "archived").iterdir() if folder.name != "2025-01-01"]
    assert {path.read_text() for path in today.iterdir()} == {"compose.yml", "second"}


def test_a_name_that_a_shell_would_read(stacks: Path) -> None:
    name = "compose-$(touch x).yml"
    (stacks / name).touch()
    assert archive(stacks, name) == [name]


# -- compose accepts new files before they replace any -----------------------------------------------------------------

DOCKER = r"""#!/bin/sh
# compose, as far as it is asked: refuses a compose file or variables that hold `bad`, and quotes them.
printf '%s\n' "$*" >> @FOLDER@/calls
while [ $# -gt 0 ]; do case "$1" in -f) compose="$2";; --env-file) env="$2";; esac; shift; done
ls -ld "$(dirname "$compose")" "$compose" "$env" | cut -c1-10 >> @FOLDER@/modes
if grep -h bad "$compose" "$env" >&2; then exit 15; fi
"""


def accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secret: str, compose: str = "fine") -> tuple[int, str]:
    """(exit status, what it said) of the step that asks compose."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "run/compose.of-a-killed-one").mkdir(parents=True)
    (tmp_path / "bin" / "docker").write_text(DOCKER.replace("@FOLDER@", str(tmp_path)))
    (tmp_path / "bin" / "docker").chmod(0o755)
    monkeypatch.setattr(operations, "RUNTIME", str(tmp_path / "run"))
    stacks = Stacks(sample.run(None, {**SECRETS, "API_TOKEN": secret}))
    monkeypatch.setattr(stacks, "compose", lambda stack: f"services: {compose}\n")
    step = operations._accepted("front", "/data/stacks/front", stacks)
    stdin = str(step.connector_arguments["_stdin"])
    assert secret not in step.get_raw_value() and base64.b64decode(stdin.split()[0]).decode().startswith("services:")
    done = subprocess.run(
        ["sh", "-c", step.get_raw_value()],
        input=stdin,
        env={"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "API_TOKEN": "of the shell"},
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert list((tmp_path / "run").iterdir()) == []  # nothing stays
    return done.returncode, done.stdout + done.stderr


def test_files_that_compose_accepts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert accepted(tmp_path, monkeypatch, "a-fine-token") == (0, "")
    [call] = (tmp_path / "calls").read_text().splitlines()
    assert call.startswith("compose -p front --project-directory /data/stacks/front -f ") and call.endswith(
        " config -q"
    )
    assert set((tmp_path / "modes").read_text().split()) == {"drwx------", "-rw-------"}


def test_a_compose_file_that_it_refuses_is_told_in_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, said = accepted(tmp_path, monkeypatch, "a-fine-token", "bad file")
    assert code == 1 and "refuses the new files of the stack front: services: bad file\nhint: " in said


def test_what_it_quotes_of_a_secret_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, said = accepted(tmp_path, monkeypatch, "a-bad-token")
    assert code == 1 and "a value of a secret cannot be read" in said and "a-bad-token" not in said


@pytest.mark.parametrize(
    ("missing", "asked"),
    [
        ("/data/stacks/front/docker-compose-front.yml", ["front"]),
        ("/data/stacks/front/.env.docker", ["front"]),
        ("/data/stacks/", ["front", "paint"]),
        ("/data/stacks/paint/config/painter/extra_model_paths.yaml", []),
    ],
)
def test_compose_is_asked_of_each_stack_with_a_new_file_before_any_is_written(
    monkeypatch: pytest.MonkeyPatch, missing: str, asked: list[str]
) -> None:
    run = sample.run(None, SECRETS)
    seen: list[str] = []

    def reconcile(stage: str, wanted: Any, *_: Any) -> list[Any]:
        return [
            operations.Change(stage, operations.Resource("file", spec.path), "write", "")
            for spec in wanted
            if spec.path.startswith(missing)
        ]

    def carry_out(changes: Any, commands: Any) -> list[Any]:
        seen.extend(command.get_raw_value() for command in commands)
        return []

    monkeypatch.setattr(operations, "host", SimpleNamespace(get_fact=lambda *_, **__: []))
    monkeypatch.setattr(operations, "observe", lambda *_: {})
    monkeypatch.setattr(operations, "reconcile", reconcile)
    monkeypatch.setattr(operations, "same", lambda *_: True)
    monkeypatch.setattr(operations, "with_text_diffs", lambda changes, *_, **__: changes)
    monkeypatch.setattr(operations, "_with_secret_diffs", lambda run, stacks, changes, observed: changes)
    monkeypatch.setattr(file_operations, "carry_out", carry_out)
    list(operations.rendered._inner(run))
    *before, writes = seen
    assert [re.findall(r"docker compose -p (\S+)", script) for script in before] == [[stack] for stack in asked]
    assert "put /data/stacks/" in writes and "docker compose" not in writes


def test_of_a_compose_file_the_stamps_are_no_news_beside_what_differs() -> None:
    """Those of the other services of a stack neither; of a stamp that differs alone its name is said."""
    compose = Stacks.of(sample.run(None, SECRETS)).compose("front")
    later = Stacks.of(sample.run({"images.api.args.BASE_IMAGE": "docker.io/library/python:3.12.12"}, SECRETS))
    lines = unified(compose, later.compose("front"), str, labels.SPEC)
    changed = [line for line in lines if line[0] in "+-"]
    assert [line.split(":")[0] for line in changed] == ["-    image", "+    image"]
    assert sum("gpuhost.spec" in line for line in unified(compose, later.compose("front"), str)) == 2
    rotated = Stacks.of(sample.run(None, {**SECRETS, "API_TOKEN": "another-secret-token"})).compose("front")
    [line] = unified(compose, rotated, str, labels.SPEC)
    assert line.startswith("(only the label `gpuhost.spec`: ")
