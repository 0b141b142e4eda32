"""From a host's run to its stacks: what each service's container is made from, and the files of each stack."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, partial

from . import comfyui, render
from .files import FileSpec
from .render import ServiceSpec
from .run import HostRun
from .secrets import NotYet
from .services import Stamps


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
            secrets = self._run.secrets.fingerprint(self.secret_values(name))
        except NotYet:
            secrets = None
        return Stamps(self.specs[name].spec_hash(), secrets)

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

    def env(self, stack: str) -> str:
        """A stack's `.env.docker`: its variables and the secrets of its services' environments, no others."""
        values: dict[str, str] = {}
        for name in self._run.stacks[stack]:
            values |= self.specs[name].variables
            values |= {key: self._run.secrets.value(key) for key in self._run.services[name].secrets}
        return render.env_file(stack, values)

    def files(self, stack: str) -> list[FileSpec]:
        """Every file of a stack's folder."""
        layout, account = self._run.layout, self._run.catalog.account.name
        found = [
            FileSpec(layout.env_file(stack), partial(self.env, stack), mode="600"),
            FileSpec(layout.compose_file(stack), partial(self.compose, stack)),
        ]
        for name in self._run.stacks[stack]:
            entry, paths = self._run.services[name], self.specs[name].paths
            if entry.comfyui:
                found.append(FileSpec(paths["model_paths"], partial(self.model_paths, name)))
            for file in entry.secret_files:
                path = f"{paths['secrets']}/{file}"
                found.append(FileSpec(path, partial(self._secret_file, name, file), "600", account, account))
        return found

    def _secret_file(self, name: str, file: str) -> str:
        return render.secret_text(self._run.services[name].secret_files[file], self.secret_values(name))
