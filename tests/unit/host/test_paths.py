"""Where our programs lie on a host, and how they are started."""

from __future__ import annotations

import importlib.util
from pathlib import PurePosixPath

import pytest

from gpuhost.host import programs
from gpuhost.host.paths import Paths, unit_file
from gpuhost.project import context
from tasks.layout import _stack_folders
from tests.unit import sample

PATHS = Paths("/srv/data", "/opt/tools", "/var/lib/state")


PROGRAMS = {name: getattr(PATHS, name) for name in dir(PATHS) if name.endswith("_command")}


@pytest.mark.parametrize("command", PROGRAMS.values(), ids=PROGRAMS)
def test_a_program_is_a_module_that_is_there_and_imports_nothing_from_elsewhere(command: str) -> None:
    python, *flags, module = command.removesuffix(" run").split()
    assert (python, flags) == ("/opt/tools/venv/bin/python", ["-I", "-B", "-m"])
    found = importlib.util.find_spec(module)
    assert found is not None
    if found.submodule_search_locations:  # a package: what `-m` starts is its __main__
        assert importlib.util.find_spec(f"{module}.__main__") is not None


def test_every_folder_in_which_root_writes_is_looked_at_outer_ones_first() -> None:
    """Who may write to one of them may change what root runs, builds or hands to a container."""
    run = sample.run()
    folders = [*programs.folders(run), *_stack_folders(run)]
    for folder in folders:
        outer = str(PurePosixPath(folder).parent)
        assert outer not in folders or folders.index(outer) < folders.index(folder)
    for name, entry in run.services.items():
        stack = run.paths.stack(entry.stack)
        config = {f"{stack}/config", f"{stack}/config/{name}"} if entry.config_files else set()
        assert config <= set(folders) and (not entry.secret_files or f"{stack}/secrets" in folders)
    for image in run.built_images.values():
        below = run.paths.image_context(image.build)
        assert {run.paths.tools + "/images", below} <= set(folders)
        for file in context(image.build):
            assert str(PurePosixPath(below, file).parent) in folders
    assert f"{run.paths.programs}/hostside/verify" in folders
    assert folders[0] == run.paths.tools and run.paths.data not in folders


def test_where_everything_lies() -> None:
    """People, backups and other programs know these places: each is for ever, or is moved on purpose."""
    found = {
        name: value
        for name in dir(PATHS)
        if not name.startswith("_") and isinstance(value := getattr(PATHS, name), str) and not name.endswith("_command")
    }
    assert found == {
        "data": "/srv/data",
        "tools": "/opt/tools",
        "state": "/var/lib/state",
        "models": "/srv/data/models",
        "hub_cache": "/srv/data/cache/huggingface",
        "outputs": "/srv/data/outputs",
        "stacks": "/srv/data/stacks",
        "programs": "/opt/tools/programs",
        "scripts": "/opt/tools/installs",
        "venv": "/opt/tools/venv",
        "broker": "/run/gpuhost/broker",
        "backups": "/var/lib/state/backups",
        "gpu_proof": "/var/lib/state/gpu-proof.json",
        "model_manifest": "/var/lib/state/models/manifest.json",
        "model_revisions": "/var/lib/state/revisions.json",
        "models_speed": "/var/lib/state/models-speed",
        "measures": "/var/lib/state/measures",
        "jobs": "/run/gpuhost/jobs",
        "cdi_stamp": "/var/lib/state/cdi.json",
        "apt_stamp": "/var/lib/state/apt-updated",
        "engine_stamp": "/var/lib/state/engine-config.json",
        "firewall_rules": "/opt/tools/firewall.nft",
    }
    assert PATHS.parents == tuple(f"/srv/data/{name}" for name in ("stacks", "installs", "services", "cache"))
    assert unit_file("api.service") == "/etc/systemd/system/api.service"
    assert PATHS.image_context("api") == "/opt/tools/images/api"
    assert PATHS.install("tree") == "/srv/data/installs/tree"
    assert PATHS.install_manifests("tree") == "/var/lib/state/installs/tree"
    assert PATHS.service_data("api") == "/srv/data/services/api/data"
    assert PATHS.service_outputs("api") == "/srv/data/outputs/api"
    assert PATHS.service_seeds("api") == "/srv/data/services/api/seeds"
    assert PATHS.stack("front") == "/srv/data/stacks/front"
    assert PATHS.compose_file("front") == "/srv/data/stacks/front/docker-compose-front.yml"
    assert PATHS.env_file("front") == "/srv/data/stacks/front/.env.docker"
    assert PATHS.config_files("api", "front") == "/srv/data/stacks/front/config/api"
    assert PATHS.secret_files("api", "front") == "/srv/data/stacks/front/secrets/api"
    assert Paths.of(sample.catalog()) == Paths("/data", "/opt/tools", "/var/lib/state")
