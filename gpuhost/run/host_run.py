"""One host's run: what it should be, what preflight read, who runs where. Decided once and passed down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from gpuhost.catalog.checks import LABEL_KEY
from gpuhost.catalog.lock import NONE, Pins
from gpuhost.catalog.types import Account, BuildImage, Catalog, GpuCheck, Install, Model, PullImage, Service
from gpuhost.files.owners import Owners
from gpuhost.gpu import rules as gpu
from gpuhost.host.facts import HostReading
from gpuhost.host.paths import Paths
from gpuhost.images import rules as images
from gpuhost.installs import rules as installs
from gpuhost.models.decided import UNDECIDED, Decided
from gpuhost.secrets.store import SecretStore
from gpuhost.services.placement import Placement


@dataclass(frozen=True)
class HostRun:
    """Passed from preflight to every stage. `pins`: what is locked; `decided`: which files the models are."""

    catalog: Catalog
    reading: HostReading
    placement: Placement
    secrets: SecretStore
    pins: Pins = NONE
    decided: Decided = UNDECIDED

    @cached_property
    def paths(self) -> Paths:
        """Where everything lives on this host."""
        return Paths.of(self.catalog)

    @cached_property
    def services(self) -> Mapping[str, Service]:
        """The services that run on this host, in start order."""
        return {name: entry for name, entry in self.catalog.enabled().items() if name in self.placement.gpus}

    @cached_property
    def stacks(self) -> Mapping[str, list[str]]:
        """stack -> its services on this host."""
        found: dict[str, list[str]] = {}
        for name, entry in self.services.items():
            found.setdefault(entry.stack, []).append(name)
        return found

    @cached_property
    def accounts(self) -> Sequence[Account]:
        """Those of ours on this host, the shared one first."""
        return [self.catalog.account, *(entry.account for entry in self.services.values())]

    @cached_property
    def owners(self) -> Owners:
        """What the ids of those accounts are called once they are made."""
        return Owners.of(self.accounts)

    @cached_property
    def models(self) -> Mapping[str, Model]:
        """The models that a service here uses."""
        names = {model for entry in self.services.values() for model in entry.models}
        return {name: self.catalog.models[name] for name in sorted(names)}

    @cached_property
    def model_users(self) -> Mapping[str, list[str]]:
        """model -> the services here that use it."""
        services = self.services.items()
        return {model: [name for name, entry in services if model in entry.models] for model in self.models}

    @cached_property
    def installs(self) -> Mapping[str, Install]:
        """The installs that a service here uses."""
        names = {entry.install for entry in self.services.values() if entry.install}
        return {name: self.catalog.installs[name] for name in sorted(names)}

    @cached_property
    def image_names(self) -> list[str]:
        """The images that this host needs."""
        names = {entry.image for entry in self.services.values()} | {item.image for item in self.installs.values()}
        return sorted(names | ({self.gpu_check.image} if self.gpu_check else set()))

    @property
    def gpu_check(self) -> GpuCheck | None:
        """The proof that containers reach the GPUs, on a host that has some to give."""
        return self.catalog.gpu_check if gpu.whole(self.reading.gpus) else None

    @cached_property
    def images(self) -> Mapping[str, BuildImage | PullImage]:
        """They themselves, with the digests that are locked."""
        return {name: self._pinned(name) for name in self.image_names}

    @cached_property
    def built_images(self) -> Mapping[str, BuildImage]:
        """Those of them that are built on the host."""
        return {name: image for name, image in self.images.items() if isinstance(image, BuildImage)}

    @cached_property
    def image_bytes(self) -> Mapping[str, int]:
        """What pulling them downloads at most, of those of which a lock says it."""
        pulled = {name: self.catalog.images[name] for name in self.image_names if self.reading.deb_arch == "amd64"}
        known = {name: self.pins.image_bytes(each.pull) for name, each in pulled.items() if isinstance(each, PullImage)}
        return {name: found for name, found in known.items() if found is not None}

    def _pinned(self, name: str) -> BuildImage | PullImage:
        return images.pinned(self.catalog.images[name], self.pins)

    @cached_property
    def secret_names(self) -> list[str]:
        """The secrets that this host's services need, and the key of their fingerprints."""
        return sorted({name for entry in self.services.values() for name in entry.secret_names()} | {LABEL_KEY})

    @cached_property
    def token_names(self) -> list[str]:
        """Those of them that people and programs send to the services."""
        return sorted({entry.auth.token for entry in self.services.values() if entry.auth})

    @cached_property
    def _gpu_access(self) -> tuple[Literal["cdi", "runtime"], str]:
        return gpu.access(self.catalog.gpu_access, self.reading.docker_version)

    @property
    def gpu_access(self) -> Literal["cdi", "runtime"]:
        """How containers get GPUs here."""
        return self._gpu_access[0]

    @property
    def gpu_access_reason(self) -> str:
        """Why that way."""
        return self._gpu_access[1]

    def gpu_devices(self, uuids: Sequence[str]) -> list[str]:
        """How a container asks for these GPUs."""
        return gpu.device_names(uuids, self.reading.wsl)

    @property
    def lives_on(self) -> bool:
        """Whether containers outlive a restart of dockerd: by live-restore, which a swarm does not have."""
        return not self.reading.swarm

    @property
    def engine_config(self) -> Mapping[str, Any]:
        """Our keys of daemon.json."""
        return gpu.engine_config(self.catalog.engine_config, self.gpu_access, self.reading.gpus)

    def image(self, name: str) -> str:
        """The reference of an image."""
        return images.reference(name, self._pinned(name))

    def install_spec(self, name: str) -> dict[str, Any]:
        """The spec of an install."""
        install = self.catalog.installs[name]
        return installs.spec(install, self.image(install.image), self.install_packages(name))

    def install_packages(self, name: str) -> Sequence[str] | None:
        """The packages of an install, when they are locked."""
        return self.pins.requirements(name, self.install_subject(name))

    def install_subject(self, name: str) -> str:
        """What a lock must have been made for to be that of an install."""
        return installs.lock_subject(self.catalog, name)

    def unpinned_installs(self) -> list[str]:
        """The installs whose packages nobody has locked."""
        named = [name for name, install in self.installs.items() if installs.sources(install)]
        return [name for name in named if self.install_packages(name) is None]

    def stale_installs(self) -> list[str]:
        """The installs that are locked, but as another entry than theirs is now."""
        return [name for name in self.installs if self.pins.stale(name, self.install_subject(name))]

    def install_path(self, name: str) -> str:
        """Its folder on the host."""
        folder = installs.folder(self.catalog.installs[name], self.install_spec(name))
        return f"{self.paths.install(name)}/{folder}"

    def install_manifest(self, name: str) -> str:
        """The file on the host that says what lies in that folder."""
        return f"{self.paths.install_manifests(name)}/{self.install_path(name).rpartition('/')[2]}.json"
