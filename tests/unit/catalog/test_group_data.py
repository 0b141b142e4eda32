"""What we ship is valid, and tells the operator what each secret is for."""

from __future__ import annotations

import re

import pytest
from pyinfra.api.state import State

from gpuhost.catalog.inventory import Request, read
from gpuhost.catalog.types import BuildImage, Catalog
from gpuhost.project import PROJECT


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch, pyinfra_state: State) -> Catalog:
    monkeypatch.chdir(PROJECT)
    [catalog] = read(Request("inventory.py")).catalogs.values()
    return catalog


def test_nothing_unused_is_declared(shipped: Catalog) -> None:
    services = shipped.services.values()
    installs = shipped.installs.values()
    assert set(shipped.models) >= {model for service in services for model in service.models}
    checked = {shipped.gpu_check.image} if shipped.gpu_check else set()
    used = {service.image for service in services} | {install.image for install in installs}
    assert set(shipped.images) == used | checked
    assert set(shipped.installs) == {service.install for service in services if service.install}
    assert set(shipped.networks) == {service.network for service in services}


def test_every_model_says_under_which_licence_and_where_it_is_accepted(shipped: Catalog) -> None:
    for name, model in shipped.models.items():
        assert model.licence, name
        assert not model.gated or f"https://huggingface.co/{model.repo}" in model.licence, name


def test_every_secret_says_what_it_is_for(shipped: Catalog) -> None:
    assert [name for name, secret in shipped.secrets.items() if not secret.about] == []


def test_a_secret_is_as_long_as_the_program_wants_it_that_reads_it(shipped: Catalog) -> None:
    """Or the service would start in a loop, long after the plan."""
    for image in ("orchestrator", "sd35"):
        settings = (PROJECT / "files" / image / image / "settings.py").read_text()
        found = {each[1]: each[2].strip('"') for each in re.finditer(r"^(TOKEN_\w+) = (\S+)", settings, re.M)}
        assert shipped.secrets[found["TOKEN_VARIABLE"]].min_chars == int(found["TOKEN_LENGTH_MIN"]) > 1


def test_services_publish_on_loopback_only(shipped: Catalog) -> None:
    assert {service.bind for service in shipped.services.values()} == {"127.0.0.1"}


def test_base_images_are_pinned(shipped: Catalog) -> None:
    bases = {
        value
        for image in shipped.images.values()
        if isinstance(image, BuildImage)
        for name, value in image.args.items()
        if name.endswith("IMAGE")
    }
    assert bases and all(":" in base.rpartition("/")[2] and "latest" not in base for base in bases)


def test_every_service_keeps_strangers_out(shipped: Catalog) -> None:
    assert [name for name, service in shipped.services.items() if service.auth is None] == []
