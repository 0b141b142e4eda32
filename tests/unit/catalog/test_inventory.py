"""group_data and inventory, read in layers: every host is checked before any is contacted, the file at fault named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pyinfra.api.state import State

from gpuhost.catalog.inventory import Request, read, site_folder
from gpuhost.catalog.inventory import inventory as as_pyinfra_has_it
from gpuhost.catalog.types import Catalog
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
        read(Request(inventory, data=overrides))
    except UserError as error:
        return list(error.problems)
    return []


def catalogs(inventory: str = "inventory.py", **overrides: Any) -> dict[str, Catalog]:
    return dict(read(Request(inventory, data=overrides)).catalogs)


def test_valid_data_passes(project: Path) -> None:
    write_group_data(project, {"all": sample.data()})
    assert problems() == []


def test_a_group_replaces_single_names_for_its_hosts_alone(project: Path) -> None:
    write_group_data(project, {"all": sample.data(), "lab": {"hub_endpoint": "https://hub.lab"}})
    found = {name: catalog.hub_endpoint for name, catalog in catalogs().items()}
    assert found == {"gpu1": "https://hub.lab", "gpu2": "https://hub.lab", "@local": "https://huggingface.co"}


SITE = "sites/lab/group_data"
# file -> the memory that it gives; the last one wins
ORDER = {
    "group_data/all.py": "all",
    f"{SITE}/all.py": "all",
    "group_data/lab.py": "lab",
    f"{SITE}/lab.py": "lab",
    "group_data/small.py": "small",
    f"{SITE}/small.py": "small",
}


@pytest.mark.parametrize("last", range(len(ORDER)), ids=ORDER)
def test_later_layers_win_field_by_field(project: Path, last: int) -> None:
    """Shipped, then the site's; then each group of the host in the inventory's order, shipped before the site's."""
    path = inventory(project / "sites/lab", 'lab = ["gpu1"]\nsmall = ["gpu1"]\nother = ["gpu2"]\n')
    write_group_data(project, {"all": sample.data()})
    for number, file in enumerate([*ORDER][: last + 1]):
        (project / file).parent.mkdir(parents=True, exist_ok=True)
        with (project / file).open("a") as data:
            merged = f"services['painter'] |= {{'memory': '{number + 1}g'}}\n"
            data.write(merged if number == 0 else f"services = {{'painter': {{'memory': '{number + 1}g'}}}}\n")
    site = read(Request(path))
    painter = site.catalogs["gpu1"].services["painter"]
    assert (painter.memory, painter.cpus) == (f"{last + 1}g", 4)
    assert site.layers["gpu1"].origin("services.painter.memory") == [*ORDER][last]
    assert site.layers["gpu1"].origin("services.painter.cpus") == "group_data/all.py"
    assert site.catalogs["gpu1"].services["api"] == site.catalogs["gpu2"].services["api"]
    assert site.catalogs["gpu2"].services["painter"].memory == f"{min(last, 1) + 1}g"


def test_the_hosts_own_data_and_the_command_line_come_last(project: Path) -> None:
    write_group_data(project, {"all": sample.data(), "lab": {"services": {"painter": {"memory": "3g"}}}})
    own = {"services": {"painter": {"memory": "4g", "cpus": 1}}}
    path = inventory(project / "other", f'lab = [("gpu1", {own!r}), "gpu2"]\n')
    found = {name: catalog.services["painter"].memory for name, catalog in catalogs(path).items()}
    assert found == {"gpu1": "4g", "gpu2": "3g"}
    site = read(Request(path, data={"services": {"painter": {"memory": "5g"}}}))
    painter, layers = site.catalogs["gpu1"].services["painter"], site.layers["gpu1"]
    assert (painter.memory, painter.cpus) == ("5g", 1)
    assert layers.origin("services.painter.memory") == "--data"
    assert layers.origin("services.painter.cpus") == "the inventory, host gpu1"


def test_data_that_the_inventory_gives_a_group_merges_too(project: Path) -> None:
    write_group_data(project, {"all": sample.data()})
    lab = {"services": {"painter": {"memory": "3g", "cpus": 3}}}
    path = inventory(project / "other", f'lab = (["gpu1"], {lab!r})\nmine = ["gpu2"]\n')
    write_group_data(project / "other", {"lab": {"services": {"painter": {"memory": "4g"}}}})
    site = read(Request(path))
    painter = site.catalogs["gpu1"].services["painter"]
    assert (painter.memory, painter.cpus, site.catalogs["gpu2"].services["painter"].memory) == ("4g", 3, "28g")
    assert site.layers["gpu1"].origin("services.painter.cpus") == "the inventory, group lab"


def test_none_takes_an_entry_away(project: Path) -> None:
    write_group_data(project, {"all": sample.data()})
    path = inventory(project / "sites/lab", 'hosts = ["gpu1"]\n')
    write_group_data(
        project / "sites/lab", {"all": {"services": {"painter": None, "api": {"shm": None}}, "enabled_services": []}}
    )
    [catalog] = catalogs(path).values()
    assert list(catalog.services) == ["api"] and catalog.services["api"].shm is None


def test_a_site_without_group_data(project: Path) -> None:
    write_group_data(project, {"all": sample.data()})
    assert list(catalogs(inventory(project / "sites/lab", 'hosts = ["gpu1"]\n'))) == ["gpu1"]


def test_hosts_instead_of_an_inventory(project: Path) -> None:
    """As pyinfra takes them; the site is then the working directory."""
    write_group_data(project, {"all": sample.data()})
    site = read(Request("@local,gpu7", data={"ssh_hostname": "192.0.2.7"}))
    assert (list(site.catalogs), site.folder) == (["@local", "gpu7"], Path())
    assert site.layers["gpu7"].origin("engine_source") == "group_data/all.py"


def test_the_inventory_as_pyinfra_has_it(project: Path) -> None:
    write_group_data(project, {"all": sample.data()})
    made = as_pyinfra_has_it(Request("inventory.py"))
    assert sorted(host.name for host in made) == ["@local", "gpu1", "gpu2"]
    (project / "broken.py").write_text("hosts = [")
    with pytest.raises(UserError, match=r"broken\.py, line 1: SyntaxError"):
        as_pyinfra_has_it(Request("broken.py"))


def test_a_function_that_makes_an_inventory(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_group_data(project, {"all": sample.data(), "lab": {"services": {"painter": {"memory": "3g"}}}})
    (project / "made_hosts.py").write_text(
        "def make():\n    return {'lab': (['gpu1'], {'services': {'painter': {'memory': '4g'}}})}\n"
    )
    monkeypatch.syspath_prepend(project)
    site = read(Request("made_hosts:make"))
    assert site.catalogs["gpu1"].services["painter"].memory == "4g"
    assert site.layers["gpu1"].origin("services.painter.memory") == "the inventory, group lab"


def test_the_option_group_data_counts(project: Path) -> None:
    write_group_data(project, {"all": sample.data()})
    write_group_data(project / "more", {"lab": {"services": {"painter": {"memory": "3g"}}}})
    site = read(Request("inventory.py", group_data=["more/group_data"]))
    found = {name: catalog.services["painter"].memory for name, catalog in site.catalogs.items()}
    assert found == {"gpu1": "3g", "gpu2": "3g", "@local": "28g"}
    assert site.layers["gpu1"].origin("services.painter.memory") == "more/group_data/lab.py"
    one = read(Request("inventory.py", group_data=["more/group_data/lab.py"]))
    assert one.layers["gpu1"].origin("services.painter.memory") == "more/group_data/lab.py"


def test_group_data_may_ask_for_the_inventory(project: Path) -> None:
    write_group_data(project, {"all": sample.data()})
    text = "from pyinfra import inventory\nverify_window_s = float(len(inventory.get_group('lab')))\n"
    (project / "group_data/mine.py").write_text(text)
    assert catalogs()["@local"].verify_window_s == 2.0


@pytest.mark.parametrize(
    ("limits", "excluded", "chosen"),
    [
        ([], [], ["gpu1", "gpu2", "@local"]),
        (["lab"], [], ["gpu1", "gpu2"]),
        (["gpu2", "@*"], [], ["gpu2", "@local"]),
        ([], ["lab"], ["@local"]),
        (["lab"], ["gpu1"], ["gpu2"]),
    ],
)
def test_hosts_are_chosen_as_pyinfra_does(
    project: Path, limits: list[str], excluded: list[str], chosen: list[str]
) -> None:
    write_group_data(project, {"all": sample.data()})
    site = read(Request("inventory.py", limits=limits, excluded=excluded))
    assert site.chosen == chosen and len(site.catalogs) == 3


@pytest.mark.parametrize(
    ("limits", "excluded", "what", "hint"),
    [
        (["gpu3"], [], "--limit `gpu3` names no host and no group of the inventory", "did you mean `gpu2`?"),
        ([], ["gpu3"], "--exclude `gpu3` names no host and no group of the inventory", "did you mean `gpu2`?"),
        (["lab"], ["gpu*"], "--exclude leaves no host", "exclude fewer"),
    ],
)
def test_a_choice_that_leaves_nobody(
    project: Path, limits: list[str], excluded: list[str], what: str, hint: str
) -> None:
    write_group_data(project, {"all": sample.data()})
    with pytest.raises(UserError) as caught:
        read(Request("inventory.py", limits=limits, excluded=excluded))
    assert list(caught.value.problems) == [Problem(what, hint)]


def test_the_folder_of_a_site(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory reads as ever; another one in full, for the run has its own working directory."""
    inventory(project / "sites/lab", "")
    (project / "linked.py").symlink_to("sites/lab/inventory.py")
    assert site_folder("inventory.py") == site_folder("linked.py") == Path()
    assert site_folder("sites/lab/inventory.py") == project / "sites/lab"
    monkeypatch.chdir(project / "sites")
    assert site_folder("../inventory.py") == project


def test_files_are_named_as_the_person_sees_them(project: Path) -> None:
    write_group_data(project, {"all": sample.data()})
    path = inventory(project / "sites/lab", 'hosts = ["gpu1"]\n')
    write_group_data(project / "sites/lab", {"all": {"engine_source": "podman"}})
    with pytest.raises(UserError) as caught:
        read(Request(path, cwd=project / "sites"))
    assert [problem.what.partition(": ")[0] for problem in caught.value.problems] == ["lab/group_data/all.py"]
    (project / "sites/lab/group_data/all.py").unlink()
    site = read(Request(path, cwd=project / "sites"))
    assert site.layers["gpu1"].origin("engine_source") == f"{project}/group_data/all.py"


LAST_IS_WRONG = {
    "painter": {**sample.data()["services"]["painter"], "image": "pulled"},
    "api": {**sample.data()["services"]["api"], "container_port": 9001},
}
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
        "give one of them another port",
    ),
    "a field of an entry": (
        {"all": sample.data(), "lab": {"services": {"painter": {"memroy": "1g"}}}},
        "group_data/lab.py: `services.painter.memroy` is not a field that gpuhost knows",
        "did you mean `memory`?",
    ),
    "a field that was taken away": (
        {"all": sample.data(), "lab": {"services": {"painter": {"memory": None}}}},
        "group_data/lab.py: `services.painter.memory`: field required",
        "add this field",
    ),
    "the misspelt name of an entry": (
        {"all": sample.data(), "lab": {"services": {"paintr": {"memory": "1g"}}}},
        "group_data/lab.py: `services.paintr` lacks `stack`, `image`, `template`, `account`, `port`, `container_port`, "
        "`network`, "
        "`cpus`, `health`",
        "did you mean `painter`? A new entry needs these fields",
    ),
    "a reference for an image that is built": (
        {"all": sample.data(), "lab": {"images": {"painter": {"pull": "acme/painter:1"}}}},
        "group_data/all.py: `images.painter.build` does not go with `pull`",
        'take one of them away, as in `"build": None`',
    ),
    "an entry that was taken away and is still named": (
        {"all": sample.data(), "lab": {"services": {"painter": None}}},
        "group_data/all.py: `enabled_services` names the service `painter`, which does not exist",
        "group_data/lab.py takes `painter` away: change what names it there, too",
    ),
    "no such template": (
        {"all": sample.data({"services.painter.template": "comfyu.yml.j2"})},
        "group_data/all.py: `services.painter.template` names `comfyu.yml.j2`, which is not in templates/",
        "did you mean `comfyui.yml.j2`?",
    ),
    "a port on which the image does not listen": (
        {"all": sample.data({"services.api.container_port": 9001})},
        "group_data/all.py: `services.api.container_port`: its image `api` listens on 8193, not on 9001",
        "set it to 8193; `services.api.port` is the host's, and may be any",
    ),
    "a port on which one of two images does not listen": (
        {"all": sample.data({"services": LAST_IS_WRONG})},
        "group_data/all.py: `services.api.container_port`: its image `api` listens on 8193, not on 9001",
        "set it to 8193; `services.api.port` is the host's, and may be any",
    ),
    "a configuration file without its template": (
        {"all": sample.data({"services.painter.config_files": {"a.yaml": "extra_model_path.yaml.j2"}})},
        "group_data/all.py: `services.painter.config_files.a.yaml` names `extra_model_path.yaml.j2`, "
        "which is not in templates/",
        "did you mean `extra_model_paths.yaml.j2`?",
    ),
    "a shipped file that is not there": (
        {"all": sample.data({"services.painter.shipped_files": {"a.json": "../workflows/flux-1-dev.json"}})},
        "group_data/all.py: `services.painter.shipped_files.a.json` names `../workflows/flux-1-dev.json`, "
        "which is not in files/",
        "name a file by its path below files/",
    ),
    "an install without its script": (
        {"all": sample.data({"installs.tree.script": "install_comfyu.sh"})},
        "group_data/all.py: `installs.tree.script` names `install_comfyu.sh`, which is not in files/",
        "did you mean `install_comfyui.sh`?",
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
    assert [problem.what.partition(":")[0] for problem in problems(path)] == ["the inventory, host gpu1"]


def test_what_connectors_read_is_no_field_of_ours(project: Path) -> None:
    write_group_data(project, {"all": sample.data()})
    path = inventory(
        project / "other", 'hosts = [("gpu1", {"ssh_hostname": "192.0.2.1", "ssh_user": "admin", "_sudo": True})]\n'
    )
    assert problems(path, gpuhost_report="/nowhere") == []
    foreign = ("docker_identifier", "chroot_directory", "local_x", "vagrant_options", "terraform_x")
    for name in foreign:
        assert problems(inventory(project / name, f'hosts = [("gpu1", {{"{name}": "x"}})]\n')) == [], name
    assert len(problems(inventory(project / "typo", 'hosts = [("gpu1", {"loca": "x"})]\n'))) == 1


def test_an_override_counts(project: Path) -> None:
    write_group_data(project, {"all": sample.data()})
    assert [problem.what.partition(":")[0] for problem in problems(engine_source="podman")] == ["--data"]


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


def test_a_function_that_fails_is_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "failing_hosts.py").write_text("def make():\n    return 1 / 0\n")
    monkeypatch.syspath_prepend(project)
    [problem] = problems("failing_hosts:make")
    assert problem.what.startswith("failing_hosts:make: ") and problem.what.endswith(": division by zero")
    assert problem.hint == "it is read as Python: mend it there"


def test_an_inventory_without_a_host_is_a_mistake(project: Path) -> None:
    path = inventory(project / "other", "hosts = []\n")
    assert [problem.what for problem in problems(path)] == ["other/inventory.py names no host"]


def test_a_key_that_is_not_there_is_told_for_the_hosts_of_the_run(project: Path) -> None:
    write_group_data(project, {"all": sample.data()})
    path = inventory(project / "other", 'lab = [("gpu1", {"ssh_key": "~/no/key"})]\nmine = ["@local"]\n')
    wanted = [Problem("the SSH key `~/no/key` is not there", "correct `ssh_key` in the inventory", "gpu1")]
    assert problems(path) == wanted
    assert read(Request(path, limits=["mine"])).chosen == ["@local"]
    (project / "key").touch()
    assert problems(inventory(project / "third", 'lab = [("gpu1", {"ssh_key": "key"})]\n')) == []


def test_the_connection_is_told_by_the_projects_data_too(project: Path) -> None:
    """pyinfra reads it for a host of a site that lies elsewhere."""
    write_group_data(project, {"all": {**sample.data(), "ssh_key": "no/key"}})
    path = inventory(project / "sites/lab", 'lab = ["gpu1"]\n')
    assert [problem.what for problem in problems(path)] == ["the SSH key `no/key` is not there"]


# --- What would be left aside in silence ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "hint"),
    [("ssh_prot", "did you mean `ssh_port`?"), ("_sudoo", "did you mean `_sudo`?"), ("ssh_zzzz", "pyinfra knows ssh_")],
)
def test_a_mistyped_key_of_pyinfras_in_the_inventory(project: Path, key: str, hint: str) -> None:
    write_group_data(project, {"all": sample.data()})
    path = inventory(project / "other", f'lab = [("gpu1", {{"{key}": 1}}), "gpu2"]\n')
    [problem] = problems(path)
    assert problem.what == f"the inventory, host gpu1: `{key}` is nothing that pyinfra knows"
    assert problem.hint.startswith(hint)


def test_a_mistyped_key_in_group_data_is_told_once(project: Path) -> None:
    write_group_data(project, {"all": {**sample.data(), "ssh_usr": "me"}})
    assert [problem.what for problem in problems()] == ["group_data/all.py: `ssh_usr` is nothing that pyinfra knows"]


def test_what_pyinfra_knows_and_names_of_ones_own_are_no_mistakes(project: Path) -> None:
    write_group_data(project, {"all": sample.data()})
    data = {"ssh_port": 22, "_sudo": True, "ssh_config_file": "/c", "_mine": 1}
    assert problems(inventory(project / "other", f'lab = [("gpu1", {data!r})]\n')) == []


def test_a_file_of_a_group_that_no_host_is_in(project: Path) -> None:
    write_group_data(project, {"all": sample.data()})
    path = inventory(project / "other", 'lab = ["gpu1"]\n')
    write_group_data(project / "other", {"lba": {"disk_min_free_gib": 1.0}, "lab": {}, "spare": {}, "inventory": {}})
    assert sorted(read(Request(path)).unused) == [
        "other/group_data/lba.py is not used: no host is in a group `lba`; did you mean `lab`?",
        "other/group_data/spare.py is not used: no host is in a group `spare`",
    ]


def test_a_model_that_no_service_names(project: Path) -> None:
    write_group_data(project, {"all": sample.data()})
    path = inventory(project / "other", 'lab = ["gpu1", "gpu2"]\n')
    mine = {"repo": "Acme/Models", "revision": "main", "licence": "MIT"}
    write_group_data(project / "other", {"all": {"models": {"mine": mine}}})
    told = "other/group_data/all.py: no service names the model `mine`: it is not fetched"
    assert read(Request(path)).unused == [told]
    write_group_data(project / "third", {"all": {"models": {"mine": mine}, "services": {"api": {"models": ["mine"]}}}})
    assert read(Request(inventory(project / "third", 'lab = ["gpu1"]\n'))).unused == []
