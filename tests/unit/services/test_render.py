"""What is rendered, read back as its readers read it, and what its hash tells."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gpuhost.catalog.checks import variable_names
from gpuhost.plan.spec import differences
from gpuhost.run.host_run import HostRun
from gpuhost.secrets.store import NotYet
from gpuhost.services.compose import of_compose
from gpuhost.services.render import _environment, _yaml, env_file, text, variables
from gpuhost.services.rules import Desired
from gpuhost.services.stacks import Stacks, broker_group
from hostside import placeholders
from hostside.envfile import quote as env_quote
from tests.unit import sample
from tests.unit.sample import GPU, SMALL_GPU

SECRETS = {
    "LABEL_HMAC_KEY": "key-of-the-stamps",
    "API_TOKEN": 'a"$\\b',
    "LOGIN_HASH": "$2b$12$hash",
    "LOGIN_USER": "someone",
}


def rendered(changes: dict[str, Any] | None = None, secrets: dict[str, str] | None = None, **over: Any) -> Stacks:
    return Stacks(sample.run(changes, SECRETS if secrets is None else secrets, **over))


def service(name: str, changes: dict[str, Any] | None = None, **over: Any) -> dict[str, Any]:
    stacks = rendered(changes, **over)
    document = yaml.safe_load(stacks.compose({"api": "front", "painter": "paint"}[name]))
    found: dict[str, Any] = document["services"][name]
    return found


@pytest.mark.parametrize(
    ("value", "quoted"),
    [
        ("", '""'),
        ("plain", '"plain"'),
        ("two words # no comment", '"two words # no comment"'),
        ("it's", '"it\'s"'),
        ('say "hi"', '"say \\"hi\\""'),
        ("$HOME ${X:-y} $$", '"\\$HOME \\${X:-y} \\$\\$"'),
        ("back\\slash\\n", '"back\\\\slash\\\\n"'),
        ("two\nlines\r\n", '"two\\nlines\\r\\n"'),
        ("ü\t=", '"ü\t="'),
    ],
)
def test_values_of_an_env_file(value: str, quoted: str) -> None:
    assert env_quote(value) == quoted
    assert "\n" not in quoted


def test_an_env_file_is_sorted() -> None:
    assert env_file("front", {"B": "2", "A": "$1"}).splitlines()[1:] == ['A="\\$1"', 'B="2"']


@pytest.mark.parametrize(("name", "expected"), [("api", "API"), ("my-service", "MY_SERVICE"), ("sd3.5", "SD3_5")])
def test_the_variables_of_a_service(name: str, expected: str) -> None:
    assert variable_names(name) == (f"{expected}_PORT", f"{expected}_MEMORY_LIMIT", f"{expected}_CPU_LIMIT")


def test_more_cores_than_the_host_has_are_all() -> None:
    entry = sample.catalog().services["painter"]
    assert variables("painter", entry, 8)["PAINTER_CPU_LIMIT"] == "4"
    assert variables("painter", entry, 2)["PAINTER_CPU_LIMIT"] == "2"
    half = sample.catalog({"services.painter.cpus": 0.5}).services["painter"]
    assert variables("painter", half, 2)["PAINTER_CPU_LIMIT"] == "0.5"


def test_a_secret_files_text() -> None:
    assert placeholders.filled("{A}\n{B}\n{C}", {"A": "{B}", "B": "2"}) == "{B}\n2\n{C}"


def test_what_every_service_has() -> None:
    api = service("api")
    assert api["container_name"] == "api"
    assert api["ports"] == ["127.0.0.1:${API_PORT}:8193"]
    assert api["networks"] == ["inner"]
    assert (api["mem_limit"], api["cpus"]) == ("${API_MEMORY_LIMIT}", "${API_CPU_LIMIT}")
    assert (api["memswap_limit"], api["pids_limit"]) == (api["mem_limit"], 1024)
    assert api["ulimits"] == {"core": 0, "nofile": 65536}
    assert api["restart"] == "unless-stopped"
    assert api["security_opt"] == ["no-new-privileges:true"]
    assert api["user"] == "10002:10002"
    assert service("painter")["user"] == "10003:10003"
    health = [api["healthcheck"][key] for key in ("test", "interval", "timeout", "retries", "start_period")]
    assert health == [["CMD", "true"], "10s", "5s", 3, "60s"]
    assert api["labels"]["gpuhost.service"] == "api"


def test_dns_is_for_a_network_with_a_way_out() -> None:
    """dockerd would ask a resolver on the host's loopback for a container that has no way out itself."""
    assert service("api")["dns"] == ["127.0.0.1"]
    assert "dns" not in service("api", {"networks.inner.egress": True})


def test_a_tmp_has_a_size() -> None:
    assert "tmpfs" not in service("painter")
    assert service("painter", {"services.painter.tmp": "1g"})["tmpfs"] == ["/tmp:mode=1777,size=1g"]


def test_limits_are_in_the_spec_in_the_words_of_the_data() -> None:
    spec = rendered().specs["painter"]
    found = (spec["memory"], spec["swap"], spec["pids"], spec["ulimits"], spec["namespaces"])
    assert found == ("28g", "0", 1024, {"core": [0, 0], "nofile": [65536, 65536]}, [])


def test_a_stack_file_holds_its_own_services_and_networks() -> None:
    together = {
        "services.painter.stack": "front",
        "networks.outer": {"subnet": "172.21.0.0/16"},
        "services.api.network": "outer",
    }
    document = yaml.safe_load(rendered(together).compose("front"))
    assert (document["name"], list(document["services"])) == ("front", ["api", "painter"])
    assert document["networks"] == {"inner": {"external": True}, "outer": {"external": True}}


def test_gpus_are_named_by_uuid() -> None:
    def devices(name: str, **over: Any) -> Any:
        return service(name, **over).get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices")

    both = [SMALL_GPU, GPU]
    one = {"driver": "cdi", "device_ids": [f"nvidia.com/gpu={GPU.uuid}"], "capabilities": ["gpu"]}
    assert devices("painter", gpus=both) == [one]
    [all_of_them] = devices("api", gpus=both)
    assert all_of_them["device_ids"] == [f"nvidia.com/gpu={gpu.uuid}" for gpu in (GPU, SMALL_GPU)]
    assert devices("api", gpus=[]) is None
    [on_wsl2] = devices("painter", gpus=both, wsl=True)
    assert on_wsl2["device_ids"] == ["nvidia.com/gpu=all"]


def test_gpus_by_the_nvidia_runtime() -> None:
    found = service("painter", {"gpu_access": "runtime"}, gpus=[GPU])
    [device] = found["deploy"]["resources"]["reservations"]["devices"]
    assert found["runtime"] == "nvidia"
    assert device == {"driver": "nvidia", "device_ids": [GPU.uuid], "capabilities": ["gpu"]}
    assert "runtime" not in service("api", {"gpu_access": "runtime"}, gpus=[])
    # The way is in the spec, so that a container that has its GPU the other way is made anew.
    other = rendered({"gpu_access": "runtime"}, gpus=[GPU]).specs["painter"]
    assert {**other, "runtime": None} == {**rendered(gpus=[GPU]).specs["painter"], "runtime": None}
    assert other["runtime"] == "nvidia" and other["gpus"] == [GPU.uuid]


def test_without_a_gpu_it_is_told_to_use_the_processor() -> None:
    assert "--cpu" not in service("painter")["command"]
    assert "--cpu" in service("painter", {"services.painter.gpu": None})["command"]


def test_installs_models_and_secrets_are_mounted_read_only() -> None:
    volumes = {volume["target"]: volume for volume in service("painter")["volumes"]}
    install = sample.run().install_path("tree")
    assert volumes["/app"]["source"] == install
    for target in ("/app", "/models", "/cache/huggingface", "/config/extra_model_paths.yaml", "/app/ComfyUI/login"):
        assert volumes[target].get("read_only"), target
    assert volumes["/data"]["source"] == "/data/services/painter/data" and not volumes["/data"].get("read_only")
    # A folder that is not there is a fault to see, not one for Docker to make as root.
    assert all(volume["bind"] == {"create_host_path": False} for volume in volumes.values())


def test_only_what_controls_services_is_given_the_brokers_socket() -> None:
    """Its folder, read-only: a socket that is made anew is seen there, and connecting writes nothing."""
    [volume] = service("api")["volumes"]
    assert (volume["source"], volume["target"], volume["read_only"]) == (*("/run/gpuhost/broker",) * 2, True)
    assert "volumes" not in service("api", {"services.api.controls_services": False})
    assert "group_add" not in service("api")
    assert (broker_group(sample.run()), broker_group(sample.run({"services.api.account.gid": 10007}))) == (
        "10002",
        "10007",
    )
    assert broker_group(sample.run({"services.api.controls_services": False})) == "root"


def test_environment_is_escaped_for_compose() -> None:
    changes = {"services.painter.environment": {"PRICE": 'US$5 "net": #1'}}
    assert service("painter", changes)["environment"]["PRICE"] == 'US$$5 "net": #1'


def test_a_variable_of_the_template_can_be_set_by_the_entry() -> None:
    made = rendered({"services.painter.environment": {"HF_HUB_OFFLINE": "0"}})
    assert made.compose("paint").count("HF_HUB_OFFLINE:") == 1
    assert (
        service("painter", {"services.painter.environment": {"HF_HUB_OFFLINE": "0"}})["environment"]["HF_HUB_OFFLINE"]
        == "0"
    )


@given(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\\\\\"'$🦊\U0010ffff\u2028\x85")))
def test_any_text_is_yaml(text: str) -> None:
    scalar = _yaml(text)
    assert yaml.safe_load(f"a: {scalar}")["a"].replace("$$", "$") == text
    assert not re.search(r"(?<!\\\\)(\\\\\\\\)*\\\\u[dD][89abAB]", scalar)  # compose refuses half a character
    assert scalar.isascii()


def test_no_secret_value_is_in_a_compose_file_and_each_env_file_has_its_own_services_secrets_alone() -> None:
    stacks = rendered()
    for stack in ("front", "paint"):
        assert not [value for value in SECRETS.values() if value in stacks.compose(stack)]
    assert "${API_TOKEN}" in service("api")["environment"].values()
    front, paint = stacks.env("front"), stacks.env("paint")
    assert 'API_TOKEN="a\\"\\$\\\\b"' in front.splitlines()
    assert "LOGIN" not in front and "TOKEN" not in paint and "LOGIN" not in paint


def test_the_files_of_a_stack() -> None:
    files = {file.path: file for file in rendered().files("paint")}
    secret = files["/data/stacks/paint/secrets/painter/PASSWORD"]
    assert (secret.mode, secret.user, secret.group) == ("600", "svc-painter", "svc-painter")
    assert secret.content() == "$2b$12$hash\nsomeone\n"
    assert files["/data/stacks/paint/.env.docker"].mode == "600"
    assert {path.rpartition("/")[2] for path, file in files.items() if file.secret} == {".env.docker", "PASSWORD"}
    assert {path: file.mode for path, file in files.items() if file.mode != "600"} == {
        "/data/stacks/paint/docker-compose-paint.yml": "644",
        "/data/stacks/paint/config/painter/extra_model_paths.yaml": "644",
    }


def test_before_the_secrets_are_generated_only_what_holds_them_is_unknown() -> None:
    stacks = rendered(secrets={})
    assert stacks.specs["api"] == {**rendered().specs["api"], "secrets": {"API_TOKEN": None}}
    for unknown in (partial(stacks.compose, "front"), partial(stacks.env, "front")):
        with pytest.raises(NotYet):
            unknown()


# --- arguments, health, folders ---------------------------------------------------------------------------------------


def test_arguments_come_behind_the_templates_own() -> None:
    command = service("painter", {"services.painter.arguments": ["--fast", "it's $5"]})["command"]
    assert command[-2:] == ["--fast", "it's $$5"]


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({}, "/login"),
        ({"services.painter.auth": None}, "/system_stats"),
        ({"services.painter.health.path": "/x"}, "/x"),
    ],
)
def test_the_health_check_asks_what_needs_no_token(changes: dict[str, Any], path: str) -> None:
    kind, program, _, text = service("painter", changes)["healthcheck"]["test"]
    assert (kind, program) == ("CMD", "python3")
    assert f"c.request('GET', '{path}')" in text and "8188" in text


def test_a_service_without_auth_has_no_login() -> None:
    stacks = rendered({"services.painter.auth": None})
    targets = {volume["target"] for volume in service("painter", {"services.painter.auth": None})["volumes"]}
    assert not {target for target in targets if "login" in target or "secret-key" in target}
    [paths] = [file.content() for file in stacks.files("paint") if file.path.endswith("extra_model_paths.yaml")]
    assert "auth" not in str(yaml.safe_load(paths)).split()


def test_what_starts_on_demand_is_not_started_by_docker() -> None:
    assert service("painter", {"services.painter.start": "on-demand"})["restart"] == "no"


def test_an_ipv6_address_stands_in_brackets() -> None:
    assert service("api", {"services.api.bind": "::1"})["ports"] == ["[::1]:${API_PORT}:8193"]


def test_the_broker_knows_what_a_service_takes_of_its_cards() -> None:
    measured = {"services.painter.gpu": {"count": 1, "vram_mib": 20000}}
    labels = service("painter", measured)["labels"]
    assert (labels["gpuhost.vram_mib"], labels["gpuhost.vram_shared_mib"]) == ("20000", str(int(GPU.vram_mib * 0.9)))
    assert not [name for name in service("painter")["labels"] if "vram" in name]
    assert rendered(measured).desired()["painter"].takes_mib == 20000
    assert service("painter", {"profile": "test"})["labels"]["gpuhost.alone"] == "yes"
    assert "gpuhost.alone" not in labels and "gpuhost.alone" not in service("api", {"profile": "test"})["labels"]


def test_those_that_share_a_card_are_not_all_started_at_once_at_boot() -> None:
    own = {"name": "svc-twin", "uid": 10009, "gid": 10009}
    twin = {**sample.data()["services"]["painter"], "port": 9010, "account": own}
    both = {"services.twin": twin, "enabled_services": ["painter", "twin"]}
    assert (service("painter", both)["restart"], service("painter")["restart"]) == ("on-failure", "unless-stopped")


def test_one_that_finds_no_room_beside_the_others_is_known_as_such() -> None:
    large = {"services.painter.gpu": {"count": 1, "vram_mib": 140000}}
    own = {"name": "svc-twin", "uid": 10009, "gid": 10009}
    twin = {**sample.data(large)["services"]["painter"], "port": 9010, "account": own, "start": "on-demand"}
    found = rendered({**large, "services.twin": twin, "enabled_services": ["painter", "twin"]}).desired()
    assert {name: each.crowded for name, each in found.items()} == {"painter": False, "twin": True}


def test_a_template_is_rendered_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "a.j2").write_text("  {% if a %}\n<{{ a }}>\n  {% endif %}\nend\n")
    (tmp_path / "b.j2").write_text("{{ nothing }}")
    made = _environment(tmp_path)
    assert made.get_template("a.j2").render(a="&") == "<&>\nend\n"
    with pytest.raises(jinja2.UndefinedError):
        made.get_template("b.j2").render()


def test_what_should_run_of_each_service() -> None:
    found = rendered({"services.painter.start": "on-demand"}).desired()
    stacks = rendered({"services.painter.start": "on-demand"})
    assert {name: replace(each, variables={}) for name, each in found.items()} == {
        "api": Desired("front", stacks.specs["api"], frozenset(), True, frozenset({"API_TOKEN"}), {}, "always"),
        "painter": Desired(
            "paint", stacks.specs["painter"], frozenset({GPU.uuid}), False, frozenset(), {}, "on-demand"
        ),
    }
    assert list(found) == ["api", "painter"]
    assert {type(each.gpus) for each in found.values()} == {frozenset}  # rules take them from each other


def test_a_variable_that_is_no_secret_is_known_by_its_fingerprint() -> None:
    """As the host's program makes it of what a container holds; the secret itself is compared by its own."""
    stacks = rendered({"services.api.environment": {"MINE": "a $x", "PRICE": "5 ${X}"}})
    store = stacks._run.secrets
    assert stacks.desired()["api"].variables == {
        "CUDA_DEVICE_ORDER": store.fingerprint("CUDA_DEVICE_ORDER", "PCI_BUS_ID"),
        "MINE": store.fingerprint("MINE", "a $x"),
    }  # what looks like another name is not compared
    assert rendered(secrets={}).desired()["api"].variables == {}


# --- The spec ---------------------------------------------------------------------------------------------------------


def test_the_spec_is_what_runs_and_no_more() -> None:
    spec = rendered().specs["painter"]
    assert (spec["memory"], spec["shm"], spec["cpus"]) == ("28g", "16g", "4")
    assert spec["ports"] == ["127.0.0.1:9002:8188"]
    assert spec["gpus"] == [GPU.uuid] and "deploy" not in spec
    assert spec["volumes"]["/data"] == "/data/services/painter/data"
    assert spec["volumes"]["/models"] == "/data/models:ro"
    assert set(spec["secrets"]) == {"LOGIN_HASH", "LOGIN_USER"}
    assert all(len(fingerprint) == 64 for fingerprint in spec["secrets"].values())
    assert not [value for value in SECRETS.values() if value in json.dumps(spec)]


def test_the_label_is_the_spec_itself() -> None:
    stacks = rendered()
    label = service("painter")["labels"]["gpuhost.spec"].replace("$$", "$")
    assert json.loads(label) == stacks.specs["painter"]


SPEC_CHANGES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "port": ({"services.painter.port": 9003}, {"ports"}),
    "memory": ({"services.painter.memory": "30g"}, {"memory"}),
    "environment": ({"services.painter.environment": {"A": "1"}}, {"environment.A"}),
    "health check": ({"services.painter.health.interval_s": 11}, {"healthcheck.interval"}),
    "image arguments": ({"images.api.args": {"BASE_IMAGE": "python:3.13"}}, {"image"}),
    "install": ({"installs.tree.environment.SOURCE_REF": "d" * 40}, {"volumes./app"}),
    "secret file's form": (
        {"services.painter.secret_files.PASSWORD": "{LOGIN_HASH}\n"},
        {"secret_files.PASSWORD", "secrets.LOGIN_USER"},
    ),
    "a way out of its network": ({"networks.inner.egress": True}, {"dns"}),
    "processes": ({"services.painter.pids": 99}, {"pids"}),
    "open files": ({"services.painter.open_files": 99}, {"ulimits.nofile"}),
    "a larger /tmp": ({"services.painter.tmp": "2g"}, {"tmpfs"}),
    "account": ({"services.painter.account.uid": 10009}, {"user"}),
}


@pytest.mark.parametrize(("changes", "fields"), SPEC_CHANGES.values(), ids=SPEC_CHANGES)
def test_what_makes_a_service_is_in_its_spec_by_name(changes: dict[str, Any], fields: set[str]) -> None:
    name = "api" if "images.api.args" in changes else "painter"
    diff = differences(rendered().specs[name], rendered(changes).specs[name])
    assert {difference.field for difference in diff} == fields


def test_another_gpu_is_another_spec() -> None:
    assert rendered(gpus=[GPU]).specs["painter"] != rendered(gpus=[SMALL_GPU]).specs["painter"]


def test_a_template_that_differs_in_comments_and_order_gives_the_same_spec() -> None:
    one = '  a:\n    image: "x"  # why\n    mem_limit: 1024m\n    cap_drop: [B, A]\n'
    other = '  # a service\n  a:\n    mem_limit: "1g"\n    cap_drop: [A, B]\n    image: x\n'
    assert of_compose(one, {}, {}, {}, {}) == of_compose(other, {}, {}, {}, {})


NO_SPEC_CHANGES: dict[str, dict[str, Any]] = {
    "probes": {"services.painter.probes.0.path": "/other"},
    "another service": {"services.api.port": 9009},
    "a network's subnet": {"networks.inner.subnet": "172.22.0.0/16"},
    "the account that owns models": {"account.uid": 10009},
    "start order": {"services.painter.start_order": 1},
    "models, which it reads from a folder": {"services.painter.models": []},
}


@pytest.mark.parametrize("changes", NO_SPEC_CHANGES.values(), ids=NO_SPEC_CHANGES)
def test_what_does_not_is_not(changes: dict[str, Any]) -> None:
    assert rendered().specs["painter"] == rendered(changes).specs["painter"]


def test_the_boot_unit_knows_in_which_order_services_start() -> None:
    """It, and not their containers: another order makes none of them anew."""
    for changes, order in (({}, "api painter"), ({"services.painter.start_order": 1}, "painter api")):
        services = list(sample.run(changes).services)
        unit = text("gpuhost-services.service.j2", programs="/opt/p", services=services, check="/opt/check")
        assert f'ExecStart=/bin/sh /opt/p/start_services.sh "{order}" /opt/check\n' in unit


def test_a_changed_secret_changes_the_spec_of_its_services_alone() -> None:
    other = rendered(secrets={**SECRETS, "API_TOKEN": "another"})
    [difference] = differences(rendered().specs["api"], other.specs["api"])
    assert difference.field == "secrets.API_TOKEN"
    assert other.specs["painter"] == rendered().specs["painter"]


def test_two_services_of_one_image_have_files_of_their_own() -> None:
    def run(changes: dict[str, Any]) -> HostRun:
        return sample.run(changes, SECRETS)

    own = {"name": "svc-twin", "uid": 10009, "gid": 10009}
    twin = {**sample.data()["services"]["painter"], "port": 9010, "account": own}
    changes = {"services.twin": twin, "enabled_services": ["painter", "twin"]}
    stacks = Stacks(run(changes))
    assert stacks.specs["painter"] != stacks.specs["twin"]
    assert [path for path in (file.path for file in stacks.files("paint")) if "extra" in path] == [
        "/data/stacks/paint/config/painter/extra_model_paths.yaml",
        "/data/stacks/paint/config/twin/extra_model_paths.yaml",
    ]
