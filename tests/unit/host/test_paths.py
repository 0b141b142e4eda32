"""Where our programs lie on a host, and how they are started."""

from __future__ import annotations

import importlib.util
from pathlib import PurePosixPath

import pytest

from gpuhost.host.paths import Layout
from gpuhost.project import context
from tasks.layout import _program_folders, _stack_folders
from tests.unit import sample

LAYOUT = Layout("/srv/data", "/opt/tools", "/var/lib/state")


PROGRAMS = [LAYOUT.verify_command, LAYOUT.secret_audit_command, LAYOUT.models_command, LAYOUT.trees_command]


@pytest.mark.parametrize("command", PROGRAMS)
def test_a_program_is_a_module_that_is_there_and_imports_nothing_from_elsewhere(command: str) -> None:
    python, *flags, module = command.split()
    assert (python, flags) == ("/opt/tools/venv/bin/python", ["-I", "-B", "-m"])
    found = importlib.util.find_spec(module)
    assert found is not None
    if found.submodule_search_locations:  # a package: what `-m` starts is its __main__
        assert importlib.util.find_spec(f"{module}.__main__") is not None


def test_every_folder_in_which_root_writes_is_looked_at_outer_ones_first() -> None:
    """Who may write to one of them may change what root runs, builds or hands to a container."""
    run = sample.run()
    folders = [*_program_folders(run), *_stack_folders(run)]
    for folder in folders:
        outer = str(PurePosixPath(folder).parent)
        assert outer not in folders or folders.index(outer) < folders.index(folder)
    for name, entry in run.services.items():
        stack = run.layout.stack(entry.stack)
        config = {f"{stack}/config", f"{stack}/config/{name}"} if entry.config_files else set()
        assert config <= set(folders) and (not entry.secret_files or f"{stack}/secrets" in folders)
    for image in run.built_images.values():
        below = run.layout.image_context(image.build)
        assert {run.layout.tools + "/images", below} <= set(folders)
        for file in context(image.build):
            assert str(PurePosixPath(below, file).parent) in folders
    assert f"{run.layout.programs}/hostside/verify" in folders
    assert run.layout.tools not in folders and run.layout.data not in folders


def test_where_everything_lies() -> None:
    """People, backups and other programs know these places: each is for ever, or is moved on purpose."""
    found = {
        name: value
        for name in dir(LAYOUT)
        if not name.startswith("_")
        and isinstance(value := getattr(LAYOUT, name), str)
        and not name.endswith("_command")
    }
    assert found == {
        "data": "/srv/data",
        "tools": "/opt/tools",
        "state": "/var/lib/state",
        "models": "/srv/data/models",
        "hub_cache": "/srv/data/cache/huggingface",
        "outputs": "/srv/data/outputs",
        "programs": "/opt/tools/programs",
        "scripts": "/opt/tools/installs",
        "venv": "/opt/tools/venv",
        "broker": "/run/gpuhost/broker",
        "backups": "/var/lib/state/backups",
        "gpu_proof": "/var/lib/state/gpu-proof.json",
        "apt_stamp": "/var/lib/state/apt-updated",
        "firewall_rules": "/opt/tools/firewall.nft",
    }
    assert LAYOUT.image_context("api") == "/opt/tools/images/api"
    assert LAYOUT.install("tree") == "/srv/data/installs/tree"
    assert LAYOUT.install_manifests("tree") == "/var/lib/state/installs/tree"
    assert LAYOUT.service_data("api") == "/srv/data/services/api/data"
    assert LAYOUT.service_seeds("api") == "/srv/data/services/api/seeds"
    assert LAYOUT.stack("front") == "/srv/data/stacks/front"
    assert LAYOUT.compose_file("front") == "/srv/data/stacks/front/docker-compose-front.yml"
    assert LAYOUT.env_file("front") == "/srv/data/stacks/front/.env.docker"
    assert LAYOUT.config_files("api", "front") == "/srv/data/stacks/front/config/api"
    assert LAYOUT.secret_files("api", "front") == "/srv/data/stacks/front/secrets/api"
    assert Layout.of(sample.catalog()) == Layout("/data", "/opt/tools", "/var/lib/state")
