"""`gpuhost init`: a site of its own, found from any working directory, by gpuhost and by plain pyinfra."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pyinfra.api.state import State

from gpuhost.catalog.inventory import Request, read
from gpuhost.cli import main as cli
from gpuhost.project import PROJECT

FILES = [".env.example", ".gitignore", "group_data/all.py", "inventory.py"]


def content(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["init", "sites/lab"]) == 0
    return tmp_path / "sites/lab"


def test_it_names_what_it_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["init", str(tmp_path / "lab")]) == 0
    assert sorted(content(tmp_path / "lab")) == FILES
    said = capsys.readouterr()
    assert sorted(said.out.splitlines()) == [f"{tmp_path}/lab/{name}" for name in FILES]
    assert said.err == f"next: its hosts in {tmp_path}/lab/inventory.py, then `gpuhost plan -i {tmp_path}/lab`\n"


def test_it_changes_nothing_of_what_a_host_gets(site: Path, pyinfra_state: State) -> None:
    shipped, own = (read(Request(str(folder / "inventory.py"), project=PROJECT)) for folder in (PROJECT, site))
    assert own.catalogs == shipped.catalogs and own.folder == site


def test_its_examples_are_right(site: Path, pyinfra_state: State) -> None:
    """Each comment that is code, as a person would uncomment it."""
    path = site / "group_data/all.py"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line.removeprefix("# ") if " = " in line else line for line in lines))
    changed = read(Request(str(site / "inventory.py"), project=PROJECT)).layers["@local"]
    fields = {"services.comfyui-qwen.memory", "enabled_services", "secrets.CIVITAI_TOKEN", "data_root", "data_mount"}
    assert {field for field in fields if changed.origin(field) == "sites/lab/group_data/all.py"} == fields
    assert "CIVITAI_TOKEN" not in changed.values["secrets"]


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    assert cli.main(["init", str(tmp_path)]) == 1
    assert content(tmp_path) == {name: "mine"}
    said = capsys.readouterr()
    assert said.out == "" and said.err.splitlines() == [
        f"error: {tmp_path} has {name} already",
        "hint: name another folder: nothing is overwritten",
    ]


def test_a_folder_with_other_things(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("mine")
    assert cli.main(["init", str(tmp_path)]) == 0
    assert sorted(content(tmp_path)) == sorted([*FILES, "notes.md"])


def test_a_file_in_the_place_of_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("mine")
    assert cli.main(["init", str(tmp_path / "file")]) == 1
    assert capsys.readouterr().err.splitlines()[1] == "hint: name a folder in which you may write"
    assert content(tmp_path) == {"file": "mine"}


SECRETS = [
    ".env",
    ".env.local",
    "secrets/gpu1.env",
    "secrets/.lock",
    "secrets/gpu1.retired.json",
    "rescue.age",
    "a.pem",
]


def test_git_keeps_secrets_out_and_the_rest_in(site: Path) -> None:
    subprocess.run(["git", "init", "-q", site], check=True)
    kept = [*FILES, "secrets/gpu1.sops.env", "group_data/lab.py"]
    ask = ["git", "-C", str(site), "check-ignore", "--no-index", *SECRETS, "pyinfra-debug.log", *kept]
    ignored = subprocess.run(ask, capture_output=True, text=True, check=False).stdout.splitlines()
    assert ignored == [*SECRETS, "pyinfra-debug.log"]


# --- pyinfra itself: a run that stops at the data, before any host is contacted; a run of a small deploy.py --------


@pytest.mark.parametrize("cwd", ["elsewhere", "sites/lab"])
def test_gpuhost_finds_a_site_from_anywhere(site: Path, cwd: str) -> None:
    """Its data is read by a run in the project's root, and its files are named from where the person stands."""
    (site / "group_data/all.py").write_text("services = {'comfyui-qwen': {'memmory': '1g'}}\n")
    here = site.parent.parent / cwd
    here.mkdir(exist_ok=True)
    named = ["-i", "../sites/lab"] if cwd == "elsewhere" else []
    command = [sys.executable, "-m", "gpuhost.cli.main", "plan", *named]
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    file = site / "group_data/all.py" if cwd == "elsewhere" else "group_data/all.py"
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        f"error: {file}: `services.comfyui-qwen.memmory` is not a field that gpuhost knows",
        "hint: did you mean `memory`?",
    ]


DEPLOY = """
import json, os
from pathlib import Path
from pyinfra.context import host
from gpuhost.run.entry import site

memory = site().catalog(host.name).services["comfyui-qwen"].memory
Path("seen.json").write_text(json.dumps([os.getcwd(), str(site().folder), memory]))
"""


@pytest.mark.parametrize("own", [True, False], ids=["a site", "the project's own inventory"])
def test_plain_pyinfra_reads_a_site(site: Path, tmp_path: Path, own: bool) -> None:
    project = tmp_path / "project"
    (project / "group_data").mkdir(parents=True)
    for name in ("config.py", "inventory.py", "group_data/all.py"):
        (project / name).write_text((PROJECT / name).read_text())
    (project / "deploy.py").write_text(DEPLOY)
    (site / "group_data/all.py").write_text("services = {'comfyui-qwen': {'memory': '7g'}}\n")
    inventory = site / "inventory.py" if own else "inventory.py"
    command = [sys.executable, "-m", "pyinfra", inventory, "deploy.py", "--dry"]
    subprocess.run(command, cwd=project, stdin=subprocess.DEVNULL, capture_output=True, check=True)
    seen = json.loads((project / "seen.json").read_text())
    assert seen == ([str(project), str(site), "7g"] if own else [str(project), ".", "36g"])
