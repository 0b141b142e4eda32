"""`gpuhost check`: one sentence and a hint for each finding; the shipped catalogue has none."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyinfra.api.state import State

from gpuhost.cli import arguments, check
from gpuhost.cli import main as cli
from gpuhost.cli import site as site_module
from gpuhost.project import PROJECT
from gpuhost.run import pyinfra
from tests.unit import sample
from tests.unit.sample import write_group_data

IN_ORDER = {
    "allowed_images": ["docker.io/library/python", "docker.io/acme/server"],
    "images.painter": {"build": "comfyui", "args": {"BASE_IMAGE": "docker.io/library/python:3.12.11"}},
}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pyinfra_state: State) -> Path:
    """A project with data in order, and beside it a site with two hosts; the person stands above both."""
    project, site = tmp_path / "project", tmp_path / "site"
    write_group_data(project, {"all": sample.data(IN_ORDER)})
    (project / "deploy.py").touch()
    site.mkdir()
    (site / "inventory.py").write_text('lab = ["gpu1", "gpu2"]\n')
    for module in (arguments, site_module, check):
        monkeypatch.setattr(module, "PROJECT", project)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delattr(pyinfra, "_run")  # no run: no host is contacted
    return site


def said(capsys: pytest.CaptureFixture[str], code: int) -> tuple[str, list[str]]:
    assert cli.main(["check", "-i", "site"]) == code
    out, err = capsys.readouterr()
    return out, err.splitlines()


def test_in_order(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, 0) == ("in order: gpu1, gpu2\n", [])


def test_what_two_hosts_have_is_said_once(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_group_data(site, {"all": {"images": {"pulled": {"pull": "docker.io/acme/server:main"}}}})
    assert said(capsys, 1) == (
        "",
        [
            "error: `images.pulled`: `main` is no release",
            "hint: name a release tag such as `:v1.2.3`, or a digest (`@sha256:...`)",
        ],
    )


def test_invalid_data_is_told_as_everywhere(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_group_data(site, {"all": {"services": {"painter": {"port": 9001}}}})
    _, lines = said(capsys, 1)
    assert len(lines) == 2 and "host port 9001 is already used by `api`" in lines[0]


@pytest.mark.parametrize(
    "name", ["docker-compose.yml", "docker-compose-no-auth.yml", "compose.yaml", "compose.test.yml"]
)
@pytest.mark.parametrize("folder", ["site/old/stacks", "project"])
def test_a_compose_file_that_the_catalogue_does_not_name(
    site: Path, capsys: pytest.CaptureFixture[str], folder: str, name: str
) -> None:
    file = site.parent / folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    _, lines = said(capsys, 1)
    assert lines[0] == f"error: {file} is a compose file that the catalogue does not name" and len(lines) == 2


def test_other_files_and_what_tools_keep_are_none_of_our_business(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (".venv/docker-compose.yml", "node_modules/a/compose.yml", "composed.yml", "docker-compose.yml.j2"):
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).touch()
    said(capsys, 0)


def test_what_we_ship_is_in_order(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], pyinfra_state: State
) -> None:
    monkeypatch.chdir(PROJECT)
    assert cli.main(["check"]) == 0
    assert capsys.readouterr().err == ""
