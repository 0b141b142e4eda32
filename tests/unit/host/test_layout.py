"""What lies on the way to a file of ours is looked at, as the file is; and a file is shipped as it is here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePosixPath
from types import SimpleNamespace
from typing import Any

import pytest

from gpuhost.apt import operations as apt
from gpuhost.files import operations
from gpuhost.files.folders import Folder
from gpuhost.files.rules import FileSpec
from gpuhost.host import programs
from gpuhost.project import ProjectFile, context
from gpuhost.run.host_run import HostRun
from gpuhost.services.stacks import Stacks
from tasks import engine, images, layout, models, stacks
from tests.unit import sample

GIVEN = {"LABEL_HMAC_KEY": "k", "API_TOKEN": "t", "LOGIN_HASH": "$2b$12$x", "LOGIN_USER": "u"}
SHIPPED = {"flow.json": "workflows/flux-1-dev.json"}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """`folders` and `files` that the stages want, in order; none of their operations does anything else."""
    found = SimpleNamespace(folders=[], files=[])

    def wants(kept: list[Any]) -> Callable[..., None]:
        return lambda name, stage, wanted, **_: kept.extend(wanted)

    for module in (engine, layout, stacks):
        monkeypatch.setattr(module, "folders", wants(found.folders))
    monkeypatch.setattr(operations, "files", wants(found.files))
    nothing = SimpleNamespace(**dict.fromkeys(("environment", "networks", "units", "images"), lambda **_: None))
    monkeypatch.setattr(layout, "venv", nothing)
    monkeypatch.setattr(layout, "network", nothing)
    monkeypatch.setattr(layout, "accounts", lambda **_: None)
    monkeypatch.setattr(images, "docker", nothing)
    monkeypatch.setattr(stacks, "systemd", nothing)
    steps = ("own_folders", "seeded", "rendered", "running", "archived")
    monkeypatch.setattr(stacks, "operations", SimpleNamespace(BOOT_UNIT="x", **dict.fromkeys(steps, lambda **_: None)))
    monkeypatch.setattr(stacks, "_file", lambda *_, **__: FileSpec("/etc/systemd/system/x", str))
    for name in ("repaired", "index"):
        monkeypatch.setattr(apt, name, lambda **_: None)
    monkeypatch.setattr(engine, "_install", lambda *_: None)
    return found


def whole(run: HostRun) -> None:
    """The stages that make folders or write files of ours."""
    for stage in (engine.base, layout.programs, layout.layout, models._keep_revisions, images.images, stacks.stacks):
        getattr(stage, "__wrapped__", stage)(run)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"services.painter.shipped_files": SHIPPED},
        {"services.api.shipped_files": SHIPPED},
        {"services.painter.config_files": {}},  # the record of a seed lies there, too
        {"services.api.secret_files": {"KEY": "{API_TOKEN}"}, "services.api.secrets": []},
    ],
    ids=["the sample", "with a shipped file", "a shipped file alone", "a record alone", "a secret file alone"],
)
def test_every_folder_on_the_way_to_a_file_of_ours_is_compared(asked: SimpleNamespace, changes: dict[str, Any]) -> None:
    """Whoever may write to one of them may put another file in its place. From the roots on; what lies above those is
    preflight's."""
    run = sample.run(changes, GIVEN)
    whole(run)
    paths, made = run.paths, Stacks(run)
    files = [*asked.files, *(file for stack in run.stacks for file in made.files(stack))]
    ours = {file.path for file in files} | {paths.firewall_rules, paths.model_manifest, paths.venv}
    ours |= {seed.path for name in run.services for seed in made.seeds(name).values()}
    ours |= {run.install_manifest(name) for name in run.installs} | {bind.source for bind in made.binds()}
    roots = {PurePosixPath(root) for root in (paths.data, paths.tools, paths.state)}
    on_the_way = {
        str(folder) for path in map(PurePosixPath, ours) for folder in path.parents if roots & {folder, *folder.parents}
    }
    assert len(on_the_way) > 25
    compared = [folder.path for folder in asked.folders]
    assert on_the_way - set(compared) == set()
    assert {"/etc/docker", "/etc/apt/keyrings", paths.backups} <= set(compared)
    wide = [each for each in asked.folders if isinstance(each, Folder) and int(each.mode, 8) & 0o002]
    assert wide == []


def test_what_may_be_executed_here_may_be_there(asked: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of our build contexts holds such a file today."""
    files = {"Dockerfile": context("orchestrator")["Dockerfile"], "entry.sh": ProjectFile("#!/bin/sh\n", "755")}
    monkeypatch.setattr(programs, "context", lambda _: files)
    monkeypatch.setattr(programs, "folder", lambda _: {"start.sh": files["entry.sh"], "module.py": files["Dockerfile"]})
    run = sample.run()
    images.images.__wrapped__(run)  # type: ignore[attr-defined]
    layout.programs.__wrapped__(run)  # type: ignore[attr-defined]
    modes = {file.path.rpartition("/")[2]: file.mode for file in asked.files}
    assert {name: modes[name] for name in ("entry.sh", "Dockerfile", "start.sh", "module.py")} == {
        **{"entry.sh": "755", "Dockerfile": "644"},
        **{"start.sh": "755", "module.py": "644"},
    }
