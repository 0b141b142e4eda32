"""From a host's run to its stacks: what each service's container is made from, and the files of each stack."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property, partial

from gpuhost.files.rules import FileSpec
from gpuhost.installs import rules as comfyui
from gpuhost.run.host_run import HostRun
from gpuhost.secrets.locations import Variable
from gpuhost.secrets.store import NotYet
from gpuhost.services import render
from gpuhost.services.render import ServiceSpec
from gpuhost.services.rules import Stamps
from hostside import placeholders


class Stacks:
    """The rendering of one host. `docker_gid`: the docker group's id there, "" before Docker is installed."""

    def __init__(self, run: HostRun, docker_gid: str) -> None:
        self._run = run
        self._gid = docker_gid

    @cached_property
    def specs(self) -> Mapping[str, ServiceSpec]:
        """Each service with what its template may use."""
        return {name: self._spec(name) for name in self._run.services}

    def _spec(self, name: str) -> ServiceSpec:
        run, entry = self._run, self._run.services[name]
        layout = run.layout
        paths = {
            "models": layout.models,
            "hub_cache": layout.hub_cache,
            "outputs": layout.outputs,
            "data": layout.service_data(name),
            "secrets": layout.secret_files(name, entry.stack),
        }
        made_from = {"image": run.image_spec(entry.image), **dict(entry.secret_files)}
        if entry.comfyui:
            paths |= {"install": run.install_path(entry.comfyui), "session_key": run.session_key(name)}
            paths["model_paths"] = f"{layout.stack(entry.stack)}/extra_model_paths-{name}.yaml"
            made_from |= {"install": run.install_spec(entry.comfyui), "model_paths": self.model_paths(name)}
        account = run.catalog.account
        return ServiceSpec(
            name=name,
            entry=entry,
            image=run.image(entry.image),
            gpus=run.placement.gpus[name],
            account=f"{account.uid}:{account.gid}",
            paths=paths,
            variables=render.variables(name, entry, self._gid, run.reading.cpus),
            made_from=made_from,
        )

    def model_paths(self, name: str) -> str:
        """ComfyUI's extra_model_paths.yaml for a service."""
        return render.text(comfyui.MODEL_PATHS, login=self._run.services[name].login)

    def secret_values(self, name: str) -> dict[str, str]:
        """The secrets that a service's container gets. Raises NotYet before they are generated."""
        entry = self._run.services[name]
        names = {*entry.secrets, *entry.secret_file_names()}
        return {key: self._run.secrets.value(key) for key in sorted(names)}

    def stamps(self, name: str) -> Stamps:
        """The stamps of a service's container."""
        try:
            values = self.secret_values(name)
            found = {key: self._run.secrets.fingerprint(key, value) for key, value in values.items()}
            return Stamps(self.specs[name].spec_hash(), json.dumps(found, sort_keys=True))
        except NotYet:
            return Stamps(self.specs[name].spec_hash(), None)

    def compose(self, stack: str) -> str:
        """A stack's compose file. Raises NotYet before the secrets are generated."""
        fragments = []
        for name in self._run.stacks[stack]:
            stamps = self.stamps(name)
            if stamps.secrets is None:
                raise NotYet(name)
            labels = {"gpuhost.spec": stamps.spec, "gpuhost.secrets": stamps.secrets}
            fragments.append(self.specs[name].fragment(labels))
        networks = sorted({self._run.services[name].network for name in self._run.stacks[stack]})
        return render.compose_file(stack, networks, fragments)

    def variables(self, stack: str) -> list[Variable]:
        """What a stack's `.env.docker` holds: its variables, the secrets of its services' environments, no others."""
        found: dict[str, Variable] = {}
        for name in self._run.stacks[stack]:
            found |= {key: Variable(key, text, False) for key, text in self.specs[name].variables.items()}
            found |= {variable.name: variable for variable in self._secrets(self._run.services[name].secrets)}
        return list(found.values())

    def env(self, stack: str) -> str:
        """A stack's `.env.docker`. Raises NotYet before its secrets are generated."""
        values = {}
        for variable in self.variables(stack):
            if variable.value is None:
                raise NotYet(variable.name)
            values[variable.name] = variable.value
        return render.env_file(stack, values)

    def secret_files(self, name: str) -> dict[str, str]:
        """path -> template of a service's secret files."""
        files = self._run.services[name].secret_files
        return {f"{self.specs[name].paths['secrets']}/{file}": template for file, template in files.items()}

    def file_variables(self, template: str) -> list[Variable]:
        """What a secret file with this template holds."""
        return self._secrets(placeholders.names(template))

    def files(self, stack: str) -> list[FileSpec]:
        """Every file of a stack's folder."""
        layout = self._run.layout
        found = [
            FileSpec(layout.env_file(stack), partial(self.env, stack), mode="600", secret=True),
            FileSpec(layout.compose_file(stack), partial(self.compose, stack)),
        ]
        return found + [file for name in self._run.stacks[stack] for file in self.read_at_start(name)]

    def read_at_start(self, name: str) -> list[FileSpec]:
        """The files of ours that a service's process reads when it starts, and not again."""
        entry, account, found = self._run.services[name], self._run.catalog.account.name, []
        if entry.comfyui:
            found.append(FileSpec(self.specs[name].paths["model_paths"], partial(self.model_paths, name)))
        for path, template in self.secret_files(name).items():
            content = partial(self._secret_file, name, template)
            found.append(FileSpec(path, content, "600", account, account, secret=True))
        return found

    def _secret_file(self, name: str, template: str) -> str:
        return placeholders.filled(template, self.secret_values(name))

    def _secrets(self, names: Sequence[str]) -> list[Variable]:
        return [Variable(name, self._run.secrets.optional(name)) for name in names]
