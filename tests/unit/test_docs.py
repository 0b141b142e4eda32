"""What the documents point at is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pyinfra.api.state import State

from gpuhost.cli import main as cli
from gpuhost.project import PROJECT

DOCUMENTS = sorted([PROJECT / "README.md", *(PROJECT / "docs").rglob("*.md")])
LINK = re.compile(r"\[([^]]+)\]\(([^)#:]*)(?:#([^)]*))?\)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere_and_a_named_test_is_in_its_file(document: Path) -> None:
    found = LINK.findall(document.read_text())
    for text, path, heading in found:
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), path
        name = re.fullmatch(r"`(\w+)`", text)
        if name and target.suffix == ".py":
            assert re.search(rf"\b(def |class ){name[1]}\b", target.read_text()), (name[1], path)
        if heading:
            assert heading in map(_anchor, re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)), heading


def _anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_links_are_found() -> None:
    assert len(LINK.findall((PROJECT / "docs" / "security.md").read_text())) > 30


def test_the_table_of_the_services_is_the_catalogues(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], pyinfra_state: State
) -> None:
    """`make docs` writes it."""
    monkeypatch.chdir(PROJECT)
    assert cli.main(["config", "--table"]) == 0
    table = capsys.readouterr().out.splitlines()
    written = (PROJECT / "docs" / "services.md").read_text().splitlines()
    assert [line for line in written if line.startswith("|")] == table and len(table) > 6
