"""The stacks that we ship, with every service enabled: what a compose file takes from its `.env.docker`, and back."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from pyinfra.api.state import State

from gpuhost.catalog.inventory import Request, read
from gpuhost.catalog.types import Service
from gpuhost.engine.containers import Container, parse, size_bytes
from gpuhost.host.facts import Gpu
from gpuhost.project import PROJECT
from gpuhost.run.host_run import HostRun
from gpuhost.secrets.store import SecretStore
from gpuhost.services.binds import engine_sockets
from gpuhost.services.compose import changed_settings
from gpuhost.services.placement import place
from gpuhost.services.stacks import Stacks
from tests.unit import sample
from tests.unit.engine.test_containers import inspected


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pyinfra_state: State) -> HostRun:
    """Every service of group_data/all.py on one host, with a GPU for each that wants one, and a value a secret."""
    monkeypatch.chdir(PROJECT)
    [shipped] = read(Request("inventory.py")).catalogs.values()
    catalog = shipped.model_copy(update={"enabled_services": list(shipped.services)})
    monkeypatch.chdir(tmp_path)
    count = max(service.gpu_count for service in catalog.services.values())
    reading = sample.reading(
        gpus=[Gpu(f"GPU-{number}", "NVIDIA H200", 143771, 143156, "580") for number in range(count)]
    )
    values = {name: f"value of {name}" for name in catalog.secrets}
    run = HostRun(catalog, reading, place(catalog.enabled(), reading.gpus), SecretStore(catalog, "host", values))
    assert set(run.services) == set(catalog.services) and run.stacks
    return run


@pytest.fixture
def stacks(run: HostRun) -> Stacks:
    return Stacks(run)


def names_of(env: str) -> list[str]:
    return [line.partition("=")[0] for line in env.splitlines() if line and not line.startswith("#")]


def used_by(compose: str) -> set[str]:
    """The variables that compose puts into the file; `$$` is a dollar."""
    taken = re.findall(r"\$(\$|\{[^}]*\}|\w+)", compose)
    assert all(re.fullmatch(r"\$|\{[A-Z][A-Z0-9_]*\}", each) for each in taken), "another form than ${NAME}"
    return {each.strip("{}") for each in taken} - {"$"}


def test_every_variable_is_used_and_every_used_one_is_there(run: HostRun, stacks: Stacks) -> None:
    for stack in run.stacks:
        names = names_of(stacks.env(stack))
        assert len(names) == len(set(names)), stack
        assert set(names) == used_by(stacks.compose(stack)), stack


def test_a_secret_is_in_the_env_file_of_its_services_stacks_and_in_no_other(run: HostRun, stacks: Stacks) -> None:
    for stack, services in run.stacks.items():
        named = {name for service in services for name in run.services[service].secrets}
        text = stacks.env(stack)
        assert named == {name for name in names_of(text) if name in run.catalog.secrets}, stack
        held = {name for name in run.catalog.secrets if f'value of {name}"' in text}
        assert held == named, stack


def test_a_container_gets_the_secrets_that_its_entry_names_and_no_other(run: HostRun, stacks: Stacks) -> None:
    for stack in run.stacks:
        services = yaml.safe_load(stacks.compose(stack))["services"]
        assert set(services) == set(run.stacks[stack])
        for name, made in services.items():
            taken = used_by(yaml.safe_dump(made)) & set(run.catalog.secrets)
            assert taken == set(run.services[name].secrets), name


def test_secrets_stand_in_files_for_the_owner_alone(run: HostRun, stacks: Stacks) -> None:
    files = {file.path: file for stack in run.stacks for file in stacks.files(stack)}
    holding = {path for path, file in files.items() if "value of " in file.content()}
    assert holding and {files[path].mode for path in holding} == {"600"}
    assert all(files[path].secret for path in holding)
    wanted = {
        f"{run.paths.secret_files(name, entry.stack)}/{file}"
        for name, entry in run.services.items()
        for file in entry.secret_files
    }
    assert wanted <= holding
    env = {
        run.paths.env_file(stack)
        for stack, names in run.stacks.items()
        if any(run.services[name].secrets for name in names)
    }
    assert holding == wanted | env


def test_no_container_is_given_the_socket_of_a_container_engine(stacks: Stacks) -> None:
    assert [mounted for spec in stacks.specs.values() for mounted in spec["volumes"].values()]
    assert list(engine_sockets(stacks.specs)) == []


def test_comfyui_services_share_what_they_only_read_and_no_service_writes_what_another_one_has(stacks: Stacks) -> None:
    volumes = {name: spec["volumes"] for name, spec in stacks.specs.items()}
    trees = {name: source for name, mounts in volumes.items() if (source := mounts.get("/app"))}
    assert trees.keys() == {"comfyui-qwen", "flux-1-dev", "comfyui-workflows"}
    [tree] = {*trees.values()}
    assert tree.endswith(":ro")
    models = {volumes[name]["/models"] for name in trees}
    assert len(models) == 1 and all(source.endswith(":ro") for source in models)
    written = [source for mounts in volumes.values() for source in mounts.values() if not source.endswith(":ro")]
    assert len(set(written)) == len(written) >= 2 * len(trees)  # data and outputs
    read = {source.removesuffix(":ro") for mounts in volumes.values() for source in mounts.values()} - {*written}
    assert not [path for path in read for own in written if f"{path}/".startswith(f"{own}/")]


# -- what Docker says of them ------------------------------------------------------------------------------------------

# Of each what its entry asks for; the rest of what Docker says is not looked at here.
ASKED = ("restart", "memory", "swap", "cpus", "pids", "shm", "init", "namespaces", "logging", "networks", "ports")


def inspect(entry: Service, cpus: int, restart: str) -> dict[str, Any]:
    """What Docker says of a service's container, by the service's entry: in bytes, billionths and nanoseconds."""
    memory, second = size_bytes(entry.memory), 10**9
    host = {
        "RestartPolicy": {"Name": restart, "MaximumRetryCount": 0},
        "Memory": memory,
        "MemorySwap": memory,
        "NanoCpus": int(min(entry.cpus, cpus) * second),
        "PidsLimit": entry.pids,
        "ShmSize": size_bytes(entry.shm or "64m"),
        "Init": entry.init or None,
        "IpcMode": "private",
        "NetworkMode": entry.network,
        "LogConfig": {
            "Type": "json-file",
            "Config": {"max-size": entry.log_size, "max-file": str(entry.log_files)},
        },
        "PortBindings": {
            f"{entry.container_port}/tcp": [{"HostIp": entry.bind, "HostPort": str(entry.port)}],
        },
    }
    health = {
        "Interval": entry.health.interval_s * second,
        "Timeout": entry.health.timeout_s * second,
        "Retries": entry.health.retries,
        "StartPeriod": entry.health.start_budget_s * second,
        "StartInterval": second,
    }
    return inspected(host, health=health, networks=[entry.network, None])


def container(spec: dict[str, Any], seen: dict[str, Any]) -> Container:
    """The container of this spec; what its entry asks for is as Docker says."""
    read_back = parse(json.dumps(seen))
    found = {name: read_back.settings[name] for name in ASKED}
    health = {**read_back.settings["healthcheck"], "test": spec["healthcheck"]["test"]}
    bare = parse(json.dumps({**seen, "host": {}, "mounts": None})).settings
    return replace(read_back, settings={**bare, **spec, **found, "healthcheck": health})


# Where it stands, what somebody made of it -> the fields that differ.
OTHERWISE: list[tuple[str, Any, list[str]]] = [
    ("RestartPolicy", {"Name": "always"}, ["restart"]),
    ("Memory", 2**29, ["memory", "swap"]),  # what is between the limits is swap
    ("MemorySwap", 2**50, ["swap"]),
    ("NanoCpus", 10**8, ["cpus"]),
    ("PidsLimit", 7, ["pids"]),
    ("ShmSize", 2**20, ["shm"]),
    ("IpcMode", "host", ["namespaces"]),
    ("LogConfig", {"Type": "json-file", "Config": {"max-size": "1k", "max-file": "3"}}, ["logging.options.max-size"]),
    ("LogConfig", {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "9"}}, ["logging.options.max-file"]),
    ("PortBindings", {"9/tcp": [{"HostIp": "", "HostPort": "9"}]}, ["ports"]),
    ("networks", ["mine", None], ["networks"]),
    ("health.Interval", 10**9, ["healthcheck.interval"]),
    ("health.Timeout", 10**9, ["healthcheck.timeout"]),
    ("health.Retries", 99, ["healthcheck.retries"]),
    ("health.StartPeriod", 10**9, ["healthcheck.start_period"]),
    ("health.StartInterval", 2 * 10**9, ["healthcheck.start_interval"]),
]


def test_what_an_entry_asks_for_is_what_docker_says_and_anything_else_is_seen(run: HostRun, stacks: Stacks) -> None:
    for name, entry in run.services.items():
        spec = stacks.specs[name]
        seen = inspect(entry, run.reading.cpus, "no" if entry.start == "on-demand" else "unless-stopped")
        assert changed_settings(spec, container(spec, seen)) == (), name
        for where, other, fields in OTHERWISE:
            part, _, key = where.rpartition(".")
            part = part or ("" if where in seen else "host")
            changed = {**seen, part: {**seen[part], key: other}} if part else {**seen, where: other}
            # Docker's own size of /dev/shm is nobody's affair.
            expected = [] if where == "ShmSize" and entry.shm is None else fields
            found = [each.field for each in changed_settings(spec, container(spec, changed))]
            assert found == expected, (name, where)


def test_labels_say_service_stack_and_models(run: HostRun, stacks: Stacks) -> None:
    for stack, names in run.stacks.items():
        services = yaml.safe_load(stacks.compose(stack))["services"]
        for name in names:
            labels, entry = services[name]["labels"], run.services[name]
            told = (
                labels["gpuhost.service"],
                labels["gpuhost.stack"],
                labels["gpuhost.models"],
                labels["gpuhost.start"],
            )
            assert told == (name, stack, ",".join(entry.models), entry.start)


def test_with_the_test_profile_all_but_who_starts_them_run_one_at_a_time(run: HostRun, stacks: Stacks) -> None:
    def alone(run: HostRun) -> set[str]:
        made = Stacks(run)
        found = (yaml.safe_load(made.compose(stack))["services"].items() for stack in run.stacks)
        return {name for each in found for name, entry in each if entry["labels"].get("gpuhost.alone") == "yes"}

    assert alone(run) == set()
    tests = replace(run, catalog=run.catalog.model_copy(update={"profile": "test"}))
    assert alone(tests) == set(run.services) - {"orchestrator"}
