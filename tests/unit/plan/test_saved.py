"""A plan that was kept: done as it is, or refused with what changed since."""

from __future__ import annotations

import json
import os
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from gpuhost import project
from gpuhost.cli import main as cli
from gpuhost.plan import saved
from gpuhost.plan.document import document, error_document
from gpuhost.plan.schema import DOCUMENTS, ErrorDocument, PlanDocument, schema_text
from gpuhost.project import PROJECT
from gpuhost.run import pyinfra as pyinfra_run
from gpuhost.run.data import DIFFS_DATA
from gpuhost.run.pyinfra import Outcome, Target
from tests.unit.cli.test_main import HOST, PROBLEM, SKIPPED, change

Event = dict[str, Any]
DIFF = {"field": "memory", "before": "20g", "after": "24g"}
RECREATE = change(name="api", stage="stacks", action="recreate", diff=[DIFF])
REVISIONS: Event = {"event": "revisions", "host": "gpu1", "models": {"vae": "a" * 40}}
PLANNED = [HOST, REVISIONS, change(), RECREATE]


class Fake:
    """What pyinfra would have given; `asked`: what it was asked for, of which inventory and options."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.plan, self.apply = Outcome(0, PLANNED, ""), Outcome(0, [HOST, change("performed")], "")
        self.asked: list[str] = []
        self.targets: list[Target] = []
        self.allowed: list[Any] = []
        self.only: list[list[str]] = []
        monkeypatch.setattr(pyinfra_run, "plan", self._plan)
        monkeypatch.setattr(pyinfra_run, "apply", self._apply)

    def _plan(self, target: Target, only: Any, watch: Any) -> Outcome:
        self.asked.append("plan")
        self.only.append([*only])
        self.targets.append(target)
        return self.plan

    def _apply(self, target: Target, planned: Any, only: Any = (), *_: Any) -> Outcome:
        self.asked.append("apply")
        self.only.append([*only])
        self.targets.append(target)
        self.allowed.append(planned)
        return self.apply


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    (tmp_path / "inventory.py").write_text('hosts = ["gpu1", "gpu2"]\n')
    monkeypatch.chdir(tmp_path)
    made = Fake(monkeypatch)
    assert cli.main(["plan", "--out", "plan.json", "--limit", "gpu1"]) == 2
    made.asked.clear()
    made.targets.clear()
    return made


def test_some_stages_only(fake: Fake) -> None:
    assert cli.main(["plan", "--only", "stacks", "--only", "verify", "--out", "plan.json"]) == 2
    assert cli.main(["apply", "plan.json", "--yes"]) == 0
    assert cli.main(["apply", "--only", "stacks", "--yes"]) == 0
    assert fake.only[1:] == [["stacks", "verify"]] * 3 + [["stacks"]] * 2


def test_a_stage_that_is_none(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "--only", "stakcs"]) == 64
    assert "error: --only: there is no `stakcs`\nhint: did you mean `stacks`?" in capsys.readouterr().err


def test_the_stages_are_those_of_a_deploy() -> None:
    """Each has its file in tasks/, and the order is that of deploy.py."""
    from gpuhost.run.data import STAGES

    called = re.findall(r"^(\w+)\.\w+\(run\)$", (PROJECT / "deploy.py").read_text(), re.MULTILINE)
    assert [*dict.fromkeys(called)] == [*STAGES]


def edit(**over: Any) -> None:
    plan = json.loads(Path("plan.json").read_text())
    Path("plan.json").write_text(json.dumps({**plan, **over}))


def test_it_is_kept_for_its_owner_alone_and_says_what_comes_next(
    fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Path("plan.json").stat().st_mode & 0o777 == 0o600
    text = Path("plan.json").read_text()
    assert json.loads(text)["lock"] == "" and text.startswith('{\n  "version": 1,\n')  # to be read by people, too
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", json.loads(text)["made_at"])
    assert {path.name for path in Path().iterdir() if path.is_file()} == {"inventory.py", "plan.json"}
    assert cli.main(["plan", "--out", "plan.json", "--limit", "gpu1"]) == 2  # in the place of the other
    assert "`gpuhost apply plan.json` does exactly this, or refuses." in capsys.readouterr().out


def test_exactly_that_is_done_of_the_hosts_that_it_names(fake: Fake, tmp_path: Path) -> None:
    assert cli.main(["apply", "plan.json", "--yes"]) == 0
    assert fake.asked == ["plan", "apply"] and fake.allowed == [PLANNED]
    assert {(target.inventory, *target.options) for target in fake.targets} == {
        (str(tmp_path / "inventory.py"), "--limit", "gpu1")
    }


def refused(fake: Fake, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert cli.main(["apply", "plan.json", "--yes"]) == 1
    assert "apply" not in fake.asked
    said = capsys.readouterr().err
    assert "hint: make the plan anew: `gpuhost plan --out plan.json`" in said
    return said


def test_other_data(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    Path("group_data").mkdir()
    Path("group_data/all.py").write_text("disk_min_free_gib = 7.5\n")
    said = refused(fake, capsys)
    assert "error: [gpu1] its data changed since the plan was made" in said and fake.asked == []
    assert "| ~ disk_min_free_gib: " in said and "-> 7.5" in said


def test_another_program(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    now = version("gpuhost")
    edit(code="0" * 64)
    said = f"gpuhost is not the one that made the plan (version {now}, now {now}): its files changed\n"
    assert said in refused(fake, capsys) and fake.asked == []
    edit(gpuhost="0.0.1")
    assert f"gpuhost is not the one that made the plan (version 0.0.1, now {now})\n" in refused(fake, capsys)


def test_another_lock(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    edit(lock="0" * 64)
    assert "lock.json changed since the plan was made" in refused(fake, capsys)


def test_other_hosts(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    data = json.loads(Path("plan.json").read_text())["data"]
    edit(data={"gpu0": data["gpu1"]})
    said = refused(fake, capsys)
    assert "error: [gpu0] gpu0 was in the inventory when the plan was made, and is not now" in said
    assert "error: [gpu1] gpu1 is in the inventory now, and was not when the plan was made" in said


def test_each_host_is_compared(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    [(name, data)] = json.loads(Path("plan.json").read_text())["data"].items()
    edit(data={"gpu0": data, name: {**data, "verify_window_s": 1.5}})
    said = refused(fake, capsys)
    assert "error: [gpu0] gpu0 was in the inventory" in said
    assert f"error: [{name}] its data changed" in said and "~ verify_window_s: 1.5 -> " in said


@pytest.mark.parametrize(
    ("now", "told"),
    [
        (
            [HOST, REVISIONS, change()],
            "not to be done any more: [gpu1] stacks: recreate api: why; ~ memory: 20g -> 24g",
        ),
        ([*PLANNED, change(name="/new")], "to be done now, and not planned: [gpu1] layout: create /new: why"),
        (
            [HOST, REVISIONS, change(), {**RECREATE, "diff": [{**DIFF, "before": "22g"}]}],
            "found otherwise: [gpu1] stacks: recreate api: why; ~ memory: 22g -> 24g",
        ),
        ([HOST, change(), RECREATE], "the hub says otherwise what revisions of models are"),
        ([HOST, REVISIONS], "not to be done any more: [gpu1] layout: create /data: why"),
    ],
    ids=["done already", "more", "found otherwise", "a branch that moved", "nothing left"],
)
def test_another_host(fake: Fake, capsys: pytest.CaptureFixture[str], now: list[Event], told: str) -> None:
    fake.plan = Outcome(0, now, "")
    said = refused(fake, capsys)
    assert "error: the hosts are not as they were when the plan was made" in said and f"  | {told}\n" in said
    assert fake.asked == ["plan"]


@pytest.mark.parametrize("number", [10, 11])
def test_ten_differences_are_told_and_more_are_counted(
    fake: Fake, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    fake.plan = Outcome(0, [*PLANNED, *(change(name=f"/new{index}") for index in range(number))], "")
    said = refused(fake, capsys)
    assert said.count("to be done now, and not planned: ") == 10
    assert ("  | and 1 more\n" in said) is (number == 11)


def test_other_lines_of_a_file(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    """Both plans were asked for them, and what is written would be another text than was read."""
    write = change(name="/etc/a", action="write", text_diff=["-old", "+new"])
    fake.plan = Outcome(0, [HOST, write], "")
    fake.apply = Outcome(0, [HOST, {**write, "event": "performed"}], "")
    assert cli.main(["plan", "--out", "plan.json", "--limit", "gpu1"]) == 2
    assert cli.main(["apply", "plan.json", "--yes"]) == 0
    fake.asked.clear()
    fake.plan = Outcome(0, [HOST, {**write, "text_diff": ["-other", "+new"]}], "")
    assert "  | found otherwise: [gpu1] layout: write /etc/a: why\n" in refused(fake, capsys)


@pytest.mark.parametrize("words", [["-v"], [], ["-v", "--no-diff"]])
@pytest.mark.parametrize("again", [["-v"], [], ["--no-diff"]])
def test_it_is_compared_with_a_plan_that_was_asked_for_as_much(
    monkeypatch: pytest.MonkeyPatch, fake: Fake, words: list[str], again: list[str]
) -> None:
    """`-v` has a whole label in the diff of a compose file where else one line stands for it."""

    def planned(target: Target, *_: Any) -> Outcome:
        shown = ["-label: long", "+label: longer"] if target.data.get(DIFFS_DATA) == "all" else ["(only `label`)"]
        return Outcome(0, [HOST, change(name="/srv/compose.yml", action="write", text_diff=shown)], "")

    monkeypatch.setattr(pyinfra_run, "plan", planned)
    fake.apply = Outcome(0, [HOST, change("performed", name="/srv/compose.yml", action="write")], "")
    assert cli.main(["plan", *words, "--out", "plan.json"]) == 2
    assert cli.main(["apply", *again, "plan.json", "--yes"]) == 0 and fake.asked == ["apply"]


def test_what_only_reads_otherwise_is_done(fake: Fake) -> None:
    """A reason may tell a time, and the lines of a file are there when somebody asks for them."""
    seen = {**RECREATE, "reason": "in other words", "text_diff": ["+line"]}
    fake.plan = Outcome(0, [HOST, REVISIONS, change(), seen], "")
    assert cli.main(["apply", "plan.json", "--yes"]) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["apply", "absent.json"], "error: the plan absent.json cannot be read: No such file or directory"),
        (["apply", "inventory.py"], "error: inventory.py is no plan of gpuhost's, or somebody changed it"),
        (["apply", "plan.json", "-l", "gpu1"], "error: a plan that was kept names its inventory and its hosts"),
        (["plan", "--out", "no/where.json"], "error: no/where.json cannot be written: No such file or directory"),
        (["plan", "--out", "x", "--", "--parallel", "2"], "error: a plan that is kept takes no options for pyinfra"),
    ],
)
def test_what_cannot_be(fake: Fake, capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    assert cli.main(words) == 1
    assert said in capsys.readouterr().err and "apply" not in fake.asked


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_plan_that_others_can_write_to_names_them_no_program(
    fake: Fake, capsys: pytest.CaptureFixture[str], tmp_path: Path, mode: int
) -> None:
    """Its inventory would be run before anything in it could be compared."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/inventory.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nhosts = ['gpu1']\n")
    edit(inventory=str(tmp_path / "theirs/inventory.py"))
    Path("plan.json").chmod(mode)
    assert cli.main(["apply", "plan.json", "--yes"]) == 1
    said = capsys.readouterr().err
    assert "error: others can write to the plan plan.json\nhint: look whether it says what you want" in said
    assert fake.asked == [] and not (tmp_path / "ran").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_so_is_one_that_belongs_to_somebody_else(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    os.chown("plan.json", 4711, 4711)
    assert cli.main(["apply", "plan.json", "--yes"]) == 1 and fake.asked == []
    assert "others can write to the plan plan.json" in capsys.readouterr().err


def test_what_stands_where_a_plan_is_gathered_is_not_removed(fake: Fake) -> None:
    there = Path(f".other.json.{os.getpid()}.new")
    there.write_text("mine")
    assert cli.main(["plan", "--out", "other.json"]) == 1
    assert there.read_text() == "mine" and not Path("other.json").exists()


def test_a_plan_of_another_version(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    edit(version=2)
    assert "plan.json is a plan of version 2, this gpuhost does those of version 1" in refused(fake, capsys)


def test_a_plan_with_something_more_in_it(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    edit(approved=True)
    assert "error: plan.json is no plan of gpuhost's, or somebody changed it" in refused(fake, capsys)


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, '{"kind": "gpuhost plan", "version": 1}', "\xff"])
def test_what_is_no_plan(fake: Fake, capsys: pytest.CaptureFixture[str], text: str) -> None:
    Path("plan.json").write_bytes(text.encode("latin-1"))
    assert "error: plan.json is no plan of gpuhost's, or somebody changed it" in refused(fake, capsys)


def test_a_failed_plan_is_not_kept(fake: Fake) -> None:
    fake.plan = Outcome(0, [HOST, PROBLEM], "")
    assert cli.main(["plan", "--out", "other.json"]) == 1
    assert not Path("other.json").exists()


# --- The documents ----------------------------------------------------------------------------------------------------


def test_what_is_printed_is_as_described(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    for events in (PLANNED, [HOST], [HOST, SKIPPED, PROBLEM]):
        fake.plan = Outcome(0, events, "")
        capsys.readouterr()
        cli.main(["plan", "--json"])
        PlanDocument.model_validate_json(capsys.readouterr().out)
    assert document("ok", [], [], [])["version"] == error_document_version()


def error_document_version() -> int:
    from gpuhost.errors import Problem

    made = error_document([Problem("what", "hint")])
    return ErrorDocument.model_validate(json.loads(json.dumps(made))).version


def test_without_an_inventory_there_is_json_too(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    for words in (["plan", "--json"], ["status", "--json"], ["apply", "--json", "--yes"], ["verify", "--json"]):
        assert cli.main([*words, "-i", "absent.py"]) == 1
        said = capsys.readouterr()
        made = ErrorDocument.model_validate_json(said.out)
        assert made.error.what == "there is no inventory `absent.py` here" and made.error.hint
        assert said.err == ""


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_schemas_are_those_of_the_types(name: str) -> None:
    """`make docs` writes them."""
    file = f"{name}.schema.json"
    assert (PROJECT / "docs/reference" / file).read_text() == schema_text(name)
    assert f"[{file}]({file})" in (PROJECT / "docs/reference/json.md").read_text()


def test_every_file_that_decides_is_in_the_digest_of_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its content, its name, and whether it may be executed; not what stands beside."""
    monkeypatch.setattr(saved, "PROJECT", tmp_path)
    monkeypatch.setattr(saved, "project_file", lambda name: (tmp_path / name).read_text())

    def digest() -> str:
        project.folder.cache_clear()
        return saved.code_digest()

    files = ["gpuhost/plan/a.py", "tasks/a.py", "templates/a.j2", "files/host/a.py", "deploy.py", "config.py"]
    for name in (*files, "docs/a.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    seen = [digest()]
    assert digest() == seen[0] and len(seen[0]) == 64
    for name in files:
        (tmp_path / name).write_bytes(b"2")
        seen.append(digest())
    (tmp_path / "files/host/a.py").chmod(0o755)
    seen.append(digest())
    (tmp_path / "tasks/a.py").rename(tmp_path / "tasks/b.py")
    seen.append(digest())
    (tmp_path / "templates/a.j2").write_bytes(b"\xff")  # no text at all
    seen.append(digest())
    assert len(set(seen)) == len(seen)
    (tmp_path / "docs/a.md").write_text("2")
    assert digest() == seen[-1]
    project.folder.cache_clear()
