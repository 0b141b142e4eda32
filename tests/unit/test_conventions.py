"""Rules of the house that a reader relies on and a program can check."""

from __future__ import annotations

import ast
import importlib
import re
import runpy
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuhost.project import PROJECT
from gpuhost.run.host_run import HostRun
from gpuhost.secrets.store import SecretStore

TASKS = sorted((PROJECT / "tasks").glob("*.py"))
KNOWLEDGE = sorted((PROJECT / "gpuhost").rglob("*.py"))
OPERATIONS = [path for path in KNOWLEDGE if path.name in ("operations.py", "python.py") or path.match("run/lock.py")]


def name(path: Path) -> str:
    return str(path.relative_to(PROJECT))


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def operation_calls(path: Path) -> Iterator[ast.Call]:
    """Every call of a pyinfra operation, ours or built in, by what the file imports."""
    module = importlib.import_module(".".join(path.relative_to(PROJECT).with_suffix("").parts))
    for call in calls(ast.parse(path.read_text())):
        try:
            called = eval(ast.unparse(call.func), vars(module))
        except Exception:  # a local name: no operation of a module
            continue
        if hasattr(called, "_inner"):
            yield call


def docstrings(tree: ast.AST) -> set[int]:
    """The ids of the constants that are docstrings."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            statement = node.body[0]
            assert isinstance(statement, ast.Expr)
            found.add(id(statement.value))
    return found


def literals(path: Path) -> list[str]:
    tree = ast.parse(path.read_text())
    skipped = docstrings(tree)
    constants = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in skipped)
    return [node.value for node in constants if isinstance(node.value, str)]


def test_operations_are_recognised() -> None:
    """Or the next tests would prove nothing."""
    found = {name(path): len(list(operation_calls(path))) for path in CALLERS}
    assert found["tasks/engine.py"] >= 5 and found["tasks/layout.py"] >= 4 and sum(found.values()) >= 30
    assert found["gpuhost/apt/repository.py"] >= 2


# The stages, and what some of them share.
CALLERS = [*TASKS, *(path for path in KNOWLEDGE if path.name != "__main__.py" and any(operation_calls(path)))]


@pytest.mark.parametrize("path", CALLERS, ids=name)
def test_every_operation_has_a_name_and_no_handler(path: Path) -> None:
    """Without a name pyinfra prints every argument; a handler is lost when the run dies before it."""
    for call in operation_calls(path):
        keywords = {keyword.arg for keyword in call.keywords}
        assert "name" in keywords, f"{name(path)}:{call.lineno}"
        assert not keywords & {"_if", "_ignore_errors"}, f"{name(path)}:{call.lineno}"


@pytest.mark.parametrize("path", CALLERS, ids=name)
def test_every_name_begins_with_its_stage(path: Path) -> None:
    for call in operation_calls(path):
        [value] = [keyword.value for keyword in call.keywords if keyword.arg == "name"]
        assert re.match(r"f?['\"](\w+|\{stage\}) \| ", ast.unparse(value)), f"{name(path)}:{call.lineno}"


def test_every_builtin_says_what_is_really_wrong() -> None:
    """And not what would be wrong on a bare host: `builtin` takes a function that asks the host."""
    found = {
        f"{name(path)}:{call.lineno}": len(call.args) + len(call.keywords)
        for path in CALLERS
        for call in calls(ast.parse(path.read_text()))
        if ast.unparse(call.func) == "builtin"
    }
    assert len(found) >= 3 and [where for where, arguments in found.items() if arguments < 4] == []


@pytest.mark.parametrize("path", [path for path in TASKS if path.name != "preflight.py"], ids=name)
def test_only_preflight_reads_a_host_before_anything_runs(path: Path) -> None:
    """A fact that a stage reads at deploy level is of the host before the stages ahead of it ran."""
    assert not facts_read(path)


def facts_read(path: Path) -> list[ast.Call]:
    return [call for call in calls(ast.parse(path.read_text())) if ast.unparse(call.func).endswith("get_fact")]


def test_preflight_reads_a_host() -> None:
    """By the name that the others are searched for."""
    assert facts_read(PROJECT / "tasks" / "preflight.py")


@pytest.mark.parametrize("path", TASKS, ids=name)
def test_no_task_resolves_a_secret(path: Path) -> None:
    """Operations take the names of secrets; values are resolved where they are used."""
    assert callable(SecretStore.value) and callable(SecretStore.optional) and "secrets" in HostRun.__annotations__
    attributes = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute))
    assert not [node for node in attributes if ast.unparse(node) in ("run.secrets.value", "run.secrets.optional")]


def words(path: Path) -> set[str]:
    """Every word of a file's code: of its names and its texts, but for docstrings and comments."""
    tree = ast.parse(path.read_text())
    texts = literals(path)
    texts += [name for node in ast.walk(tree) for name in (getattr(node, "id", ""), getattr(node, "attr", ""))]
    texts += [getattr(node, "arg", "") or "" for node in ast.walk(tree)]
    texts += [node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    return {word for text in texts for word in re.findall(r"[a-z0-9-]+", text.lower().replace("_", " "))}


# What services are made of. `cli` may give one as an example.
KINDS = {"comfyui", "vllm", "diffusers", "workflow", "nodes"}


@pytest.mark.parametrize("path", [*TASKS, *(path for path in KNOWLEDGE if path.parent.name != "cli")], ids=name)
def test_no_service_and_no_kind_of_service_is_named(path: Path) -> None:
    """One service, one place: its entry and its template."""
    shipped = runpy.run_path(str(PROJECT / "group_data" / "all.py"))
    names = shipped["services"].keys() | shipped["installs"].keys() | shipped["models"].keys()
    assert not words(path) & (names | KINDS)


def test_a_kind_of_service_would_be_seen(tmp_path: Path) -> None:
    for code in ("run.comfyui", "def comfyui_spec(): ...", "x = 'the comfyui tree'", "f(comfyui=1)", "comfyui_x = 1"):
        (tmp_path / "code.py").write_text(code)
        assert "comfyui" in words(tmp_path / "code.py")


@pytest.mark.parametrize("path", OPERATIONS, ids=name)
def test_every_error_of_a_script_has_a_hint(path: Path) -> None:
    for text in literals(path):
        assert text.count('echo "error:') == text.count('echo "hint:'), text


def test_what_a_killed_script_leaves_behind_is_in_memory() -> None:
    """A trap does not run then: what is only for a moment is in /run, which no host keeps."""
    found = [(name(path), line) for path in KNOWLEDGE for text in literals(path) for line in mktemps(text)]
    assert len(found) >= 5
    assert [each for each in found if not re.search(r"mktemp (-d )?(-p /run |/run/|@RUNTIME@/)", each[1])] == []


def mktemps(text: str) -> list[str]:
    return [line for line in text.splitlines() if "mktemp" in line]


PURE = [path for path in KNOWLEDGE if re.search(r"\bPure[.:]", ast.get_docstring(ast.parse(path.read_text())) or "")]


@pytest.mark.parametrize("path", PURE, ids=name)
def test_what_calls_itself_pure_is(path: Path) -> None:
    tree = ast.parse(path.read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level}
    assert not {module.partition(".")[0] for module in imported} & {"os", "subprocess", "socket", "pyinfra", "time"}
    assert not [call for call in calls(tree) if ast.unparse(call.func) in ("open", "print", "input")]


def test_the_pure_ones_are_found() -> None:
    assert {f"{path.parent.name}/{path.stem}" for path in PURE} >= {
        *("engine/rules", "services/rules", "services/placement", "host/preflight", "plan/change", "verify/verdict"),
    }


@pytest.mark.parametrize(
    "path",
    [
        ".env",
        ".env.local",
        "secrets/gpu1.env",
        "secrets/.lock",
        "secrets/anything",
        ".env.docker",
        "stacks/front/.env.docker",
        "host.env",
        "key.pem",
        "id_ed25519",
        "stacks/front/secrets/api/PASSWORD",
        "pyinfra-debug.log",
    ],
)
def test_git_ignores_what_may_hold_a_secret(path: str) -> None:
    done = subprocess.run(["git", "check-ignore", "-q", "--no-index", path], cwd=PROJECT, check=False)
    assert done.returncode == 0


def test_what_sops_encrypted_may_enter_git() -> None:
    ask = ["git", "check-ignore", "-q", "--no-index", "secrets/gpu1.sops.env"]
    assert subprocess.run(ask, cwd=PROJECT, check=False).returncode == 1


def test_every_secret_is_documented_for_the_operator() -> None:
    example = (PROJECT / ".env.example").read_text()
    for secret, entry in runpy.run_path(str(PROJECT / "group_data" / "all.py"))["secrets"].items():
        for known in (secret, *entry.get("aliases", [])):
            assert re.search(rf"\b{known}\b", example), known
        # What only the operator can give wants a value; what is generated must not be one for all hosts by mistake.
        assert bool(re.search(rf"^{secret}=$", example, re.MULTILINE)) == ("generate" not in entry), secret


def tracked() -> list[str]:
    """The project's files, as git has them."""
    asked = ["git", "ls-files"]
    return subprocess.run(asked, cwd=PROJECT, check=True, capture_output=True, text=True).stdout.splitlines()


def test_no_secret_file_is_tracked() -> None:
    secret = re.compile(r"(^|/)(\.env(\..+)?|[^/]*\.env|[^/]*\.pem|id_[a-z0-9]+|known_hosts)$|^secrets/")
    assert [path for path in tracked() if secret.search(path) and not path.endswith(".env.example")] == []


def test_types_are_checked_everywhere() -> None:
    """But in data, and where other programs stand in or torch is needed."""
    mypy = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["mypy"]
    assert mypy["strict"] is True
    named = re.compile("|".join(rf"{re.escape(each)}(/|$)" for each in mypy["files"]))
    left_out = [each for each in tracked() if each.endswith(".py") and not named.match(each)]
    data = r"(files/site/)?(group_data/\w+|inventory)\.py"
    assert [path for path in left_out if not re.fullmatch(data, path)] == []
    assert set(mypy["exclude"]) == {"tests/rehearsal/standins/trees/", "tests/diffusers/"}


def test_every_test_has_a_time_limit(request: pytest.FixtureRequest) -> None:
    assert request.config.pluginmanager.hasplugin("timeout")
    by_itself = float(request.config.getini("timeout") or 0)
    limits = [item.get_closest_marker("timeout") for item in request.session.items]
    assert all(marker is None or marker.args[0] > 0 for marker in limits) and 0 < by_itself <= 120
