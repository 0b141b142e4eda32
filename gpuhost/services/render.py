"""What is rendered: a stack's compose file and its `.env.docker`. Pure: an entry and its placement in, text out.

Two hashes stamp a service. `gpuhost.spec`: everything that is no secret. `gpuhost.secrets`: a keyed fingerprint of
each value it runs with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2

from gpuhost.catalog.types import Service
from gpuhost.plan.spec import PROJECT, digest
from hostside import envfile

COMPOSE_HEADER = "docker-compose.yml.j2"


def _environment(folder: Path) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # YAML and env files, not HTML; scalars go through `tojson` and `envquote`
    )
    # JSON is YAML: any scalar or list survives; compose's own `$` is doubled.
    environment.filters["yaml"] = lambda value: json.dumps(value).replace("$", "$$")
    environment.filters["envquote"] = envfile.quote
    return environment


_TEMPLATES = _environment(PROJECT / "templates")


@dataclass(frozen=True)
class ServiceSpec:
    """One service with all that its template may use. Paths are the host's."""

    name: str
    entry: Service
    image: str
    gpus: Sequence[str]
    account: str
    paths: Mapping[str, str]
    variables: Mapping[str, str]
    made_from: Mapping[str, str] = field(default_factory=dict)

    def fragment(self, labels: Mapping[str, str]) -> str:
        """The service's part of the compose file."""
        context: dict[str, Any] = {
            "name": self.name,
            "service": self.entry,
            "image": self.image,
            "gpus": self.gpus,
            "account": self.account,
            "paths": self.paths,
            "prefix": prefix(self.name),
            "labels": {"gpuhost.service": self.name, "gpuhost.stack": self.entry.stack, **labels},
        }
        rendered = _TEMPLATES.get_template(self.entry.template).render(context)
        return "\n".join(line for line in rendered.splitlines() if line.strip())

    def spec_hash(self) -> str:
        """Of everything that is no secret; the labels that carry hashes are left out."""
        return digest(
            {"fragment": self.fragment({}), "variables": dict(self.variables), "made_from": dict(self.made_from)}
        )


def prefix(service: str) -> str:
    """The beginning of a service's variable names: `comfyui-qwen` -> `COMFYUI_QWEN`."""
    return service.upper().replace("-", "_").replace(".", "_")


def variables(name: str, entry: Service, docker_gid: str, host_cpus: int) -> dict[str, str]:
    """The variables of a service that are no secret. Docker refuses more cores than the host has: all, then."""
    found = {
        f"{prefix(name)}_PORT": str(entry.port),
        f"{prefix(name)}_MEMORY_LIMIT": entry.memory,
        f"{prefix(name)}_CPU_LIMIT": f"{min(entry.cpus, host_cpus):g}",
    }
    if entry.docker_socket:
        found["DOCKER_GID"] = docker_gid
    return found


def text(template: str, **context: Any) -> str:
    """A template of `templates/`, rendered."""
    return _TEMPLATES.get_template(template).render(**context)


def compose_file(stack: str, networks: Sequence[str], fragments: Sequence[str]) -> str:
    """A stack's whole compose file."""
    return text(COMPOSE_HEADER, stack=stack, networks=networks, fragments=fragments)


def env_file(stack: str, values: Mapping[str, str]) -> str:
    """A stack's `.env.docker`."""
    return text("env.docker.j2", stack=stack, values=dict(sorted(values.items())))
