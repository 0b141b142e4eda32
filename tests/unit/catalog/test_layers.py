"""group_data as pyinfra merges it: every host is checked before any is contacted, and the file at fault is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pyinfra.api.state import State
from pyinfra_cli.inventory import make_inventory

from gpuhost.catalog.layers import catalog_of, catalogs
from gpuhost.errors import Problem, UserError
from tests.unit import sample
from tests.unit.sample import ABSENT, write_group_data


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pyinfra_state: State) -> Path:
    monkeypatch.chdir(tmp_path)
    inventory(tmp_path, 'lab = ["gpu1", "gpu2"]\nmine = ["@local"]\n')
    return tmp_path


def inventory(folder: Path, text: str) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "inventory.py"
    path.write_text(text)
    return str(path.relative_to(Path.cwd()))


def problems(inventory: str = "inventory.py", **overrides: Any) -> list[Problem]:
    try:
        catalogs(inventory, overrides)
    except UserError as error:
        return list(error.problems)
    return []


def test_valid_data_passes(project: Path) -> None:
    write_group_data(project, {"all": sample.data()})
    assert problems() == []


def test_a_group_replaces_single_names_for_its_hosts_alone(project: Path) -> None:
    write_group_data(project, {"all": sample.data(), "lab": {"hub_endpoint": "https://hub.lab"}})
    found = {host.name: catalog_of(host).hub_endpoint for host in make_inventory("inventory.py", cwd=str(project))}
    assert found == {"gpu1": "https://hub.lab", "gpu2": "https://hub.lab", "@local": "https://huggingface.co"}


def test_the_folder_beside_the_inventory_replaces_names_too(project: Path) -> None:
    write_group_data(project, {"all": sample.data()})
    path = inventory(project / "sites/lab", 'hosts = ["gpu1"]\n')
    write_group_data(project / "sites/lab", {"all": {"hub_endpoint": "https://hub.lab"}})
    assert problems(path) == []
    [host] = make_inventory(path, cwd=str(project))
    assert catalog_of(host).hub_endpoint == "https://hub.lab"


MISTAKES: dict[str, tuple[dict[str, dict[str, Any]], str, str]] = {
    "in all": (
        {"all": sample.data({"engine_source": "podman"})},
        "group_data/all.py: `engine_source`: input should be 'docker' or 'distro', not `'podman'`",
        "it is one of 'docker' or 'distro'",
    ),
    "in a group": (
        {"all": sample.data(), "lab": {"engine_source": "podman"}},
        "group_data/lab.py: `engine_source`: input should be 'docker' or 'distro', not `'podman'`",
        "it is one of 'docker' or 'distro'",
    ),
    "unknown name in a group": (
        {"all": sample.data(), "lab": {"enabled_service": []}},
        "group_data/lab.py: `enabled_service` is not a field that gpuhost knows",
        "did you mean `enabled_services`?",
    ),
    "nowhere": (
        {"all": sample.data({"networks": ABSENT})},
        "group_data/all.py: `networks`: field required",
        "add this field",
    ),
    "across entries": (
        {"all": sample.data(), "lab": {"services": sample.data({"services.painter.port": 9001})["services"]}},
        "group_data/lab.py: `services.painter.port`: host port 9001 is already used by `api`",
        "give `painter` another port",
    ),
    "no such template": (
        {"all": sample.data({"services.painter.template": "comfyu.yml.j2"})},
        "group_data/all.py: `services.painter.template` names `comfyu.yml.j2`, which is not in templates/",
        "did you mean `comfyui.yml.j2`?",
    ),
    "no such build context": (
        {"all": sample.data({"images.api.build": "orchestratr"})},
        "group_data/all.py: `images.api.build` names `orchestratr`, which is not in files/",
        "did you mean `orchestrator`?",
    ),
}


@pytest.mark.parametrize(("files", "what", "hint"), MISTAKES.values(), ids=MISTAKES)
def test_the_file_at_fault_is_named_once(project: Path, files: dict[str, Any], what: str, hint: str) -> None:
    write_group_data(project, files)
    assert problems() == [Problem(what, hint)]


def test_a_file_beside_the_inventory_is_named_by_its_path(project: Path) -> None:
    write_group_data(project, {"all": sample.data()})
    path = inventory(project / "sites/lab", 'hosts = ["gpu1"]\n')
    write_group_data(project / "sites/lab", {"all": {"engine_source": "podman"}})
    assert [problem.what for problem in problems(path)] == [
        "sites/lab/group_data/all.py: `engine_source`: input should be 'docker' or 'distro', not `'podman'`"
    ]


def test_data_of_the_inventory_itself_is_named_so(project: Path) -> None:
    write_group_data(project, {"all": sample.data()})
    path = inventory(project / "other", 'hosts = [("gpu1", {"engine_source": "podman"})]\n')
    assert [problem.what.partition(":")[0] for problem in problems(path)] == ["the inventory"]


def test_what_connectors_read_is_no_field_of_ours(project: Path) -> None:
    write_group_data(project, {"all": sample.data()})
    path = inventory(
        project / "other", 'hosts = [("gpu1", {"ssh_hostname": "192.0.2.1", "ssh_user": "admin", "_sudo": True})]\n'
    )
    assert problems(path, gpuhost_report="/nowhere") == []


def test_an_override_counts(project: Path) -> None:
    write_group_data(project, {"all": sample.data()})
    assert len(problems(engine_source="podman")) == 1


def test_each_hosts_own_mistake_is_told(project: Path) -> None:
    write_group_data(project, {"all": sample.data(), "lab": {"engine_source": "podman"}, "mine": {"base_packages": 1}})
    assert sorted(problem.what.partition(":")[0] for problem in problems()) == [
        "group_data/lab.py",
        "group_data/mine.py",
    ]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("engine_source =", "SyntaxError: invalid syntax"),
        ("import nowhere", "ModuleNotFoundError: No module named 'nowhere'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
@pytest.mark.parametrize("file", ["group_data/lab.py", "inventory.py"])
def test_a_file_that_fails_is_named_with_its_line(project: Path, file: str, line: str, what: str) -> None:
    write_group_data(project, {"all": sample.data()})
    (project / file).write_text(f"first = []\n{line}\n")
    assert problems() == [Problem(f"{file}, line 2: {what}", "it is read as Python: mend it there")]


def test_an_inventory_without_a_host_is_a_mistake(project: Path) -> None:
    path = inventory(project / "other", "hosts = []\n")
    assert [problem.what for problem in problems(path)] == ["other/inventory.py names no host"]


def test_a_key_that_is_not_there_is_told_for_the_hosts_of_the_run(project: Path) -> None:
    write_group_data(project, {"all": sample.data()})
    path = inventory(project / "other", 'lab = [("gpu1", {"ssh_key": "~/no/key"})]\nmine = ["@local"]\n')
    wanted = [Problem("the SSH key `~/no/key` is not there", "correct `ssh_key` in the inventory", "gpu1")]
    assert problems(path) == wanted
    catalogs(path, {}, ["mine"])
    (project / "key").touch()
    assert problems(inventory(project / "third", 'lab = [("gpu1", {"ssh_key": "key"})]\n')) == []
