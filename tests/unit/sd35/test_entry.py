"""The catalogue's entry against the server: what it sets is understood, what verification asks is answered."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pyinfra.api.state import State

from gpuhost.catalog.inventory import Request, read
from gpuhost.catalog.types import Service
from gpuhost.project import PROJECT, project_file
from gpuhost.services.render import ServiceContext
from gpuhost.verify.questions import questions
from hostside.protocol.verify import Expectation, Header, Probe
from hostside.verify.answers import ask
from sd35 import __main__ as program
from sd35 import model, settings
from tests.unit.sd35.serving import TOKEN, Cache, serving

NAME = "stable-diffusion-35"


@pytest.fixture
def entry(monkeypatch: pytest.MonkeyPatch, pyinfra_state: State) -> Service:
    monkeypatch.chdir(PROJECT)
    [catalog] = read(Request("inventory.py")).catalogs.values()
    return catalog.services[NAME]


def test_every_question_is_answered_as_the_entry_expects(entry: Service, tmp_path: Path) -> None:
    (tmp_path / "outputs").mkdir()
    made = settings.read(
        {**entry.environment, entry.secrets[0]: TOKEN, "HF_HOME": str(tmp_path), "SD35_OUTPUTS": "/nonexistent"}
    )
    Cache(tmp_path, made.model).put()
    asked = questions(entry)
    assert {each.sends for each in asked} == {"nothing", "token"} and len(asked) >= 15
    with serving(made) as api:
        for question in asked:
            probe = Probe(
                question.name,
                question.method,
                question.path,
                dict(question.headers),
                Header("Authorization", f"Bearer {TOKEN}") if question.sends == "token" else None,
                question.body,
                Expectation(question.status, question.json, question.contains),
                30.0,
            )
            while not (answer := ask(str(api.base_url).rstrip("/"), probe)).ok and answer.status == 503:
                # As a container that is not healthy yet; it may be by the time that this is asked.
                assert api.get("/health").json()["status"] in ("loading", "ok")
            assert answer.ok, (question.name, answer.detail)


def test_the_container_is_as_the_program_needs_it(entry: Service) -> None:
    paths = {"hub_cache": "/srv/hub", "outputs": "/srv/out"}
    text = ServiceContext(NAME, entry, "gpuhost/sd35:x", ["GPU-1"], "10021:10021", paths).fragment({})
    made = yaml.safe_load(text)[NAME]
    volumes = {each["target"]: each for each in made["volumes"]}
    assert made["read_only"] and volumes["/cache/huggingface"]["read_only"]
    assert {target for target, each in volumes.items() if not each.get("read_only")} == {"/outputs"}
    found = settings.read({**made["environment"], "SD35_API_KEY": TOKEN})
    assert (str(found.cache), str(found.outputs)) == ("/cache/huggingface/hub", "/outputs")
    assert made["environment"]["HF_HUB_OFFLINE"] == "1" and made["user"] == "10021:10021"
    assert str(settings.PORT) in made["ports"][0].rpartition(":")[2]


def test_docker_waits_until_the_server_has_ended(entry: Service) -> None:
    assert entry.stop_timeout_s > program.GRACE_S + model.END_S


def test_the_image_is_offline_and_has_the_versions_that_were_tried() -> None:
    dockerfile = project_file("files/sd35/Dockerfile")
    assert "HF_HUB_OFFLINE=1" in dockerfile and "--require-hashes" in dockerfile
    lock = project_file("files/sd35/requirements.lock")
    for line in project_file("files/sd35/requirements.in").splitlines():
        if line and not line.startswith("#"):
            assert f"\n{line.partition('>')[0].partition('=')[0].replace('_', '-')}==" in f"\n{lock}", line
    # What the unit tests run with is what the image has.
    ours = project_file("requirements.lock")
    for package in ("fastapi", "uvicorn", "prometheus-client", "huggingface-hub", "pydantic", "starlette"):
        versions = [
            next(line.split()[0] for line in text.splitlines() if line.startswith(f"{package}=="))
            for text in (ours, lock)
        ]
        assert versions[0] == versions[1], package
    assert "torch==" not in ours
