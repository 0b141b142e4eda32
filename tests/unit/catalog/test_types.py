"""Every mistake in the data is told in one sentence with one hint; what is right passes."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from pydantic import ValidationError

from gpuhost.catalog.types import Catalog, load
from gpuhost.errors import Problem, UserError
from tests.unit import sample
from tests.unit.sample import ABSENT

IN = "group_data: "
MISTAKES: dict[str, tuple[dict[str, Any], str, str]] = {
    # Types
    "text for a number": (
        {"services.painter.port": "9002"},
        "`services.painter.port`: input should be a valid integer, not `'9002'`",
        "write a whole number without quotes",
    ),
    "text for a yes or no": (
        {"services.painter.all_gpus": "yes"},
        "`services.painter.all_gpus`: input should be a valid boolean, not `'yes'`",
        "write `True` or `False`",
    ),
    "a number for a text": (
        {"secrets_dir": 1},
        "`secrets_dir`: input should be a valid string, not `1`",
        "write a text in quotes",
    ),
    "a text for a fraction": (
        {"verify_window_s": "5"},
        "`verify_window_s`: input should be a valid number, not `'5'`",
        "write a number without quotes",
    ),
    "a text for a list": (
        {"base_packages": "curl"},
        "`base_packages`: input should be a valid list, not `'curl'`",
        "write a list: `[...]`",
    ),
    "a list for a dict": (
        {"services.painter.options": []},
        "`services.painter.options`: input should be a valid dictionary, not `[]`",
        "write a dict: `{...}`",
    ),
    "a text for an entry": (
        {"account": "svc"},
        "`account`: input should be a valid dictionary or instance of Account, not `'svc'`",
        "write a dict: `{...}`",
    ),
    "a name that is too long for a hub": (
        {"models.vae.repo": "Acme/" + "m" * 92},
        f"`models.vae.repo`: string should have at most 96 characters, not `'Acme/{'m' * 51}...`",
        "see group_data/all.py for the form of this field",
    ),
    "missing secret of a seed": (
        {"services.painter.seeds": {"key": {"text": "x", "renew_with": "LOGIN_HSH"}}},
        "`services.painter.seeds.key.renew_with` names the secret `LOGIN_HSH`, which does not exist",
        "did you mean `LOGIN_HASH`?",
    ),
    "open to the network without auth": (
        {"services.painter.auth": None, "services.painter.bind": "0.0.0.0"},
        "`services.painter.bind`: 0.0.0.0 is open to the network, and the service has no `auth`",
        "bind it to 127.0.0.1 and reach it by `ssh -L`, or give it `auth`",
    ),
    "a health check that would need the token": (
        {"services.painter.auth.open_paths": []},
        "`services.painter.health.path`: /system_stats needs the token, and no path is open",
        "name one in `auth.open_paths`, or write the check as a `command`",
    ),
    "two health checks": (
        {"services.api.health.path": "/health"},
        "`services.api.health`: a health check is either a `path` or a `command`",
        "give one of the two",
    ),
    "no health check": (
        {"services.painter.health.path": None},
        "`services.painter.health`: a health check is either a `path` or a `command`",
        "give one of the two",
    ),
    "an unknown mark in a seed": (
        {"services.painter.seeds": {"key": {"text": "{random_kye}"}}},
        "`services.painter.seeds.key.text` has the mark `{random_kye}`, which gpuhost does not know",
        "there is: `{now}`, `{random_key}`",
    ),
    "an unknown mark in a URL of apt's": (
        {"apt_repositories.docker.url": "https://apt.example/{sweet}"},
        "`apt_repositories.docker.url`: `https://apt.example/{sweet}` has a mark that gpuhost does not know",
        "there is: `{os}`, `{suite}`, `{arch}`",
    ),
    "half a mark in a key's URL": (
        {"apt_repositories.nvidia.key_url": "https://apt.example/{os"},
        "`apt_repositories.nvidia.key_url`: `https://apt.example/{os` has a mark that gpuhost does not know",
        "there is: `{os}`, `{suite}`, `{arch}`",
    ),
    "a mark with more than a name": (
        {"apt_repositories.docker.suites": "{os.x} {}"},
        "`apt_repositories.docker.suites`: `{os.x} {}` has a mark that gpuhost does not know",
        "there is: `{os}`, `{suite}`, `{arch}`",
    ),
    "a second line in an apt source": (
        {"apt_repositories.docker.suites": "stable\nTrusted: yes"},
        "`apt_repositories.docker.suites`: `stable\nTrusted: yes` is not one line of text",
        "write it as it stands in an apt source",
    ),
    "a file name with a folder": (
        {"services.painter.seeds": {"../key": {"text": "x"}}},
        "`services.painter.seeds.../key`: `'../key'` is not of the right form",
        "write a file name of letters, digits, `_`, `-` and `.`",
    ),
    "a service whose variables are another's": (
        {"services": {name: {**sample.data()["services"]["api"], "port": n} for n, name in ((1, "a-b"), (2, "a.b"))}},
        "`services.a.b`: its variable A_B_PORT is that of the service `a-b`, too",
        "give the service another name",
    ),
    "two services of one account": (
        {"services.painter.account": sample.data()["services"]["api"]["account"]},
        "`services.painter.account`: the name svc-api is that of `services.api.account`, too",
        "give each service an account of its own",
    ),
    "two services of one uid": (
        {"services.painter.account.uid": 10002},
        "`services.painter.account`: the uid 10002 is that of `services.api.account`, too",
        "give each service ids of its own, such as 10004",
    ),
    "a service of the shared account's group": (
        {"services.api.account.gid": 10001},
        "`services.api.account`: the gid 10001 is that of `account`, too",
        "give each service ids of its own, such as 10004",
    ),
    "a name that useradd refuses": (
        {"services.api.account.name": "svc.api"},
        "`services.api.account.name`: `'svc.api'` is not of the right form",
        "write at most 32 small letters, digits, `-` and `_`",
    ),
    "a secret that is a service's variable": (
        {"secrets.API_PORT": {"generate": "token"}},
        "`services.api`: its variable API_PORT is that of the secret `API_PORT`, too",
        "give the service another name",
    ),
    "a stack with a dot": (
        {"services.painter.stack": "qwen3.5"},
        "`services.painter.stack`: `'qwen3.5'` is not of the right form",
        "write small letters, digits, `-` and `_`",
    ),
    "a service that begins with a digit": (
        {"services.3d-gen": sample.data()["services"]["painter"]},
        "`services.3d-gen`: `'3d-gen'` is not of the right form",
        "write a small letter, then small letters, digits, `-`, `_` and `.`",
    ),
    "half an address": (
        {"services.painter.bind": "999.1"},
        "`services.painter.bind`: `999.1` is no IP address",
        "write one such as `127.0.0.1` or `::1`",
    ),
    "number for a text": (
        {"images.painter.args": {"A": 1}},
        "`images.painter.args.A`: input should be a valid string, not `1`",
        "write a text in quotes",
    ),
    "text for cores": (
        {"services.painter.cpus": "4"},
        "`services.painter.cpus`: input should be a valid number, not `'4'`",
        "write a number without quotes",
    ),
    "text for a list": (
        {"services.painter.models": "vae"},
        "`services.painter.models`: input should be a valid list, not `'vae'`",
        "write a list: `[...]`",
    ),
    "list for a dict": (
        {"services": []},
        "`services`: input should be a valid dictionary, not `[]`",
        "write a dict: `{...}`",
    ),
    "text for an entry": (
        {"services.painter.health": "true"},
        "`services.painter.health`: input should be a valid dictionary or instance of Health, not `'true'`",
        "write a dict: `{...}`",
    ),
    # Fields
    "unknown field": (
        {"services.painter.memroy": "1g"},
        "`services.painter.memroy` is not a field that gpuhost knows",
        "did you mean `memory`?",
    ),
    "unknown field of a nested entry": (
        {"services.painter.health.intervall_s": 3},
        "`services.painter.health.intervall_s` is not a field that gpuhost knows",
        "did you mean `interval_s`?",
    ),
    "unknown field of an entry in a list": (
        {"services.painter.probes.0.expect_stats": 3},
        "`services.painter.probes.0.expect_stats` is not a field that gpuhost knows",
        "did you mean `expect_status`?",
    ),
    "unknown field of an optional entry": (
        {"services.painter.auth.tokn": "x"},
        "`services.painter.auth.tokn` is not a field that gpuhost knows",
        "did you mean `token`?",
    ),
    "unknown field like no other": (
        {"account.zzz": 1},
        "`account.zzz` is not a field that gpuhost knows",
        "there is: gid, name, uid",
    ),
    "unknown top-level key": (
        {"enabled_service": []},
        "`enabled_service` is not a field that gpuhost knows",
        "did you mean `enabled_services`?",
    ),
    "missing field": (
        {"services.painter.memory": ABSENT},
        "`services.painter.memory`: field required",
        "add this field",
    ),
    "missing top-level key": ({"networks": ABSENT}, "`networks`: field required", "add this field"),
    # Forms and limits
    "size": (
        {"services.painter.memory": "28 GB"},
        "`services.painter.memory`: `'28 GB'` is not of the right form",
        "write a whole number and `k`, `m` or `g`, as in `28g`",
    ),
    "name of an entry": (
        {"services.Fine Painter": sample.data()["services"]["painter"]},
        "`services.Fine Painter`: `'Fine Painter'` is not of the right form",
        "write a small letter, then small letters, digits, `-`, `_` and `.`",
    ),
    "name of a secret": (
        {"secrets.api-token": {"generate": "token"}},
        "`secrets.api-token`: `'api-token'` is not of the right form",
        "write capitals, digits and `_`, as in `HF_TOKEN`",
    ),
    "fingerprint": (
        {"apt_key_fingerprints.docker": "9DC8 5822"},
        "`apt_key_fingerprints.docker`: `'9DC8 5822'` is not of the right form",
        "write 40 hex digits in capitals, without spaces",
    ),
    "sha256": (
        {"models.vae.sha256": {"split/vae/one.safetensors": "abc"}},
        "`models.vae.sha256.split/vae/one.safetensors`: `'abc'` is not of the right form",
        "write 64 hex digits in small letters",
    ),
    "link": (
        {"models.vae.links": {"split/vae/one.safetensors": "one.safetensors"}},
        "`models.vae.links.split/vae/one.safetensors`: `'one.safetensors'` is not of the right form",
        "write `folder/name`",
    ),
    "link out of its folder": (
        {"models.vae.links": {"split/vae/one.safetensors": "../one.safetensors"}},
        "`models.vae.links.split/vae/one.safetensors`: `'../one.safetensors'` is not of the right form",
        "write `folder/name`",
    ),
    "file of a link out of the repository": (
        {"models.vae.links": {"../one.safetensors": "vae/one"}},
        "`models.vae.links.../one.safetensors`: `../one.safetensors` is no path in a repository",
        "write it as the repository's page shows it",
    ),
    "revision": (
        {"models.vae.revision": "a/../b"},
        "`models.vae`: `revision`: `a/../b` is no revision",
        "give a commit, a branch or a tag",
    ),
    "revision that a shell would read": (
        {"models.vae.revision": "-x"},
        "`models.vae.revision`: `'-x'` is not of the right form",
        "write a commit, a branch or a tag",
    ),
    "link of a file that is left out": (
        {"models.vae.ignore": ["split/"]},
        "`models.vae`: `links` names `split/vae/one.safetensors`, which `allow` and `ignore` leave out",
        "let `allow` name it, too",
    ),
    "sha256 of a file that is left out": (
        {"models.vae.sha256": {"two": "0" * 64}},
        "`models.vae`: `sha256` names `two`, which `allow` and `ignore` leave out",
        "let `allow` name it, too",
    ),
    "repository": (
        {"models.vae.repo": "Models"},
        "`models.vae.repo`: `'Models'` is not of the right form",
        "write `owner/name`",
    ),
    "address": (
        {"services.painter.bind": "localhost"},
        "`services.painter.bind`: `localhost` is no IP address",
        "write one such as `127.0.0.1` or `::1`",
    ),
    "address of a probe": (
        {"services.painter.probes.0.path": "health"},
        "`services.painter.probes.0.path`: `'health'` is not of the right form",
        "write a path that begins with `/`",
    ),
    "port zero": (
        {"services.painter.port": 0},
        "`services.painter.port`: input should be greater than or equal to 1, not `0`",
        "the least is 1",
    ),
    "port above all": (
        {"services.painter.port": 70000},
        "`services.painter.port`: input should be less than or equal to 65535, not `70000`",
        "the most is 65535",
    ),
    "no core": (
        {"services.painter.cpus": 0},
        "`services.painter.cpus`: input should be greater than 0, not `0`",
        "it must be above 0.0",
    ),
    "root as the account": (
        {"account.uid": 0},
        "`account.uid`: input should be greater than or equal to 1000, not `0`",
        "the least is 1000",
    ),
    "choice": (
        {"engine_source": "podman"},
        "`engine_source`: input should be 'docker' or 'distro', not `'podman'`",
        "it is one of 'docker' or 'distro'",
    ),
    "no probe": (
        {"services.painter.probes": [], "services.painter.auth": None},
        "`services.painter` has neither `probes` nor `auth`: nothing would prove that it answers",
        "add a probe: a path and what its answer holds",
    ),
    "no locked path": (
        {"services.painter.auth.locked_paths": []},
        "`services.painter.auth.locked_paths`: list should have at least 1 item after validation, not 0",
        "give at least 1",
    ),
    "relative path": (
        {"data_root": "srv/genai"},
        "`data_root`: `srv/genai` is not an absolute path",
        "write a full path such as `/srv/genai`",
    ),
    "path that climbs": (
        {"data_mount": "/srv/../etc"},
        "`data_mount`: `/srv/../etc` is not an absolute path",
        "write a full path such as `/srv/genai`",
    ),
    "path that a shell would read": (
        {"state_root": "/var/lib/my state"},
        "`state_root`: `/var/lib/my state` has a space or a sign that shells or systemd read",
        "use letters, digits, `.`, `_`, `-`, `+`, `@`",
    ),
    "two models in one place": (
        {"models.other": {"repo": "Acme/Other", "links": {"x": "vae/one.safetensors"}}},
        "`models.other.links`: `vae` already lies at vae/one.safetensors",
        "give one of them another name",
    ),
    # Images
    "latest": (
        {"images.pulled.pull": "acme/server:latest"},
        "`images.pulled`: image `acme/server:latest` is not pinned",
        "name a release tag (`:v0.9.2`) or a digest (`@sha256:...`)",
    ),
    "nightly": (
        {"images.pulled.pull": "acme/server:nightly-cu128"},
        "`images.pulled`: image `acme/server:nightly-cu128` is not pinned",
        "name a release tag (`:v0.9.2`) or a digest (`@sha256:...`)",
    ),
    "no tag, though the registry has a port": (
        {"images.pulled.pull": "registry.example:5000/acme/server"},
        "`images.pulled`: image `registry.example:5000/acme/server` is not pinned",
        "name a release tag (`:v0.9.2`) or a digest (`@sha256:...`)",
    ),
    "neither built nor pulled": (
        {"images.pulled": {"biuld": "api"}},
        "`images.pulled`: it is neither built nor pulled",
        "write `build` (a folder under files/) or `pull` (a reference)",
    ),
    "built and pulled": (
        {"images.pulled.build": "api"},
        "`images.pulled.build` does not go with `pull`",
        'take one of them away, as in `"build": None`',
    ),
    "unknown field of a built image": (
        {"images.api.arg": {}},
        "`images.api.arg` is not a field that gpuhost knows",
        "did you mean `args`?",
    ),
    # Secrets
    "a hash of nothing": (
        {"secrets.LOGIN_HASH.derive_from": ABSENT},
        '`secrets.LOGIN_HASH`: `derive_from` and `generate = "bcrypt"` go together',
        "name the secret whose value is hashed",
    ),
    "a hash of an unknown secret": (
        {"secrets.LOGIN_HASH.derive_from": "LOGIN_PASWORD"},
        "`secrets.LOGIN_HASH.derive_from` names the secret `LOGIN_PASWORD`, which does not exist",
        "did you mean `LOGIN_PASSWORD`?",
    ),
    # The whole
    "port used twice": (
        {"services.painter.port": 9001},
        "`services.painter.port`: host port 9001 is already used by `api`",
        "give one of them another port",
    ),
    "two that control the others": (
        {"services.painter.controls_services": True},
        "`services.api.controls_services`: `painter` controls the services of this host already",
        "leave it to one of the enabled services",
    ),
    "missing service": (
        {"enabled_services": ["painte"]},
        "`enabled_services` names the service `painte`, which does not exist",
        "did you mean `painter`?",
    ),
    "missing model": (
        {"services.painter.models": ["unet"]},
        "`services.painter.models` names the model `unet`, which does not exist",
        "there is: vae",
    ),
    "missing model where there is none": (
        {"models": {}},
        "`services.painter.models` names the model `vae`, which does not exist",
        "there is: no model yet",
    ),
    "a tag in the place of a commit": (
        {"installs.tree.environment.SOURCE_REF": "v1"},
        "`installs.tree.environment.SOURCE_REF`: `v1` is no commit, and may be another one tomorrow",
        "write the 40 digits that `git ls-remote https://git.example/tree.git v1` shows (of a tag those at `^{}`)",
    ),
    "a token for a hub that is not encrypted": (
        {"models.vae.gated": True, "hub_endpoint": "http://hub.example"},
        "`models.vae` is gated, and `hub_endpoint` is not an https address: no token is sent there",
        "give a hub that is reached by https",
    ),
    "missing secret in the environment": (
        {"services.api.secrets": ["API_TOKN"]},
        "`services.api.secrets` names the secret `API_TOKN`, which does not exist",
        "did you mean `API_TOKEN`?",
    ),
    "missing secret in a file": (
        {"services.painter.secret_files.PASSWORD": "{LOGIN_HSH}\n"},
        "`services.painter.secret_files` names the secret `LOGIN_HSH`, which does not exist",
        "did you mean `LOGIN_HASH`?",
    ),
    "missing secret of an auth": (
        {"services.painter.auth.token": "LOGIN_HSH"},
        "`services.painter.auth.token` names the secret `LOGIN_HSH`, which does not exist",
        "did you mean `LOGIN_HASH`?",
    ),
    "a password in the environment": (
        {"services.api.secrets": ["API_TOKEN", "LOGIN_PASSWORD"]},
        "`services.api.secrets` names `LOGIN_PASSWORD`: a password does not belong in an environment",
        "write it as a file: `secret_files`",
    ),
    "the hash of a password in the environment": (
        {"services.painter.secrets": ["LOGIN_HASH"], "enabled_services": []},
        "`services.painter.secrets` names `LOGIN_HASH`: a password does not belong in an environment",
        "write it as a file: `secret_files`",
    ),
    "a shipped file with the name of one that is made": (
        {"services.painter.shipped_files": {"extra_model_paths.yaml": "workflows/flux-1-dev.json"}},
        "`services.painter.shipped_files.extra_model_paths.yaml`: `config_files` makes a file of that name, too",
        "give one of them another name",
    ),
    "missing image": (
        {"services.painter.image": "painted"},
        "`services.painter.image` names the image `painted`, which does not exist",
        "did you mean `painter`?",
    ),
    "missing image of an install": (
        {"installs.tree.image": "zz"},
        "`installs.tree.image` names the image `zz`, which does not exist",
        "there is: api, painter, pulled",
    ),
    "missing network": (
        {"services.painter.network": "iner"},
        "`services.painter.network` names the network `iner`, which does not exist",
        "did you mean `inner`?",
    ),
    "missing install": (
        {"services.painter.install": "tre"},
        "`services.painter.install` names the install `tre`, which does not exist",
        "did you mean `tree`?",
    ),
    "a driver without packages for Debian": (
        {"driver": "580", "driver_packages": {"ubuntu": ["nvidia"]}},
        "`driver_packages` lacks `debian` or `ubuntu`",
        "copy it from gpuhost's own group_data/all.py",
    ),
    "a driver without packages for Ubuntu": (
        {"driver": "580", "driver_packages": {"debian": ["nvidia"]}},
        "`driver_packages` lacks `debian` or `ubuntu`",
        "copy it from gpuhost's own group_data/all.py",
    ),
    "overlapping subnets": (
        {"networks.outer": {"subnet": "172.20.8.0/24"}},
        "`networks.outer`: 172.20.8.0/24 overlaps `inner` (172.20.0.0/16)",
        "choose subnets apart",
    ),
    "no subnet": (
        {"networks.inner.subnet": "172.20.0.1/16"},
        "`networks.inner.subnet`: 172.20.0.1/16 has host bits set",
        "write an IPv4 subnet such as `172.20.1.0/24`",
    ),
    "a subnet in IPv6": (
        {"networks.inner.subnet": "fd00::/64"},
        "`networks.inner.subnet`: Expected 4 octets in 'fd00::'",
        "write an IPv4 subnet such as `172.20.1.0/24`",
    ),
    "a subnet without room": (
        {"networks.inner.subnet": "172.20.0.0/30"},
        "`networks.inner.subnet`: `172.20.0.0/30` has room for 4 addresses",
        "write one such as `172.20.1.0/24`",
    ),
    "old toolkit": (
        {"nvidia_toolkit_version": "1.17.7-1"},
        "`nvidia_toolkit_version`: 1.17.7-1 is too old "
        "(below 1.17.8 is open to CVE-2025-23266, below 1.18 has no CDI by default)",
        "use `1.20.0-1`",
    ),
    "toolkit without a version": (
        {"nvidia_toolkit_version": "newest"},
        "`nvidia_toolkit_version`: `'newest'` is not of the right form",
        "write a full package version, as in `1.20.0-1`",
    ),
    "an override that lost a repository": (
        {"apt_repositories.nvidia": ABSENT},
        "`apt_repositories` lacks `nvidia`",
        "copy `nvidia` from gpuhost's own group_data/all.py",
    ),
    "an override that lost an engine's packages": (
        {"engine_packages.ubuntu": ABSENT},
        "`engine_packages` lacks `ubuntu`",
        "copy `ubuntu` from gpuhost's own group_data/all.py",
    ),
    "an override that lost a fingerprint": (
        {"apt_key_fingerprints.docker": ABSENT},
        "`apt_key_fingerprints` lacks `docker`",
        "copy `docker` from gpuhost's own group_data/all.py",
    ),
    "an override that lost the key of the stamps": (
        {"secrets.LABEL_HMAC_KEY": ABSENT},
        "`secrets` lacks `LABEL_HMAC_KEY`",
        "copy `LABEL_HMAC_KEY` from gpuhost's own group_data/all.py",
    ),
}


@pytest.mark.parametrize(("changes", "what", "hint"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_sentence_and_one_hint(changes: dict[str, Any], what: str, hint: str) -> None:
    assert sample.problems(changes) == [Problem(IN + what, hint)]


def test_every_mistake_is_told_at_once() -> None:
    found = sample.problems({"services.painter.port": "x", "services.api.memroy": "1g", "account.uid": 0})
    assert len(found) == 3


def test_a_misspelt_field_is_told_once_and_first() -> None:
    """The field that was meant is not said to be missing, too; another one is."""
    changes = {"services.painter.memory": ABSENT, "services.painter.memmory": "1g", "services.painter.cpus": ABSENT}
    assert sample.problems({"account.uid": 0, **changes}) == [
        Problem(IN + "`services.painter.memmory` is not a field that gpuhost knows", "did you mean `memory`?"),
        Problem(IN + "`services.painter.cpus`: field required", "add this field"),
        Problem(
            IN + "`account.uid`: input should be greater than or equal to 1000, not `0`",
            "the least is 1000",
        ),
    ]


def test_an_entry_that_lacks_much_is_one_mistake() -> None:
    assert sample.problems({"services.painter.probes": [{}]}) == [
        Problem(IN + "`services.painter.probes.0` lacks `name`, `path`", "add these fields")
    ]


def test_the_file_of_the_field_is_named() -> None:
    with pytest.raises(UserError) as caught:
        load(sample.data({"services.painter.port": 9001}), lambda field: f"the file of {field}")
    assert caught.value.problems[0].lines() == [
        "error: the file of services.painter.port: `services.painter.port`: host port 9001 is already used by `api`",
        "hint: give one of them another port",
    ]


def test_a_variable_that_is_a_secret_too_is_refused() -> None:
    changes = {"services.api.environment": {"API_TOKEN": "x", "OTHER": "y"}}
    assert sample.problems(changes) == [
        Problem(
            IN + "`services.api.environment.API_TOKEN` is a secret of the service, too", "keep it in `secrets` alone"
        )
    ]
    assert sample.problems({"services.painter.environment": {"API_TOKEN": "x"}}) == []  # of another service


RIGHT: dict[str, dict[str, Any]] = {
    "as it is": {},
    "whole numbers where fractions may stand": {"disk_min_free_gib": 5, "services.painter.cpus": 2},
    "half a core": {"services.painter.cpus": 0.5},
    "image by digest": {"images.pulled.pull": f"acme/server@sha256:{'a' * 64}"},
    "image by tag and digest": {"images.pulled.pull": f"acme/server:latest@sha256:{'a' * 64}"},
    "image of a registry with a port": {"images.pulled.pull": "registry.example:5000/acme/server:1"},
    "a port inside containers may be used twice": {"services.painter.container_port": 9001},
    "subnets side by side": {"networks.outer": {"subnet": "172.21.0.0/16", "egress": True}},
    "the oldest toolkit": {"nvidia_toolkit_version": "1.18.0-1"},
    "nothing enabled": {"enabled_services": []},
    "a driver": {"driver": "580", "driver_packages": {"debian": ["nvidia"], "ubuntu": ["nvidia"]}},
    "no driver, and no packages for one": {"driver": None, "driver_packages": {}},
    "every mark in a URL of apt's": {"apt_repositories.docker.url": "https://a/{os}/{suite}/{arch}/{os}"},
    "a hub without https, of which no token is asked": {"hub_endpoint": "http://hub.example"},
    "a gated model of a hub by https": {"models.vae.gated": True},
    "what is no password in the environment": {"services.api.secrets": ["API_TOKEN", "LOGIN_USER", "GIVEN"]},
    "a model by commit": {
        "models.vae.revision": "0" * 40,
        "models.vae.sha256": {"split/vae/one.safetensors": "0" * 64},
    },
    "a model by tag": {"models.vae.revision": "refs/pr/1"},
}


@pytest.mark.parametrize("changes", RIGHT.values(), ids=RIGHT)
def test_what_is_right_passes(changes: dict[str, Any]) -> None:
    assert sample.problems(changes) == []


def test_enabled_services_come_in_start_order_then_by_name() -> None:
    assert list(sample.catalog().enabled()) == ["api", "painter"]
    assert list(sample.catalog({"services.api.start_order": 50}).enabled()) == ["api", "painter"]
    assert list(sample.catalog({"services.api.start_order": 51}).enabled()) == ["painter", "api"]
    assert list(sample.catalog({"enabled_services": ["painter", "painter"]}).enabled()) == ["painter"]


def test_the_secrets_of_a_container_are_those_of_its_environment_and_of_its_files() -> None:
    both = {"services.painter.secrets": ["API_TOKEN"], "services.painter.secret_files": {"F": "{LOGIN_HASH}"}}
    assert sample.catalog(both).services["painter"].container_secrets() == ["API_TOKEN", "LOGIN_HASH"]


def test_a_service_knows_every_secret_that_it_names() -> None:
    painter = sample.catalog().services["painter"]
    assert painter.secret_names() == {"LOGIN_HASH", "LOGIN_USER"}
    assert sample.catalog().services["api"].secret_names() == {"API_TOKEN"}


@pytest.mark.parametrize(
    ("field", "right", "wrong"),
    [
        ("account.uid", 1000, 999),
        ("account.uid", 60000, 60001),
        ("account.gid", 1000, 999),
        ("account.gid", 60000, 60001),
        ("services.painter.port", 1, 0),
        ("services.painter.port", 65535, 65536),
        ("services.painter.container_port", 1, 0),
        ("services.painter.container_port", 65535, 65536),
        ("services.painter.cpus", 0.1, 0),
        ("services.painter.pids", 1, 0),
        ("services.painter.open_files", 64, 63),
        ("services.painter.account.uid", 1000, 999),
        ("services.painter.account.gid", 60000, 60001),
        ("installs.tree.cpus", 0.1, 0),
        ("installs.tree.pids", 1, 0),
        ("installs.tree.memory", "1m", "0m"),
        ("services.painter.stop_timeout_s", 1, 0),
        ("services.painter.gpu", {"count": 1}, {"count": 0}),
        ("services.painter.gpu", {"count": 1, "vram_mib": 1}, {"count": 1, "vram_mib": 0}),
        (
            "services.painter.gpu",
            {"count": 1, "vram_mib": 9, "vram_least_mib": 9},
            {"count": 1, "vram_mib": 9, "vram_least_mib": 10},
        ),
        ("services.painter.gpu", {"count": 1, "vram_mib": 9}, {"count": 1, "vram_least_mib": 9}),
        ("services.painter.health.interval_s", 1, 0),
        ("services.painter.health.timeout_s", 1, 0),
        ("services.painter.health.retries", 1, 0),
        ("services.painter.health.start_budget_s", 1, 0),
        ("services.painter.memory", "1kb", "0g"),
        ("services.painter.shm", "10m", "10"),
        ("services.painter.auth.locked_paths", ["/system_stats"], []),
        ("services.painter.auth.open_paths", ["/login"], ["login"]),
        ("services.painter.probes.0.path", "/", ""),
        ("services.painter.bind", "::1", "::g"),
        ("services.painter.network", "inner", "Inner"),
        ("services.painter.stack", "a" * 63, "a" * 64),
        ("images.other", {"build": "a" * 63}, {"build": "a" * 64}),
        ("secrets.API_TOKEN.min_chars", 1, 0),
        ("secrets.API_TOKEN.aliases", ["A", "B_2"], ["2B"]),
        ("disk_min_free_gib", 0.0, -0.1),
        ("memory_min_gib", 0.0, -0.1),
        ("verify_window_s", 0.1, 0.0),
        ("data_root", "/a/b_c.d+e@f-g", "/a b"),
        ("data_root", "/data", "/data/../etc"),
        ("data_root", "/data", "data"),
        ("nvidia_toolkit_version", "1.18.0-1", "1.17.8-1"),
        ("nvidia_toolkit_version", "1.18.0-1", "1.18.0"),
        ("models.vae.repo", "Acme/Models", "Models"),
        ("models.vae.repo", "Acme/Models", "Acme/" + "m" * 100),
        ("models.vae.repo", "Acme/Models", "../Models"),
        ("models.vae.sha256", {"split/vae/one.safetensors": "0" * 64}, {"split/vae/one.safetensors": "0" * 63}),
        ("models.vae.sha256", {"split/vae/one.safetensors": "a" * 64}, {"split/vae/one.safetensors": "A" * 64}),
        ("models.vae.links", {"split/vae/one.safetensors": "a/b c.bin"}, {"split/vae/one.safetensors": "a/b/c"}),
        ("models.vae.links", {"split/vae/one.safetensors": "a/b"}, {"split/vae/one.safetensors": "a/.b"}),
        ("models.vae.allow", ["split/"], []),
        ("apt_key_fingerprints.docker", "A" * 40, "A" * 39),
        ("engine_source", "distro", "snap"),
    ],
)
def test_at_its_edge_a_value_passes_and_past_it_not(field: str, right: Any, wrong: Any) -> None:
    assert sample.problems({field: right}) == []
    assert len(sample.problems({field: wrong})) == 1


def test_what_a_host_should_be_is_changed_by_nobody_after_it_was_read() -> None:
    catalog = sample.catalog()
    for entry in (catalog, catalog.account, catalog.services["api"]):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(entry, next(iter(type(entry).model_fields)), None)


def test_what_was_read_is_written_again_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = sample.catalog().model_dump(mode="json")
        assert Catalog.model_validate(made) == sample.catalog()
    assert made["images"]["pulled"]["pull"] and made["images"]["api"]["build"]


def test_a_service_name_is_as_long_as_a_name_may_be() -> None:
    entry = {**sample.data()["services"]["painter"], "port": 1, "account": {"name": "own", "uid": 10009, "gid": 10009}}
    assert sample.problems({f"services.{'a' * 63}": entry}) == []
    assert sample.problems({f"services.{'a' * 64}": entry})


@pytest.mark.parametrize(("length", "shown"), [(58, f"'{'X' * 58}'"), (59, f"'{'X' * 56}...")])
def test_a_long_value_is_shown_in_part(length: int, shown: str) -> None:
    [problem] = sample.problems({"services.painter.network": "X" * length})
    assert f"`{shown}` is not of the right form" in problem.what


@pytest.mark.parametrize(("given", "kept"), [("/data/", "/data"), ("/data//x/./y", "/data/x/y"), ("/", "/")])
def test_a_path_is_kept_as_docker_writes_it(given: str, kept: str) -> None:
    assert sample.catalog({"data_root": given}).data_root == kept


@pytest.mark.parametrize(("given", "kept"), [("0:0:0:0:0:0:0:1", "::1"), ("127.0.0.1", "127.0.0.1")])
def test_an_address_is_kept_in_its_short_form(given: str, kept: str) -> None:
    assert sample.catalog({"services.painter.bind": given}).services["painter"].bind == kept


def test_what_an_entry_may_leave_out() -> None:
    """What is then meant; group_data/all.py tells it."""
    health = {"command": ["true"], "interval_s": 1, "timeout_s": 1, "retries": 1, "start_budget_s": 1}
    service = {"stack": "s", "image": "painter", "template": "t", "port": 1, "container_port": 8188, "memory": "1g"}
    service |= {
        "account": {"name": "bare", "uid": 20001, "gid": 20001},
        "cpus": 1,
        "health": health,
        "network": "inner",
        "probes": [{"name": "n", "path": "/"}],
    }
    made = sample.catalog(
        {
            "services.bare": service,
            "secrets.BARE": {},
            "models.bare": {"repo": "a/b"},
            "images.bare": {"build": "comfyui"},
            "installs.bare": {"version": "v1", "script": "s", "image": "painter"},
        }
    )
    bare = made.services["bare"].model_dump(exclude=set(service))
    assert bare == {
        "bind": "127.0.0.1",
        "pids": 1024,
        "open_files": 65536,
        "memory_least": None,
        "shm": None,
        "tmp": None,
        "gpu": None,
        "all_gpus": False,
        "controls_services": False,
        "init": False,
        "install": None,
        "folders": [],
        "seeds": {},
        "config_files": {},
        "shipped_files": {},
        "options": {},
        "arguments": [],
        "models": [],
        "auth": None,
        "secrets": [],
        "secret_files": {},
        "environment": {},
        "start": "always",
        "start_order": 100,
        "stop_timeout_s": 30,
        "log_size": "10m",
        "log_files": 3,
        "test": {"memory": None, "cpus": None, "shm": None},
    }
    assert made.services["bare"].probes[0].model_dump(exclude={"name", "path"}) == {
        "method": "GET",
        "headers": {},
        "body": None,
        "expect_status": 200,
        "json_has": None,
        "contains": None,
    }
    assert made.services["bare"].health.path is None
    assert made.secrets["BARE"].model_dump() == {
        "generate": None,
        "derive_from": None,
        "min_chars": 1,
        "aliases": [],
        "about": "",
        "renew": "",
    }
    assert made.models["bare"].model_dump(exclude={"repo"}) == {
        "revision": "main",
        "gated": False,
        "allow": ["*"],
        "ignore": [],
        "links": {},
        "sha256": {},
        "licence": "",
    }
    assert made.images["bare"].model_dump() == {"build": "comfyui", "args": {}}
    pulled = made.images["pulled"].model_dump(exclude={"pull"})
    assert (pulled, made.allowed_images) == ({"arguments": {}, "refused": {}, "families": {}}, [])
    assert made.installs["bare"].model_dump(exclude={"version", "script", "image"}) == {
        "environment": {},
        "memory": "8g",
        "cpus": 4.0,
        "pids": 1024,
    }
    assert made.networks["inner"].egress is False
    assert made.apt_repositories["docker"].components == ""
    assert (made.hub_endpoint, made.data_mount) == ("https://huggingface.co", None)


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({}, "/login"),  # the check's own path wants the token
        ({"services.painter.health.path": "/open"}, "/open"),
        ({"services.painter.auth": None}, "/system_stats"),
        ({"services.painter.health.path": ABSENT, "services.painter.health.command": ["true"]}, None),
        (
            {
                "services.painter.auth": None,
                "services.painter.health.path": ABSENT,
                "services.painter.health.command": ["true"],
            },
            None,
        ),
    ],
)
def test_what_the_health_check_asks_needs_no_token(changes: dict[str, Any], path: str | None) -> None:
    assert sample.catalog(changes).services["painter"].health_path == path
