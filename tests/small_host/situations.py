"""What a small host should be and what somebody does to it, as hypothesis draws both."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from tests.unit import sample

Data = dict[str, Any]
ROOT = "/mnt"  # where the small host has its folders: what this machine has there is out of sight
DATA = f"{ROOT}/data"
SERVICES = ("api", "painter", "helper")
NEW_NAME = "maker"  # another name for helper
PORTS = (9001, 9002, 9003, 9004)
STACKS = ("front", "paint", "back")
ACCOUNTS = {"svc": 10001, "svc-api": 10002, "svc-painter": 10003, "svc-helper": 10004, "mine": 1234}
SECRETS = {"LABEL_HMAC_KEY": "k" * 40, "API_TOKEN": "t" * 40, "LOGIN_USER": "u", "LOGIN_PASSWORD": "p"}
_HASHES = ("$2b$12$" + "a" * 53, "$2b$12$" + "b" * 53)


DATA_SETS = 24  # a host is made for each; the first is the plain one


def wanted(number: int) -> Data:
    """What a host should be: which services, and of each what its entry may say."""
    chance = random.Random(number)
    plain = number == 0

    def of(usual: Any, *others: Any) -> Any:
        return usual if plain or chance.random() < 2 / 3 else chance.choice(others)

    def shuffled(values: Sequence[Any]) -> list[Any]:
        return list(values) if plain else chance.sample(values, len(values))

    ports, orders = shuffled(PORTS), shuffled((10, 20, 30))
    services = {
        name: {
            "port": port,
            "stack": of(stack, *STACKS),
            "network": of("inner", "outer"),
            "memory": of("2g", "3g"),
            "start": of("always", "on-demand"),
            "start_order": order,
            "environment": of({}, {"MORE": "$of it"}),
        }
        for name, port, stack, order in zip(SERVICES, ports, STACKS, orders, strict=False)
    }
    return {
        "services": services,
        "enabled": [name for name in SERVICES if of(True, False)] or [SERVICES[number % 3]],
        "renamed": of(False, True),
        "shipped": of(False, True),
        "secret_file": of("PASSWORD", "KEY"),
        "folders": of(["nodes"], ["nodes", "more"]),
        "egress": of(False, True),
        "hash": of(0, 1),
    }


def catalog_changes(data: Data) -> dict[str, Any]:
    """The sample's catalogue, changed to that."""
    helper = {**sample.data()["services"]["api"], "controls_services": False}
    helper |= {"account": {"name": "svc-helper", "uid": 10004, "gid": 10004}}
    name = NEW_NAME if data["renamed"] else "helper"
    changes: dict[str, Any] = {
        "data_root": DATA,
        "tools_root": f"{ROOT}/tools",
        "state_root": f"{ROOT}/state",
        "networks": {
            "inner": {"subnet": "172.20.1.0/24", "egress": data["egress"]},
            "outer": {"subnet": "172.20.2.0/24"},
        },
        f"services.{name}": helper,
        "services.painter.shipped_files": {"flow.json": "workflows/flux-1-dev.json"} if data["shipped"] else {},
        "services.painter.secret_files": {data["secret_file"]: "{LOGIN_HASH}\n{LOGIN_USER}\n"},
        "services.painter.folders": data["folders"],
        "enabled_services": [_called(each, name) for each in data["enabled"]],
    }
    for service, entry in data["services"].items():
        for key, value in entry.items():
            changes[f"services.{_called(service, name)}.{key}"] = value
    return changes


def _called(service: str, helper: str) -> str:
    return helper if service == "helper" else service


def secrets(data: Data) -> dict[str, str]:
    """The values of the secrets."""
    return {**SECRETS, "LOGIN_HASH": _HASHES[data["hash"]]}


# -- damages: name -> what root does; $S is a service, $T its stack ---------------------------------------------------

_COMPOSE = f'"{DATA}/stacks/$T/docker-compose-$T.yml"'
_ENV = f'"{DATA}/stacks/$T/.env.docker"'
_PASSWORD = f"{DATA}/stacks/*/secrets/painter/*"
_PATHS = f"{DATA}/stacks/*/config/painter/extra_model_paths.yaml"
_SEED = f"{DATA}/services/painter/seeds/session-key.txt"
_BOOT, _SOCKET, _WALL = "gpuhost-services.service", "gpuhost-broker.socket", "gpuhost-firewall.service"
_UNITS = "/etc/systemd/system"
_RULES = f"{ROOT}/tools/firewall.nft"
_UP = f'-f {_COMPOSE} --env-file {_ENV} up -d --no-deps --force-recreate "$S"'
_BY_HAND = f'docker compose -p "$T" {_UP}'
DAMAGES = {
    "a compose file edited": f"echo '# mine' >> {_COMPOSE}",
    "a compose file gone": f"rm {_COMPOSE}",
    "a compose file truncated": f": > {_COMPOSE}",
    "a compose file open to all": f"chmod 666 {_COMPOSE}",
    "a compose file a link": f"mv {_COMPOSE} {ROOT}/kept && ln -s {ROOT}/kept {_COMPOSE}",
    "another compose file": f'cp {_COMPOSE} "{DATA}/stacks/$T/docker-compose-other.yml"',
    "a line of .env.docker gone": f"sed -i 3d {_ENV}",
    "another port in .env.docker": f"sed -i s/900/800/ {_ENV}",
    "another secret in .env.docker": f"sed -i 's/^API_TOKEN=.*/API_TOKEN=x/' {_ENV}",
    ".env.docker gone": f"rm {_ENV}",
    ".env.docker readable": f"chmod 644 {_ENV}",
    ".env.docker somebody's": f"chown mine:mine {_ENV}",
    "a stack's folder gone": f'rm -r "{DATA}/stacks/$T"',
    "a stack's folder open to all": f'chmod 777 "{DATA}/stacks/$T"',
    "a configuration file edited": f"echo mine >> {_PATHS}",
    "a configuration file gone": f"rm {_PATHS}",
    "a configuration file open to all": f"chmod 666 {_PATHS}",
    "a configuration folder gone": f"rm -r {DATA}/stacks/*/config",
    "a secret file edited": f"echo mine > {_PASSWORD}",
    "a secret file gone": f"rm {_PASSWORD}",
    "a secret file root's": f"chown root:root {_PASSWORD}",
    "a secret file readable": f"chmod 644 {_PASSWORD}",
    "a secret file more": f'mkdir -p "{DATA}/stacks/$T/secrets/$S"; echo x > "{DATA}/stacks/$T/secrets/$S/OLD"',
    "the secrets' folder open to all": f"chmod 777 {DATA}/stacks/*/secrets/painter",
    "a seed gone": f"rm {_SEED}",
    "a seed emptied": f": > {_SEED}",
    "a seed readable": f"chmod 644 {_SEED}",
    "a seed root's": f"chown root:root {_SEED}",
    "the record of a seed gone": f"rm {DATA}/stacks/*/config/painter/session-key.txt.made-with",
    "a folder that a service wants gone": f"rm -r {DATA}/services/painter/data/nodes",
    "a service's data somebody's": f"chown -R mine:mine {DATA}/services/painter/data",
    "a service's outputs gone": f'rm -r "{DATA}/outputs/$S"',
    "outputs closed": f"chmod 700 {DATA}/outputs",
    "the data root open to all": f"chmod 777 {DATA}",
    "the stacks' folder somebody's": f"chown mine {DATA}/stacks",
    "models without setgid": f"chmod 00755 {DATA}/models",
    "the hub's cache gone": f"rm -r {DATA}/cache",
    "backups gone": f"rm -rf {ROOT}/state/backups",
    "stopped": 'docker stop "$S"',
    "paused": 'docker pause "$S"',
    "removed": 'docker rm -f "$S"',
    "renamed": 'docker rename "$S" "$S-mine"',
    "less memory": 'docker update --memory 1g "$S"',
    "another restart policy": 'docker update --restart always "$S"',
    "cut off": 'docker network disconnect -f "$(cat "$SMALL_HOST/network-$S")" "$S"',
    "on another network": 'docker network connect mine "$S"',
    "a second container of its label": 'docker create --name "$S-too" --label "gpuhost.service=$S" mine:1',
    "one of a service that is gone": "docker create --name old --label gpuhost.service=old mine:1",
    "made anew by hand in another project": f'docker rm -f "$S"; docker compose -p mine {_UP}',
    "half made by compose": f'echo 1 > "$SMALL_HOST/dies"; {_BY_HAND}; rm "$SMALL_HOST/dies"',
    "half replaced by compose": f'echo 2 > "$SMALL_HOST/dies"; {_BY_HAND}; rm "$SMALL_HOST/dies"',
    "made and not started": f'echo 3 > "$SMALL_HOST/dies"; {_BY_HAND}; rm "$SMALL_HOST/dies"',
    "made anew by hand": _BY_HAND,
    "the boot unit edited": f"echo '# mine' >> {_UNITS}/{_BOOT}",
    "the boot unit edited and read": f"echo '# mine' >> {_UNITS}/{_BOOT}; systemctl daemon-reload",
    "the boot unit edited, read, and edited back": f"cd {_UNITS}; cp {_BOOT} {ROOT}/kept; echo '# mine' >> {_BOOT}; "
    f"systemctl daemon-reload; cat {ROOT}/kept > {_BOOT}; rm {ROOT}/kept",
    "the boot unit gone": f"rm {_UNITS}/{_BOOT}; systemctl daemon-reload",
    "the boot unit disabled": f"systemctl disable {_BOOT}",
    "the boot unit stopped": f"systemctl stop {_BOOT}",
    "one of the boot unit's links gone": f"rm {_UNITS}/docker.service.wants/{_BOOT}",
    "the broker's socket edited": f"echo >> {_UNITS}/{_SOCKET}",
    "the broker's socket stopped": f"systemctl stop {_SOCKET}",
    "the broker's socket disabled": f"systemctl disable {_SOCKET}",
    "the firewall's rules edited": f"echo '# mine' >> {_RULES}",
    "the firewall's rules edited and loaded": f"echo '# mine' >> {_RULES}; nft -f {_RULES}",
    "the firewall's rules gone": f"rm {_RULES}",
    "the firewall's rules not loaded": "nft delete table inet gpuhost",
    "a rule gone": "nft flush table inet gpuhost",
    "the firewall not started at boot": f"systemctl disable {_WALL}",
    "the firewall's unit edited": f"echo '# mine' >> {_UNITS}/{_WALL}",
    "the firewall stopped": f"systemctl stop {_WALL}",
    "a network gone": 'n="$(cat "$SMALL_HOST/network-$S")"; docker stop "$S"; docker network rm "$n"',
}

_data = st.integers(0, DATA_SETS - 1)
_damage = st.tuples(st.sampled_from(sorted(DAMAGES)), st.sampled_from(SERVICES))
situations = st.fixed_dictionaries(
    {
        "before": _data,
        "after": _data,
        "moves": st.booleans(),  # else what it should be stays the same
        "damages": st.lists(
            st.tuples(st.sampled_from(sorted(DAMAGES)), st.sampled_from(SERVICES)), min_size=1, max_size=6
        ),
        "dies": st.none() | st.integers(1, 14),  # which command of an apply is its last
        "in_compose": st.none() | st.integers(0, 3),  # at which step compose dies, when that is the command
    }
)
