"""`gpuhost lock`: what is looked up, shown, written and dropped; the registry is one on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from pyinfra.api.state import State

from gpuhost.catalog.lock import Lock, LockedModel
from gpuhost.cli import arguments, lock
from gpuhost.cli import main as cli
from gpuhost.cli import site as site_module
from gpuhost.errors import Problem, UserError
from gpuhost.images.rules import sources
from gpuhost.installs import requirements
from gpuhost.installs.rules import Sources, lock_subject
from gpuhost.models import hub
from gpuhost.run import pyinfra
from tests.unit import sample
from tests.unit.images.registry import Answer, Registry, serving
from tests.unit.sample import write_group_data

HUB = "registry-1.docker.io"
BASE = "docker.io/library/python:3.12.11"
OTHER_BASE = sources(sample.catalog().images["painter"])[0]  # that of the Dockerfile
SERVER = "docker.io/acme/server:v1.2.3"
PACKAGES = [f"one==1.0 --hash=sha256:{'a' * 64}", f"two==2.0 --hash=sha256:{'b' * 64}"]


class Lab:
    """A project, a site of two hosts, and what the world holds. `packages`: what an install resolves to."""

    def __init__(self, folder: Path, registry: Registry) -> None:
        self.project, self.site, self.registry = folder / "project", folder / "site", registry
        self.packages: list[str] | UserError = PACKAGES
        self.resolved: list[tuple[Sources, str]] = []
        self.commit: str | UserError = "1" * 40
        self.asked: list[tuple[str, str, str | None]] = []
        self.digests = {
            BASE: registry.put(HUB, "library/python", "3.12.11", b'{"a": 1}'),
            OTHER_BASE: registry.put_image(
                HUB, "library/python", OTHER_BASE.rpartition(":")[2], ["PYTHON_VERSION=3.12.11"]
            ),
            SERVER: registry.put(HUB, "acme/server", "v1.2.3", b'{"b": 1}'),
        }

    def model(
        self, repo: str, revision: str, allow: Sequence[str], ignore: Sequence[str], endpoint: str, token: str | None
    ) -> LockedModel:
        """What the hub says."""
        self.asked.append((repo, revision, token))
        if isinstance(self.commit, UserError):
            raise self.commit
        files = {path: {"size": 1, "sha256": None, "git_sha1": "e" * 40} for path in allow}
        return LockedModel.model_validate({"commit": self.commit, "files": files})

    def resolve(self, wanted: Sources, python: str) -> list[str]:
        self.resolved.append((wanted, python))
        if isinstance(self.packages, UserError):
            raise self.packages
        return self.packages

    @property
    def content(self) -> dict[str, Any]:
        read: dict[str, Any] = json.loads((self.site / "lock.json").read_text())
        return read


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pyinfra_state: State) -> Iterator[Lab]:
    registry = Registry()
    made = Lab(tmp_path, registry)
    write_group_data(made.project, {"all": sample.data()})
    (made.project / "deploy.py").touch()
    made.site.mkdir()
    (made.site / "inventory.py").write_text('lab = ["gpu1", "gpu2"]\n')
    for module in (arguments, site_module):
        monkeypatch.setattr(module, "PROJECT", made.project)
    monkeypatch.setattr(requirements, "resolve", made.resolve)
    monkeypatch.setattr(hub, "resolve", made.model)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delattr(pyinfra, "_run")  # no run: no host is contacted
    with serving(registry) as http:

        @contextmanager
        def here() -> Iterator[httpx.Client]:
            yield http

        monkeypatch.setattr(lock, "client", here)
        yield made


def run(*words: str, code: int = 0) -> None:
    assert cli.main(["lock", "-i", "site", *words]) == code


def test_everything_is_looked_up_shown_and_written(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    run()
    said = capsys.readouterr()
    assert lab.content["images"] == {name: {"digest": digest} for name, digest in lab.digests.items()}
    assert lab.content["installs"] == {
        "tree": {"for": lock_subject(sample.catalog(), "tree"), "requirements": PACKAGES}
    }
    wanted = Sources(repositories=[("https://git.example/tree.git", "c" * 40)], indexes=[], lines=[])
    assert lab.resolved == [(wanted, "3.12.11")]
    assert said.out.splitlines() == [
        *(line for name in sorted(lab.digests) for line in (f"image {name}", f"  + {lab.digests[name]}")),
        "install tree: 2 of 2 packages",
        "  + one 1.0",
        "  + two 2.0",
        "model Acme/Models main",
        f"  + {'1' * 40}",
    ]
    assert lab.content["models"]["Acme/Models"]["main"]["commit"] == "1" * 40
    assert said.err.count("looking up ") == 4 and "Written: site/lock.json" in said.err


def test_a_second_lock_changes_nothing(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    run()
    before = (lab.site / "lock.json").stat().st_ino
    capsys.readouterr()
    run()
    run("--check")
    assert capsys.readouterr().out == ""
    assert (lab.site / "lock.json").stat().st_ino == before  # it was not replaced


def test_check_says_what_moved_and_writes_nothing(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    run()
    before = (lab.site / "lock.json").read_bytes()
    capsys.readouterr()
    moved = lab.registry.put(HUB, "acme/server", "v1.2.3", b'{"hijacked": 1}')
    lab.packages = [PACKAGES[0].replace("aaaa", "cccc"), PACKAGES[1]]
    run("--check", code=2)
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        f"image {SERVER}",
        f"  - {lab.digests[SERVER]}",
        f"  + {moved}",
        "install tree: 1 of 2 packages",
        "  ! one 1.0: of 1 files that were locked 1 are not those any more",
    ]
    assert "Find out why first" in said.err
    assert (lab.site / "lock.json").read_bytes() == before
    run()
    assert lab.content["images"][SERVER] == {"digest": moved}


def test_what_a_pull_downloads_is_asked_for_once_a_digest(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    """Of what hosts pull, and not of what ours are built on; a registry that does not say it keeps nobody."""

    def asked() -> list[str]:
        """The manifests that were read whole."""
        found = [url.rpartition("/")[2] for method, url, _ in lab.registry.asked if method == "GET" and "/acme/" in url]
        lab.registry.asked.clear()
        return found

    digest = lab.registry.put(HUB, "acme/server", "v1.2.3", b'{"layers": [{"size": 40}, {"size": 2}]}')
    run()
    assert lab.content["images"][SERVER] == {"digest": digest, "download_bytes": 42} and asked() == [digest]
    assert "download_bytes" not in lab.content["images"][BASE]
    capsys.readouterr()
    run()
    run("--check")
    assert asked() == [] and capsys.readouterr().out == ""
    moved = lab.registry.put(HUB, "acme/server", "v1.2.3", b'{"layers": [{"size": 50}]}')
    lab.registry.answers["GET", f"https://{HUB}/v2/acme/server/manifests/{moved}"] = Answer(503)
    run()
    assert lab.content["images"][SERVER] == {"digest": moved}


def test_check_without_a_lock(lab: Lab) -> None:
    run("--check", code=2)
    assert not (lab.site / "lock.json").exists()


def test_only_what_is_named(lab: Lab) -> None:
    """Other entries stay as they are."""
    run("pulled")
    assert list(lab.content["images"]) == [SERVER] and not lab.content["installs"] and not lab.resolved
    lab.registry.put(HUB, "acme/server", "v1.2.3", b"{}")
    run("tree")
    assert lab.content["images"] == {SERVER: {"digest": lab.digests[SERVER]}} and "tree" in lab.content["installs"]


MORE = {"repo": "Acme/Models", "allow": ["other.bin"], "gated": True}


def test_a_model_has_the_files_of_all_its_entries(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token is sent for those that are gated only; models that no service needs are looked up when named."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    secret = {"HF_TOKEN": {"about": "x"}}
    write_group_data(lab.site, {"all": {"models": {"more": MORE, "idle": {"repo": "Acme/Idle"}}, "secrets": secret}})
    run()
    assert set(lab.content["models"]["Acme/Models"]["main"]["files"]) == {"other.bin", "split/vae/one.safetensors"}
    assert set(lab.content["models"]) == {"Acme/Models"}
    assert {(repo, token) for repo, _, token in lab.asked} == {("Acme/Models", None), ("Acme/Models", "hf_secret")}
    assert "hf_secret" not in (lab.site / "lock.json").read_text()
    run("idle")
    assert set(lab.content["models"]) == {"Acme/Idle", "Acme/Models"}
    run()
    assert set(lab.content["models"]) == {"Acme/Idle", "Acme/Models"}  # it is in the data


def test_a_model_that_moved_or_is_not_shown(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    run()
    capsys.readouterr()
    lab.commit = "2" * 40
    run("--check", "vae", code=2)
    said = capsys.readouterr().out.splitlines()
    assert said == ["model Acme/Models main", f"  - {'1' * 40}", f"  + {'2' * 40}"]
    lab.commit = UserError(Problem("it is gated", "accept"))
    run("vae", code=1)
    assert lab.content["models"]["Acme/Models"]["main"]["commit"] == "1" * 40
    run("pulled")


def test_a_name_that_is_none(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    run("puled", code=1)
    assert capsys.readouterr().err.splitlines() == [
        "error: no image, install or model is named `puled`",
        "hint: did you mean `pulled`?",
    ]


def test_what_no_host_names_any_more_is_dropped(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    run()
    capsys.readouterr()
    write_group_data(lab.site, {"all": {"images": {"pulled": {"pull": "docker.io/acme/server:v1.2.4"}}}})
    newer = lab.registry.put(HUB, "acme/server", "v1.2.4", b"{  }")
    run()
    assert capsys.readouterr().out.splitlines() == [
        f"image {SERVER}",
        f"  - {lab.digests[SERVER]}",
        "image docker.io/acme/server:v1.2.4",
        f"  + {newer}",
    ]
    assert SERVER not in lab.content["images"]


def test_what_hosts_that_are_not_chosen_name_stays(lab: Lab) -> None:
    """`--limit` looks up less, and drops nothing."""
    write_group_data(lab.site, {"gpu2": {}})
    (lab.site / "inventory.py").write_text('lab = ["gpu1", "gpu2"]\nother = ["gpu2"]\n')
    write_group_data(lab.site, {"other": {"images": {"pulled": {"pull": "docker.io/acme/server:v9"}}}})
    lab.registry.put(HUB, "acme/server", "v9", b"{   }")
    run()
    both = lab.content["images"]
    lab.registry.asked.clear()
    run("--limit", "gpu1")
    assert lab.content["images"] == both and "docker.io/acme/server:v9" in both
    assert not [url for _, url, _ in lab.registry.asked if url.endswith("/v9")]


def test_what_has_a_digest_already_is_not_asked_for(lab: Lab) -> None:
    write_group_data(lab.site, {"all": {"images": {"pulled": {"pull": f"{SERVER}@sha256:{'a' * 64}"}}}})
    run()
    assert not [url for _, url, _ in lab.registry.asked if "acme" in url]


def test_one_that_cannot_be_looked_up_stops_all(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    """Each is said, once, and nothing is written."""
    for name in ("3.12.11", OTHER_BASE.rpartition(":")[2]):
        lab.registry.answers["HEAD", f"https://{HUB}/v2/library/python/manifests/{name}"] = Answer(429)
    run(code=1)
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2 and all("rate limit" in line for line in errors)
    assert not (lab.site / "lock.json").exists()


def test_packages_that_cannot_be_resolved(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.packages = UserError(Problem("no", "try", detail=("uv's words\x1b[2J",)))
    run(code=1)
    said = capsys.readouterr().err
    assert "error: no\nhint: try\n  | uv's words" in said and "\x1b" not in said
    assert not (lab.site / "lock.json").exists()


def test_a_base_that_does_not_say_its_python(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.registry.put_image(HUB, "library/python", OTHER_BASE.rpartition(":")[2], ["PYTHON_VERSION=3.12; evil"])
    run("tree", code=1)
    said = capsys.readouterr().err
    assert "on which `images.painter` stands, does not say its Python" in said


def test_hosts_that_want_other_packages_under_one_name(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    (lab.site / "inventory.py").write_text('lab = ["gpu1", "gpu2"]\nother = ["gpu2"]\n')
    write_group_data(lab.site, {"other": {"installs": {"tree": {"environment": {"SOURCE_REF": "d" * 40}}}}})
    run(code=1)
    assert "`installs.tree` is not the same on all hosts" in capsys.readouterr().err


def test_the_shipped_lock_is_what_a_site_starts_from(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    """What it has and what is looked up is compared; the site gets a lock of its own."""
    run()
    (lab.site / "lock.json").rename(lab.project / "lock.json")
    capsys.readouterr()
    run("--check")
    run()
    assert capsys.readouterr().out == ""
    assert lab.content["images"] == {name: {"digest": digest} for name, digest in lab.digests.items()}


def test_a_lock_that_cannot_be_read_is_not_replaced(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    (lab.site / "lock.json").write_text("<<<<<<< HEAD")
    run(code=1)
    assert "error: site/lock.json is not JSON" in capsys.readouterr().err
    assert (lab.site / "lock.json").read_text() == "<<<<<<< HEAD"


def test_every_command_reads_it(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    """A mistake in it is said before any host is contacted."""
    (lab.site / "lock.json").write_text('{"version": 1, "imagez": {}}')
    assert cli.main(["config", "-i", "site"]) == 1
    assert "error: site/lock.json: `imagez`" in capsys.readouterr().err
    (lab.site / "lock.json").write_text(Lock(version=1).model_dump_json())
    assert cli.main(["config", "-i", "site"]) == 0
