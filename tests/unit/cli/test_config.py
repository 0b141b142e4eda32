"""`gpuhost config`: what is in force, where it comes from, and nothing else happens."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from pyinfra.api.state import State

from gpuhost.cli import arguments
from gpuhost.cli import main as cli
from gpuhost.cli import site as site_module
from gpuhost.run import pyinfra
from tests.unit import sample
from tests.unit.described import described
from tests.unit.sample import write_group_data


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pyinfra_state: State) -> Path:
    """A project, and beside it a site with three hosts; the person stands above both."""
    project, site = tmp_path / "project", tmp_path / "site"
    write_group_data(project, {"all": sample.data()})
    (project / "deploy.py").touch()
    write_group_data(
        site,
        {"all": {"services": {"painter": {"memory": "20g"}}}, "small": {"services": {"painter": {"memory": "4g"}}}},
    )
    (site / "inventory.py").write_text('lab = ["gpu1", "gpu2"]\nsmall = ["gpu3"]\n')
    for module in (arguments, site_module):
        monkeypatch.setattr(module, "PROJECT", project)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delattr(pyinfra, "_run")  # no run: no host is contacted
    return site


def shown(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> list[str]:
    assert cli.main(["config", "-i", "site", *words]) == code
    return capsys.readouterr().out.splitlines()


def test_hosts_that_are_alike_are_shown_once(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys)
    assert [line for line in lines if line.startswith("[")] == ["[gpu1, gpu2]", "[gpu3]"]
    assert [line for line in lines if ".memory" in line and line.startswith("services.")] == [
        'services.api.memory = "2g"',
        'services.painter.memory = "20g"',
        'services.api.memory = "2g"',
        'services.painter.memory = "4g"',
    ]


def test_each_value_with_its_origin(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, "--origin", "gpu3")
    assert lines[0] == "[gpu3]" and [line for line in lines if len(line) > 80] == []
    fields = [f"services.painter.{field} =" for field in ("port", "bind", "memory")]
    assert [line for line in lines if line.startswith(tuple(fields))] == [
        "services.painter.port = 9002  # project/group_data/all.py",
        'services.painter.bind = "127.0.0.1"  # default',
        'services.painter.memory = "4g"  # site/group_data/small.py',
    ]


@pytest.mark.parametrize(
    "words",
    [
        ["lab"],
        ["--limit", "gpu1", "-l", "gpu2"],
        ["--", "--limit", "gpu1", "--limit", "gpu2"],
        ["--", "--exclude", "gpu3"],
    ],
)
def test_some_hosts(site: Path, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert [line for line in shown(capsys, *words) if line.startswith("[")] == ["[gpu1, gpu2]"]


def test_the_command_line_is_a_layer_too(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, "--origin", "--", "--data", 'services={"painter": {"memory": "1g"}}')
    assert 'services.painter.memory = "1g"  # --data' in lines and lines[0] == "[gpu1, gpu2, gpu3]"


def test_a_field_that_was_taken_away_says_by_whom(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_group_data(site, {"all": {"services": {"painter": {"shm": None}}}})
    assert "services.painter.shm = None  # site/group_data/all.py" in shown(capsys, "--origin")
    assert [line for line in shown(capsys) if "sha256" in line] == []  # an empty default is left out


def test_each_line_is_python(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Names with `-` aside: what stands behind `=` reads back as what the sample holds."""
    text = "\n".join(shown(capsys, "--origin", "gpu1")[1:])
    values = dict(item.partition(" = ")[::2] for item in text.replace("\n]", " ]").replace("\n ", " ").splitlines())
    probes = values["services.painter.probes"].replace("# project/group_data/all.py", "")
    assert ast.literal_eval(probes) == sample.data()["services"]["painter"]["probes"]


def test_for_programs(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = described("config", "\n".join(shown(capsys, "--json")))
    assert (document["result"], document["errors"], list(document["hosts"])) == ("ok", [], ["gpu1", "gpu2", "gpu3"])
    assert document["hosts"]["gpu3"]["values"]["services"]["painter"]["memory"] == "4g"
    assert set(document["hosts"]["gpu3"]) == {"values"}
    document = described("config", "\n".join(shown(capsys, "--json", "--origin")))
    origins = document["hosts"]["gpu3"]["origins"]
    assert origins["services.painter.memory"] == "site/group_data/small.py"
    assert origins["services.painter.bind"] == "default"


def test_the_services_as_a_table(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Hosts that differ in it are told apart."""
    lines = shown(capsys, "--table")
    assert [line for line in lines if line.startswith("[")] == ["[gpu1, gpu2]", "[gpu3]"]
    assert lines[1:5] == [
        "| service | port | starts | model | VRAM | RAM | auth | health |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| api | 9001 | always | none | none, reads all | 2g | `API_TOKEN` | `true`, 60 s to start |",
        "| painter | 9002 | always | Acme/Models | not measured | 20g | `LOGIN_HASH` | `/login`, 60 s to start |",
    ]
    assert shown(capsys, "--table", "gpu3")[0].startswith("| service")


def test_a_mistake(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_group_data(site, {"small": {"services": {"painter": {"memmory": "4g"}}}})
    what = "site/group_data/small.py: `services.painter.memmory` is not a field that gpuhost knows"
    assert cli.main(["config", "-i", "site"]) == 1
    said = capsys.readouterr()
    assert (said.out, said.err.splitlines()) == ("", [f"error: {what}", "hint: did you mean `memory`?"])
    document = described("error", "\n".join(shown(capsys, "--json", code=1)))
    assert [problem["what"] for problem in document["errors"]] == [what]
