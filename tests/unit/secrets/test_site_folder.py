"""A site that is not the working directory: all sources of its secrets lie in its folder, none here."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from gpuhost.secrets import sops
from gpuhost.secrets.store import SecretStore, tracked
from tests.unit import sample


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Somewhere else stand files that would be read if it were the site."""
    here, site = tmp_path / "here", tmp_path / "site"
    for folder in (here, site):
        (folder / "secrets").mkdir(parents=True)
    for path in (here / ".env", here / "secrets/gpu1.env"):
        path.touch(0o600)
        path.write_text("GIVEN=wrong\nAPI_TOKEN=wrong\n")
    monkeypatch.chdir(here)
    return site


def store(site: Path) -> SecretStore:
    return SecretStore(sample.catalog(), "gpu1", {}, site=site)


def write(path: Path, text: str) -> str:
    path.touch(0o600)
    path.write_text(text)
    return str(path)


def test_every_source(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert store(site).source("GIVEN") is None and store(Path()).value("GIVEN") == "wrong"
    shared = write(site / ".env", "GIVEN=shared\n")
    assert (store(site).value("GIVEN"), store(site).source("GIVEN")) == ("shared", shared)
    encrypted = site / "secrets/gpu1.sops.env"
    with monkeypatch.context() as patched:
        patched.setattr(sops, "read", lambda path: {"GIVEN": "encrypted"} if path == encrypted else {})
        assert (store(site).value("GIVEN"), store(site).source("GIVEN")) == ("encrypted", str(encrypted))
    own = write(site / "secrets/gpu1.env", "GIVEN=own\n")
    assert (store(site).value("GIVEN"), store(site).source("GIVEN")) == ("own", own)


def test_what_is_generated_and_rotated(site: Path) -> None:
    before = {path: path.read_text() for path in Path().rglob("*") if path.is_file()}
    store(site).generate(["API_TOKEN"])
    store(site).rotate("API_TOKEN")
    assert {path.name for path in (site / "secrets").iterdir()} == {".lock", "gpu1.env", "gpu1.retired.json"}
    assert {path: path.read_text() for path in Path().rglob("*") if path.is_file()} == before
    assert store(site).files() == [site / "secrets/gpu1.env", site / "secrets/gpu1.retired.json"]


def test_an_absolute_folder_of_secrets_stays_where_it_is(site: Path, tmp_path: Path) -> None:
    catalog = sample.catalog({"secrets_dir": str(tmp_path / "vault")})
    assert SecretStore(catalog, "gpu1", {}, site=site).path == tmp_path / "vault/gpu1.env"


@pytest.mark.parametrize("name", [".env", "secrets/gpu1.env"])
def test_what_git_tracks_there(site: Path, name: str) -> None:
    subprocess.run(["git", "init", "-q", site], check=True)
    write(site / name, "GIVEN=x\n")
    assert tracked([store(site)]) == []
    subprocess.run(["git", "-C", site, "add", "--force", name], check=True)
    [problem] = tracked([store(site)])
    assert problem.what == f"{site / name} holds secrets and is tracked by git"
    untrack = problem.hint.partition(",")[0]
    subprocess.run(untrack.split(), check=True)
    assert tracked([store(site)]) == []
