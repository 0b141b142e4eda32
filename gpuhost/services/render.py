"""What is rendered: a stack's compose file and its `.env.docker`. Pure: an entry and its placement in, text out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jinja2

from gpuhost.catalog.checks import variable_names
from gpuhost.catalog.types import Service
from gpuhost.network.address import address
from gpuhost.project import PROJECT
from hostside import envfile
from hostside import labels as label

COMPOSE_TEMPLATE = "docker-compose.yml.j2"


def _yaml(value: Any) -> str:
    """JSON is YAML, but for characters that JSON writes as two surrogates; compose's own `$` is doubled."""
    text = re.sub(r"\\\\|\\u(d[89ab]..)\\u(d[c-f]..)", _as_one, json.dumps(value))
    return text.replace("$", "$$")


def _as_one(found: re.Match[str]) -> str:
    if found[1] is None:  # an escaped backslash, so that what follows it is no escape
        return found[0]
    high, low = int(found[1], 16), int(found[2], 16)
    return f"\\U{0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00):08x}"


def _environment(folder: Path) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # YAML and env files, not HTML; scalars go through `yaml` and `envquote`
    )
    environment.filters["yaml"] = _yaml
    environment.filters["envquote"] = envfile.quote
    return environment


_TEMPLATES = _environment(PROJECT / "templates")

# A health check that needs neither curl nor a proxy; `{}`: port and path.
_GET = (
    "import http.client, sys; c = http.client.HTTPConnection('127.0.0.1', {}, timeout=5); "
    "c.request('GET', '{}'); sys.exit(c.getresponse().status != 200)"
)


@dataclass(frozen=True)
class ServiceContext:
    """One service with all that its templates may use. `paths`: of the host; `account`: `uid:gid`; `egress`: its
    network has a way out; `shares_gpu`: another service computes on a card of its; `vram`: what it takes of each of its
    cards, and what all on one may take together, in MiB; `alone`: no other such service is started beside it;
    `arguments`: its command line; `gpu_access`: how this host gives GPUs to containers."""

    name: str
    entry: Service
    image: str
    gpus: Sequence[str]
    account: str
    paths: Mapping[str, str]
    egress: bool = False
    shares_gpu: bool = False
    vram: tuple[int, int] = (0, 0)
    alone: bool = False
    arguments: Sequence[str] = ()
    gpu_access: Literal["cdi", "runtime"] = "cdi"

    def fragment(self, labels: Mapping[str, str]) -> str:
        """The service's part of the compose file."""
        text = _TEMPLATES.get_template(self.entry.template).render(self._values(labels))
        return "\n".join(line for line in text.splitlines() if line.strip())

    def config_file(self, template: str) -> str:
        """One of its configuration files."""
        return _TEMPLATES.get_template(template).render(self._values({}))

    def _values(self, labels: Mapping[str, str]) -> dict[str, Any]:
        port, memory, cpus = (f"${{{name}}}" for name in variable_names(self.name))
        return {
            "name": self.name,
            "service": self.entry,
            "image": self.image,
            "gpus": self.gpus,
            "gpu_access": self.gpu_access,
            "account": self.account,
            "paths": self.paths,
            "host_address": address(self.entry.bind),
            "egress": self.egress,
            "restart": self._restart,
            "arguments": self.arguments,
            "variables": {"port": port, "memory": memory, "cpus": cpus},
            "health_test": health_test(self.entry),
            "labels": {label.SERVICE: self.name, label.STACK: self.entry.stack, **self._start_labels, **labels},
        }

    @property
    def _start_labels(self) -> dict[str, str]:
        """By which the broker knows beside whom it may be started."""
        takes, shared = self.vram
        needs = {label.VRAM: str(takes), label.VRAM_SHARED: str(shared)} if takes else {}
        return {**needs, **({label.ALONE: "yes"} if self.alone else {})}

    @property
    def _restart(self) -> str:
        if self.entry.start == "on-demand":  # dockerd does not start it either
            return '"no"'
        # dockerd starts all at once at boot, but none of `on-failure`: those that share a card measure what is free on
        # it, and are started one after the other (files/host/start_services.sh).
        return "on-failure" if self.shares_gpu else "unless-stopped"


def health_test(entry: Service) -> list[str]:
    """The health check in compose's form."""
    if entry.health_path is None:
        return ["CMD", *(entry.health.command or [])]
    return ["CMD", "python3", "-c", _GET.format(entry.container_port, entry.health_path)]


def variables(name: str, entry: Service, host_cpus: int) -> dict[str, str]:
    """The variables of a service that are no secret. Docker refuses more cores than the host has: all, then."""
    values = (str(entry.port), entry.memory, f"{min(entry.cpus, host_cpus):g}")
    return dict(zip(variable_names(name), values, strict=True))


def text(template: str, **context: Any) -> str:
    """A template of `templates/`, rendered."""
    return _TEMPLATES.get_template(template).render(**context)


def compose_file(stack: str, networks: Sequence[str], fragments: Sequence[str]) -> str:
    """A stack's whole compose file."""
    return text(COMPOSE_TEMPLATE, stack=stack, networks=networks, fragments=fragments)


def env_file(stack: str, values: Mapping[str, str]) -> str:
    """A stack's `.env.docker`."""
    return text("env.docker.j2", stack=stack, values=dict(sorted(values.items())))
