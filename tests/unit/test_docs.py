"""What the documents point at is there, what is generated in them is up to date, data that they show is in order."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyinfra.api.state import State
from pyinfra_cli.util import PYTHON_CODES

from gpuhost.catalog import reference as data_reference
from gpuhost.cli import main as cli
from gpuhost.cli import reference as command_reference
from gpuhost.project import PROJECT
from tests.rehearsal import pictures
from tests.rehearsal.instruments.guide import BLOCK
from tests.rehearsal.instruments.picture import plain

README = PROJECT / "README.md"
DOCUMENTS = sorted([README, *(PROJECT / "docs").rglob("*.md")])
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


def test_every_page_is_reached_from_the_readme() -> None:
    reached, waiting = set(), [README]
    while waiting:
        page = waiting.pop()
        if page in reached:
            continue
        reached.add(page)
        if page.suffix == ".md":
            waiting += [(page.parent / path).resolve() for _, path, _ in LINK.findall(page.read_text()) if path]
    assert not {*DOCUMENTS, *(PROJECT / "docs").rglob("*.svg")} - reached


def test_pictures_load_nothing() -> None:
    """A font of the internet would tell somebody who reads."""
    for picture in (PROJECT / "docs").rglob("*.svg"):
        assert not re.search(r"url\(|@import|href|<(image|script|style|use|foreignObject)\b", picture.read_text())


# -- what is generated (`make docs`) -----------------------------------------------------------------------------------


def test_the_table_of_the_services_is_the_catalogues(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], pyinfra_state: State
) -> None:
    """`make docs` writes it."""
    monkeypatch.chdir(PROJECT)
    assert cli.main(["config", "--table"]) == 0
    table = capsys.readouterr().out.splitlines()
    written = (PROJECT / "docs" / "services.md").read_text().splitlines()
    assert [line for line in written if line.startswith("|")] == table and len(table) > 6


def test_the_page_of_the_data_is_that_of_the_types() -> None:
    page = data_reference.page()
    assert (PROJECT / "docs/reference/data.md").read_text() == page
    assert page.count("\n| `") > 140 and "| `vram_mib` | whole number, ≥ 1 | `None` | Most memory" in page


def test_the_page_of_the_commands_is_that_of_the_parser() -> None:
    page = command_reference.page()
    assert (PROJECT / "docs/reference/commands.md").read_text() == page
    sections = re.findall(r"^## gpuhost (.*)$", page, re.MULTILINE)
    assert {name.split()[0] for name in sections} == set(cli.COMMANDS) and "secrets rotate" in sections
    assert page.count("Exit codes: ") == len(sections)
    assert "Exit codes: 0 nothing to do, 2 changes, 1 error." in page


def test_the_pictures_are_drawn_from_what_was_recorded() -> None:
    drawn = pictures.drawn(pictures.kept())
    assert {path.stem: path.read_text() for path in pictures.PICTURES.glob("*.svg")} == drawn and len(drawn) > 2


# -- what is shown -----------------------------------------------------------------------------------------------------


def _blocks(language: str) -> Iterator[tuple[Path, str]]:
    for document in DOCUMENTS:
        yield from ((document, text) for found, text in BLOCK.findall(document.read_text()) if found == language)


def test_what_the_tutorial_shows_was_on_the_terminal() -> None:
    """What stands between two `...` came in one piece, in one of the steps in which the command was typed."""
    steps = [[*map(plain, step.lines())] for step in pictures.kept()]
    shown = [text for document, text in _blocks("console") if document.name == "tutorial.md"]
    for text in shown:
        pieces = [piece.splitlines() for piece in re.split(r"^\.\.\.\n", text, flags=re.MULTILINE)]
        assert any(all(_holds(step, piece) for piece in pieces) for step in steps if step[0] == pieces[0][0]), text
    assert len(shown) > 5 and all("..." not in step for step in steps)


def _holds(lines: list[str], piece: list[str]) -> bool:
    return piece in (lines[start : start + len(piece)] for start in range(len(lines)))


def _typed(program: str) -> list[list[str]]:
    """The words behind a program where a line of a shell block begins with it or waits for what it prints."""
    lines = [line for language in ("sh", "console") for _, text in _blocks(language) for line in text.splitlines()]
    found = [match for line in lines for match in re.findall(rf"(?:^|\$ |\$\(){program} ([^|)>]*)", line)]
    return [shlex.split(words, comments=True) for words in found]


def test_every_command_that_is_shown_can_be_typed() -> None:
    parser, commands = cli.whole_parser(), _typed("gpuhost")
    for words in commands:
        parser.parse_args(words[: words.index("--")] if "--" in words else words)
    assert len(commands) > 80
    named = re.findall(r"`gpuhost ([a-z]+)\b", "".join(document.read_text() for document in DOCUMENTS))
    assert {*named} <= {*cli.COMMANDS} and len(named) > 80


def test_every_target_of_make_that_is_shown_is_there() -> None:
    there = re.findall(r"^([a-z0-9-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    shown = {word for words in _typed("make") for word in words if "=" not in word}
    assert shown <= {*there} and len(shown) > 5


@pytest.mark.parametrize("page", sorted({document for document, text in _blocks("python")}), ids=lambda page: page.stem)
def test_data_that_is_shown_is_in_order(
    page: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    pyinfra_state: State,
) -> None:
    """Written into a site that `gpuhost init` makes, a block after the other; a first line may name the file."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/id_ed25519").touch()
    blocks = [text for document, text in _blocks("python") if document == page]
    site = tmp_path / "lab"
    assert cli.main(["init", str(site)]) == 0
    for text in blocks:
        named = re.match(r"# (?:~/lab/)?(inventory\.py|group_data/\w+\.py)\n", text)
        usual = "inventory.py" if text.startswith("hosts = ") else "group_data/all.py"
        (site / (named[1] if named else usual)).write_text(text)
        PYTHON_CODES.clear()
        assert cli.main(["check", "-i", str(site)]) == 0, capsys.readouterr().err
