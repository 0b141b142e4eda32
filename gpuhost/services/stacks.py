"""From a host's run to its stacks: what should run of each service, and the files of each stack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from gpuhost.errors import Problem
from gpuhost.files.rules import FileSpec
from gpuhost.plan.spec import canonical, text_digest
from gpuhost.project import project_file
from gpuhost.run.host_run import HostRun
from gpuhost.secrets.locations import Variable
from gpuhost.secrets.store import NotYet
from gpuhost.services import arguments, render
from gpuhost.services.binds import Bind, engine_sockets, of_spec, unsafe
from gpuhost.services.compose import environment_of, of_compose
from gpuhost.services.placement import sharing, takes_mib
from gpuhost.services.render import ServiceContext
from gpuhost.services.rules import Desired
from hostside import labels, placeholders
from hostside.vram import shared_mib


@dataclass(frozen=True)
class SeedFile:
    """A file that is made once and then belongs to a service: its account's, in a folder of root's. `text`: with
    marks."""

    path: str
    text: str
    account: str


@dataclass(frozen=True)
class Renewal:
    """A seed that is made anew when a secret has another value."""

    seed: SeedFile
    secret: str


def bind_problems(run: HostRun, host: str) -> list[Problem]:
    """Why what the containers of this host are given cannot be given so."""
    installs = [Bind(f"the install `{name}`", run.install_path(name), read_only=False) for name in run.installs]
    roots = ("data_root", "tools_root", "state_root")
    kept = {getattr(run.catalog, name): name for name in roots}
    stacks = Stacks.of(run)
    found = [*engine_sockets(stacks.specs), *unsafe([*stacks.binds(), *installs], kept)]
    return [Problem(*cause, host) for cause in found]


class Stacks:
    """The rendering of one host."""

    def __init__(self, run: HostRun) -> None:
        self._run = run

    @classmethod
    def of(cls, run: HostRun) -> Stacks:
        """The rendering of a host, made once as long as nothing becomes of its secrets."""
        known = run.secrets.known()
        kept: tuple[object, Stacks] | None = vars(run).get("_stacks")
        if kept is None or kept[0] is not known:
            kept = vars(run)["_stacks"] = (known, cls(run))
        return kept[1]

    @cached_property
    def contexts(self) -> Mapping[str, ServiceContext]:
        """Each service with what its templates may use."""
        return {name: self._context(name) for name in self._run.services}

    def _context(self, name: str) -> ServiceContext:
        run, entry = self._run, self._run.services[name]
        paths = run.paths
        folders = {
            "models": paths.models,
            "hub_cache": paths.hub_cache,
            "outputs": paths.service_outputs(name),
            "data": paths.service_data(name),
            "seeds": paths.service_seeds(name),
            "config": paths.config_files(name, entry.stack),
            "secrets": paths.secret_files(name, entry.stack),
        }
        if entry.install:
            folders["install"] = run.install_path(entry.install)
        if entry.controls_services:
            folders["broker"] = paths.broker
        gpus = run.placement.gpus[name]
        account = f"{entry.account.uid}:{entry.account.gid}"
        cards = [gpu for gpu in run.reading.gpus if gpu.uuid in gpus]
        return ServiceContext(
            name,
            entry,
            run.image(entry.image),
            run.gpu_devices(gpus),
            account,
            folders,
            egress=run.catalog.networks[entry.network].egress,
            shares_gpu=name in sharing(run.placement, run.services),
            vram=(takes_mib(entry.gpu, cards), shared_mib(cards[0].vram_mib) if cards else 0),  # they are alike
            alone=run.catalog.profile == "test" and not entry.controls_services,
            arguments=arguments.filled(run.catalog, name, cards),
            gpu_access=run.gpu_access,
        )

    # -- what should run ---------------------------------------------------------------------------------------------

    def desired(self) -> dict[str, Desired]:
        """What should be there of each service, in start order."""
        return {
            name: Desired(
                entry.stack,
                self.specs[name],
                frozenset() if entry.all_gpus else frozenset(self._run.placement.gpus[name]),
                entry.all_gpus,
                frozenset(entry.secrets),
                self._variable_fingerprints(name),
                entry.start,
                crowded=name in self._run.placement.crowded,
                takes_mib=self.contexts[name].vram[0],
            )
            for name, entry in self._run.services.items()
        }

    def _variable_fingerprints(self, name: str) -> dict[str, str]:
        """variable -> the keyed fingerprint of what its container should have as it; none while there is no key."""
        store, variables = self._run.secrets, environment_of(self.specs[name])
        try:
            return {key: store.fingerprint(key, text) for key, text in variables.items() if text is not None}
        except NotYet:
            return {}

    def binds(self) -> list[Bind]:
        """What the containers are given of the host."""
        return [bind for name in self._run.services for bind in of_spec(f"`{name}`", self.specs[name])]

    @cached_property
    def specs(self) -> Mapping[str, dict[str, Any]]:
        """The spec of each service, the stamp of its container."""
        return {name: self._spec(name) for name in self._run.services}

    def _spec(self, name: str) -> dict[str, Any]:
        context = self.contexts[name]
        return of_compose(
            context.fragment({}),
            self._variables(name),
            {path: text_digest(text) for path, text in self._config_texts(name).items()},
            self._run.services[name].secret_files,
            self._fingerprints(name),
        )

    def _variables(self, name: str) -> dict[str, str]:
        return render.variables(name, self._run.services[name], self._run.reading.cpus)

    def _fingerprints(self, name: str) -> dict[str, str | None]:
        """secret -> the keyed fingerprint of its value; None while the value, or the key, is still to be generated."""
        store = self._run.secrets
        names = self._run.services[name].container_secrets()
        try:
            return {
                key: None if (value := store.optional(key)) is None else store.fingerprint(key, value) for key in names
            }
        except NotYet:
            return dict.fromkeys(names)

    # -- the files of a stack ----------------------------------------------------------------------------------------

    def compose(self, stack: str) -> str:
        """A stack's compose file. Raises NotYet before the secrets are generated."""
        fragments = []
        for name in self._run.stacks[stack]:
            spec = self.specs[name]
            for secret, fingerprint in spec["secrets"].items():
                if fingerprint is None:
                    raise NotYet(secret)
            fragments.append(self.contexts[name].fragment({labels.SPEC: canonical(spec)}))
        networks = sorted({self._run.services[name].network for name in self._run.stacks[stack]})
        return render.compose_file(stack, networks, fragments)

    def variables(self, stack: str) -> list[Variable]:
        """What a stack's `.env.docker` holds: its variables, the secrets of its services' environments, no others."""
        found: dict[str, Variable] = {}
        for name in self._run.stacks[stack]:
            found |= {key: Variable(key, text, False) for key, text in self._variables(name).items()}
            found |= {variable.name: variable for variable in self._secrets(self._run.services[name].secrets)}
        return list(found.values())

    def env(self, stack: str, blank: bool = False) -> str:
        """A stack's `.env.docker`; `blank`: with a word for each secret. Raises NotYet before they are generated."""
        values = {}
        for variable in self.variables(stack):
            if variable.value is None:
                raise NotYet(variable.name)
            values[variable.name] = "secret" if blank and variable.secret else variable.value
        return render.env_file(stack, values)

    def secret_files(self, name: str) -> dict[str, str]:
        """path -> template of a service's secret files."""
        files = self._run.services[name].secret_files
        return {f"{self.contexts[name].paths['secrets']}/{file}": template for file, template in files.items()}

    def file_variables(self, template: str) -> list[Variable]:
        """What a secret file with this template holds."""
        return self._secrets(placeholders.names(template))

    def files(self, stack: str) -> list[FileSpec]:
        """Every file of a stack's folder."""
        paths = self._run.paths
        found = [
            FileSpec(paths.env_file(stack), partial(self.env, stack), mode="600", secret=True),
            FileSpec(paths.compose_file(stack), partial(self.compose, stack)),
        ]
        return found + [file for name in self._run.stacks[stack] for file in self.read_at_start(name)]

    def read_at_start(self, name: str) -> list[FileSpec]:
        """The files of ours that a service's process reads when it starts, and not again."""
        account = self._run.services[name].account.name
        found = [FileSpec(path, partial(str, text)) for path, text in self._config_texts(name).items()]
        for path, template in self.secret_files(name).items():
            content = partial(self._secret_file, name, template)
            found.append(FileSpec(path, content, "600", account, account, secret=True))
        for path, renewal in self.renewals(name).items():
            found.append(FileSpec(path, partial(self._record, renewal.secret), "600"))
        return found

    def seeds(self, name: str) -> dict[str, SeedFile]:
        """file -> the seed of a service."""
        entry, folder = self._run.services[name], self.contexts[name].paths["seeds"]
        return {file: SeedFile(f"{folder}/{file}", seed.text, entry.account.name) for file, seed in entry.seeds.items()}

    def renewals(self, name: str) -> dict[str, Renewal]:
        """path -> what is recorded there: with which value of a secret a seed of a service was made."""
        config, made = self.contexts[name].paths["config"], self.seeds(name)
        return {
            f"{config}/{file}.made-with": Renewal(made[file], seed.renew_with)
            for file, seed in self._run.services[name].seeds.items()
            if seed.renew_with
        }

    def _record(self, secret: str) -> str:
        """What tells a value of a secret from another one, and says nothing of it. Raises NotYet."""
        store = self._run.secrets
        return f"{secret} {store.fingerprint(secret, store.value(secret))}\n"

    def _config_texts(self, name: str) -> dict[str, str]:
        """path -> text of a service's configuration files."""
        context, entry = self.contexts[name], self._run.services[name]
        texts = {file: context.config_file(template) for file, template in entry.config_files.items()}
        texts |= {file: project_file(f"files/{source}") for file, source in entry.shipped_files.items()}
        return {f"{context.paths['config']}/{file}": text for file, text in texts.items()}

    def _secret_file(self, name: str, template: str) -> str:
        names = self._run.services[name].container_secrets()
        return placeholders.filled(template, {key: self._run.secrets.value(key) for key in names})

    def _secrets(self, names: Sequence[str]) -> list[Variable]:
        return [Variable(name, self._run.secrets.optional(name)) for name in names]


def broker_group(run: HostRun) -> str:
    """The group that may ask the broker: that of the service which controls the others; root's, when none does."""
    asking = (str(entry.account.gid) for entry in run.services.values() if entry.controls_services)
    return next(asking, "root")
