"""The secret audit on a host: real files, a fake Docker Engine, and no value in what it prints."""

from __future__ import annotations

import hashlib
import hmac
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuhost.services.render import env_file
from hostside import envfile, placeholders, secret_audit
from hostside.protocol.secret_audit import SecretAuditAnswer
from hostside.wire import from_host
from tests.unit.fake_docker import FakeDocker, container

MARK = "never-to-be-seen"  # in the key and in every value that is a secret
KEY = f"key-{MARK}"
HASH = f"$2b$12${MARK}"
TEMPLATE = "{PASSWORD_HASH}\n{USER}\n"

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
ONE_LINE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\n"))


class Engine(FakeDocker):
    """Hides stopped containers from who does not ask for them. `broken`: status and body of every inspection."""

    broken: tuple[int, bytes] | None = None

    def answer(self, path: str, query: dict[str, list[str]]) -> tuple[int, bytes]:
        status, body = super().answer(path, query)
        if path == "/containers/json" and query.get("all") != ["1"]:
            running = {f"id-{name}" for name, [each] in self.containers.items() if each["State"]["Status"] == "running"}
            return 200, json.dumps([each for each in json.loads(body) if each["Id"] in running]).encode()
        return self.broken if self.broken and path.endswith("/json") and "/id-" in path else (status, body)


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    engine = Engine(tmp_path / "docker.sock")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{engine.socket_path}")
    yield engine
    engine.close()


Ask = Callable[..., dict[str, Any]]
Fail = Callable[..., tuple[int, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[bytes], tuple[int, str, str]]:
    def run(document: bytes) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(document)))
        status = secret_audit.main()
        out, err = capsys.readouterr()
        assert MARK not in out + err and "Traceback" not in err
        return status, out, err

    return run


@pytest.fixture
def ask(run: Callable[[bytes], tuple[int, str, str]]) -> Ask:
    """What the program says about a request of these fields."""

    def ask(**fields: Any) -> dict[str, Any]:
        status, out, err = run(document(**fields))
        assert (status, err, out.count("\n")) == (0, "", 1)
        from_host(SecretAuditAnswer, out)  # the control side takes it
        return json.loads(out)

    return ask


@pytest.fixture
def fail(run: Callable[[bytes], tuple[int, str, str]]) -> Fail:
    """Exit status and stderr for a document, given whole or by fields."""

    def fail(whole: bytes | None = None, **fields: Any) -> tuple[int, str]:
        status, out, err = run(document(**fields) if whole is None else whole)
        error, hint = err.splitlines()
        assert out == "" and error.startswith("error: ") and hint.startswith("hint: ")
        return status, err

    return fail


def document(**fields: Any) -> bytes:
    return json.dumps({"key": KEY, "env_files": [], "secret_files": [], "containers": None} | fields).encode()


def of(name: str, value: str) -> str:
    """The fingerprint, from its definition."""
    return hmac.new(KEY.encode(), json.dumps([name, value]).encode(), hashlib.sha256).hexdigest()


def env_of(ask: Ask, path: Path, *plain: str) -> dict[str, Any]:
    return ask(env_files=[{"path": str(path), "plain": plain}])["env_files"][str(path)]


def test_the_fingerprint_is_an_hmac_that_others_make_too(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "file").write_text('sesame é"$\\')
    found = ask(key="the key", secret_files=[{"path": str(tmp_path / "file"), "template": "{A_TOKEN}"}])
    # printf '%s' '["A_TOKEN", "sesame \u00e9\"$\\"]' | openssl dgst -sha256 -hmac 'the key'
    known = "e4f508e81ade731cc933ead8d674da73becf1c560a596131dd9bdfe41faba8ca"
    assert found["secret_files"][str(tmp_path / "file")]["fingerprints"] == {"A_TOKEN": known}


@given(ANY_TEXT)
def test_unquote_is_the_inverse_of_quote(value: str) -> None:
    assert envfile.unquote(envfile.quote(value)) == value


@given(st.dictionaries(st.from_regex(r"[A-Z][A-Z0-9_]{0,5}", fullmatch=True), ANY_TEXT))
def test_a_rendered_env_file_is_read_back(values: dict[str, str]) -> None:
    assert envfile.variables(env_file("stack", values)) == values


def test_only_plain_values_are_shown(ask: Ask, tmp_path: Path) -> None:
    values = {"X_PORT": "8193", "X_TOKEN": f'{MARK} "$x\\\n\r', "X_MEMORY": "8g"}
    (tmp_path / ".env.docker").write_text(env_file("x", values))
    assert env_of(ask, tmp_path / ".env.docker", "X_PORT", "X_ABSENT") == {
        "X_PORT": {"fingerprint": of("X_PORT", "8193"), "value": "8193"},
        "X_TOKEN": {"fingerprint": of("X_TOKEN", values["X_TOKEN"]), "value": None},
        "X_MEMORY": {"fingerprint": of("X_MEMORY", "8g"), "value": None},
    }


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("X=raw", "raw"),
        ("X=", ""),
        ("X='quoted'", "'quoted'"),
        ("export X='quoted'", "'quoted'"),
        ('export X="ours"', '"ours"'),
        ('X = "ours"', ' "ours"'),
        ('  X="ours"', '"ours"'),
        ('X="ours" # why', '"ours" # why'),
        ('X="ours"\r', '"ours"\r'),
        ('X="a$b"', '"a$b"'),  # compose would put the value of b there
        ('X="a\\tb"', '"a\\tb"'),
        ('X="never closed', '"never closed'),
        ('X="a\\"', '"a\\"'),
        ("X=\udcff", "\udcff"),
    ],
)
def test_a_line_edited_by_hand_is_taken_as_it_stands(ask: Ask, tmp_path: Path, line: str, value: str) -> None:
    text = f'# X="{MARK}"\nX="before"\nno variable\nlower="x"\n{line}\n'
    (tmp_path / "env").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert env_of(ask, tmp_path / "env") == {"X": {"fingerprint": of("X", value), "value": None}}


def test_the_last_line_of_a_name_wins(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "env").write_text('X="1"\nY="y"\nX=2\nX="3"')
    assert env_of(ask, tmp_path / "env", "X")["X"] == {"fingerprint": of("X", "3"), "value": "3"}


@pytest.mark.parametrize(
    ("content", "template", "values"),
    [
        (f"{HASH}\nme\n", TEMPLATE, {"PASSWORD_HASH": HASH, "USER": "me"}),
        ("\n\n", TEMPLATE, {"PASSWORD_HASH": "", "USER": ""}),
        ("me:a:b", "{USER}:{PASSWORD}", {"USER": "me", "PASSWORD": "a:b"}),
        ("a.c (me, me1)", "a.c ({USER}, {USER}1)", {"USER": "me"}),
        (f"{MARK}\nmore", "{1ST}", {"1ST": f"{MARK}\nmore"}),
        ("\udcff\r\n", "{USER}\n", {"USER": "\udcff\r"}),
        ("fixed", "fixed", {}),
        ("", "", {}),
        (f"{HASH}\nme", TEMPLATE, None),
        (MARK, TEMPLATE, None),
        ("abc (me, me1)", "a.c ({USER}, {USER}1)", None),
        ("a.c (me, you1)", "a.c ({USER}, {USER}1)", None),
        ("fixed\n", "fixed", None),
    ],
)
def test_a_secret_file_against_its_template(
    ask: Ask, tmp_path: Path, content: str, template: str, values: dict[str, str] | None
) -> None:
    path = tmp_path / "PASSWORD"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    os.utime(path, ns=(1, 1767225600123456789))
    assert ask(secret_files=[{"path": str(path), "template": template}])["secret_files"][str(path)] == {
        "fingerprints": None if values is None else {name: of(name, value) for name, value in values.items()},
        "modified_ns": 1767225600123456789,
    }


@given(ONE_LINE, ONE_LINE)
def test_a_rendered_secret_file_is_taken_apart(password: str, user: str) -> None:
    values = {"PASSWORD_HASH": password, "USER": user}
    assert placeholders.values(placeholders.filled(TEMPLATE, values), TEMPLATE) == values


def test_a_file_that_is_not_there_is_left_out(ask: Ask, tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in ("absent", "no/folder")]
    found = ask(
        env_files=[{"path": path, "plain": []} for path in paths],
        secret_files=[{"path": path, "template": "{A}"} for path in paths],
    )
    assert abs(found.pop("now_ns") - time.time_ns()) < 60 * 10**9
    assert found == {"env_files": {}, "secret_files": {}, "containers": []}


def test_an_empty_file_is_there(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "env").touch()
    assert env_of(ask, tmp_path / "env") == {}


@pytest.mark.parametrize("field", [{"env_files": {"plain": []}}, {"secret_files": {"template": "{A}"}}])
@pytest.mark.parametrize("kind", ["folder", "fifo", "loop", "link", "below a file", "endless"])
def test_a_file_that_cannot_be_read_is_named(fail: Fail, tmp_path: Path, kind: str, field: dict[str, Any]) -> None:
    path = tmp_path / "file"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "endless":
        with path.open("wb") as file:
            file.truncate(secret_audit.FILE_BYTES_MAX + 1)
    elif kind in ("loop", "link"):
        (tmp_path / "another").touch()
        path.symlink_to(path if kind == "loop" else tmp_path / "another")
    else:
        path.write_text(MARK)
        path = path / "below"
    status, err = fail(**{name: [{"path": str(path)} | rest] for name, rest in field.items()})
    assert status == 2 and str(path) in err.splitlines()[0]


def test_containers_running_and_stopped(ask: Ask, engine: Engine) -> None:
    stopped = {"Status": "exited", "StartedAt": "2026-01-01T00:00:01.5Z"}
    never = {"Status": "created", "StartedAt": "0001-01-01T00:00:00Z"}
    engine.containers = {
        "a": [container("a", labels={"gpuhost.service": "service-a"})],
        "b": [container("b", state=stopped)],
        "c": [container("c", state=never)],
    }
    env = ["PATH=/bin", f"TOKEN={MARK}=a=b", "EMPTY=", "BARE", f"UNWANTED={MARK}"]
    for name, variables in {"a": env, "b": [], "c": None}.items():
        engine.containers[name][0]["Config"]["Env"] = variables
    first, second, third = ask(containers=["TOKEN", "EMPTY", "BARE", "ABSENT"])["containers"]
    assert first == {
        "name": "a",
        "service": "service-a",
        "state": "running",
        "started_ns": 1767225600123456789,
        "env": {"TOKEN": of("TOKEN", f"{MARK}=a=b"), "EMPTY": of("EMPTY", "")},
        "added": {},
    }
    assert second == {"name": "b", "service": "b", "state": "exited", "started_ns": 1767225601500000000} | {
        "env": {},
        "added": {},
    }
    assert (third["state"], third["started_ns"], third["env"]) == ("created", 0, {})


def test_what_a_container_has_that_its_image_does_not_give(ask: Ask, engine: Engine) -> None:
    engine.containers = {"a": [container("a")]}
    engine.containers["a"][0]["Config"]["Env"] = ["PATH=/evil", "LANG=C", f"MINE={MARK}", "TOKEN=t"]
    engine.images = {"sha256:of-a": {"Config": {"Env": ["PATH=/bin", "LANG=C", "UNUSED=1"]}}}
    [found] = ask(containers=["TOKEN"])["containers"]
    added = {"PATH": "/evil", "MINE": MARK, "TOKEN": "t"}
    assert found["added"] == {name: of(name, value) for name, value in added.items()}
    assert found["env"] == {"TOKEN": of("TOKEN", "t")}
    engine.images = {"sha256:of-a": {"Config": {"Env": None}}}
    assert ask(containers=[])["containers"][0]["added"].keys() == {"PATH", "LANG", "MINE", "TOKEN"}


def test_what_an_image_gave_that_is_gone_nobody_knows(ask: Ask, engine: Engine) -> None:
    engine.containers = {"a": [container("a")]}
    assert ask(containers=["TOKEN"])["containers"][0]["added"] == {}


@pytest.mark.parametrize(
    ("started_at", "ns"),
    [("2026-01-01T00:00:00Z", 0), ("2026-01-01T00:00:00.000000001Z", 1), ("2026-01-01T00:00:00.12Z", 120000000)],
)
def test_a_start_is_exact(ask: Ask, engine: Engine, started_at: str, ns: int) -> None:
    engine.containers = {"a": [container("a", state={"StartedAt": started_at})]}
    assert ask(containers=[])["containers"][0]["started_ns"] == 1767225600 * 10**9 + ns


def test_containers_of_others_are_not_looked_at(ask: Ask, engine: Engine) -> None:
    engine.containers = {"a": [container("a")], "other": [container("other")]}
    engine.containers["other"][0]["Config"]["Labels"] = {}
    assert [each["name"] for each in ask(containers=["TOKEN"])["containers"]] == ["a"]
    assert not [path for path in engine.requests if "other" in path]


def test_a_container_that_vanishes_is_left_out(ask: Ask, engine: Engine) -> None:
    engine.containers = {"a": [container("a")], "gone": [container("a")]}
    engine.containers["gone"][0]["Id"] = "id-vanished"
    assert [each["name"] for each in ask(containers=["TOKEN"])["containers"]] == ["a"]


def test_docker_is_not_asked_for_nothing(ask: Ask, engine: Engine) -> None:
    engine.status = 500
    assert ask(containers=None)["containers"] == [] and engine.requests == []


@pytest.mark.parametrize("status", [500, 0])
def test_docker_that_does_not_answer(fail: Fail, engine: Engine, status: int) -> None:
    engine.status = status
    code, err = fail(containers=["TOKEN"])
    assert code == 3 and "Docker does not answer" in err


def test_no_docker_at_all(fail: Fail, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    assert fail(containers=[])[0] == 3


@pytest.mark.parametrize("broken", [(500, b'{"message": "%s"}'), (200, b"%s"), (200, b'{"Config": "%s"')])
def test_an_inspection_that_breaks_is_not_quoted(fail: Fail, engine: Engine, broken: tuple[int, bytes]) -> None:
    engine.containers = {"a": [container("a")]}
    engine.broken = (broken[0], broken[1] % MARK.encode())
    assert fail(containers=["TOKEN"])[0] == 3


def test_an_unexpected_value_is_not_quoted(fail: Fail, engine: Engine) -> None:
    engine.containers = {"a": [container("a")]}
    engine.broken = (200, json.dumps({"Config": {"Env": [[f"TOKEN={MARK}"]], "Labels": {}}, "State": MARK}).encode())
    status, err = fail(containers=["TOKEN"])
    assert status == 1 and "secret_audit.py, line " in err


def test_an_error_whose_text_is_a_value_is_not_quoted(fail: Fail, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ValueError(MARK) from KeyError(MARK)

    monkeypatch.setattr(secret_audit, "containers", refuse)
    assert fail()[0] == 1


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        MARK.encode(),
        f'"{MARK}"'.encode(),
        f'{{"key": "{MARK}"'.encode(),
        f'{{"{MARK}": "\xff"}}'.encode("latin-1"),
        b"[" * 100_000,
        b"[]",
        b"null",
        document(key=""),
        document(key=5),
        document(key=f"{MARK}\udcff"),
        document(env_files=[MARK]),
        document(env_files={MARK: MARK}),
        document(env_files=[{"path": MARK}]),
        document(env_files=[{"path": f"/{MARK}\0", "plain": []}]),
        document(env_files=[{"path": f"/{MARK}", "plain": "X"}]),
        document(env_files=[{"path": [MARK], "plain": []}]),
        document(secret_files=[{"path": f"/{MARK}", "template": {MARK: 1}}]),
        document(containers=MARK),
        document(containers=[[MARK]]),
        json.dumps({"key": KEY, "env_files": [], "secret_files": []}).encode(),
        document(**{MARK: 1}),
        document(env_files=[{"path": f"/{MARK}", "plain": [], MARK: MARK}]),
        b'{"key": "' + b"k" * 2**24 + b'"}',
    ],
)
def test_a_wrong_document_is_refused_without_its_values(fail: Fail, wrong: bytes) -> None:
    assert fail(wrong)[0] == 2


def test_nothing_is_written(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "env").write_text(f'X="{MARK}"\n')
    (tmp_path / "secret").write_text(MARK)
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.iterdir()}
    ask(
        env_files=[{"path": str(tmp_path / "env"), "plain": []}],
        secret_files=[{"path": str(tmp_path / "secret"), "template": "{A}"}],
    )
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.iterdir()} == before


def test_as_a_process(tmp_path: Path) -> None:
    (tmp_path / "env").write_text(f'X="{MARK}"\n')
    asked = document(env_files=[{"path": str(tmp_path / "env"), "plain": []}])
    for stdin, status in ((asked, 0), (asked[:-1], 2)):
        done = subprocess.run(
            [sys.executable, "-I", "-B", "-m", "hostside.secret_audit"],
            input=stdin,
            capture_output=True,
            env={"LC_ALL": "C"},
            check=False,
        )
        assert done.returncode == status and MARK.encode() not in done.stdout + done.stderr
