"""Where everything lives on a host. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from gpuhost.catalog.types import Catalog

RUNTIME = "/run/gpuhost"  # gone with a reboot
STACKS_LOCK = f"{RUNTIME}/stacks.lock"  # held while a service is made anew
VENV_LOCK = f"{RUNTIME}/venv.lock"  # held while the Python environment is made


def unit_file(unit: str) -> str:
    """Where systemd reads a unit of ours."""
    return f"/etc/systemd/system/{unit}"


@dataclass(frozen=True)
class Paths:
    """Absolute paths on the host, from the three roots of the catalogue."""

    data: str
    tools: str
    state: str

    @classmethod
    def of(cls, catalog: Catalog) -> Paths:
        """The paths that a catalogue asks for."""
        return cls(catalog.data_root, catalog.tools_root, catalog.state_root)

    @property
    def parents(self) -> tuple[str, ...]:
        """The folders of `data` in which each stack, install, service and cache has its own."""
        return (self.stacks, self._installs, self._services, self._cache)

    @property
    def models(self) -> str:
        """Model files by folder, read-only in the services."""
        return f"{self.data}/models"

    @property
    def hub_cache(self) -> str:
        """The one Hugging Face cache."""
        return f"{self._cache}/huggingface"

    @property
    def outputs(self) -> str:
        """What the services make, a folder each."""
        return f"{self.data}/outputs"

    @property
    def programs(self) -> str:
        """Our host programs: the package `hostside`, and scripts. Only root may write there or above."""
        return f"{self.tools}/programs"

    @property
    def scripts(self) -> str:
        """The scripts of installs."""
        return f"{self.tools}/installs"

    @property
    def venv(self) -> str:
        """Their Python environment."""
        return f"{self.tools}/venv"

    @property
    def verify_command(self) -> str:
        """Looks at services; `--wait-only` only waits until they are healthy. Request on stdin."""
        return self._program("hostside.verify")

    @property
    def logs_command(self) -> str:
        """Shows the log of a service, secrets masked. Request on stdin."""
        return self._program("hostside.logs")

    @property
    def secret_audit_command(self) -> str:
        """Says by keyed fingerprint which value each file and container holds. Request on stdin."""
        return self._program("hostside.secret_audit")

    @property
    def binds_command(self) -> str:
        """Refuses paths on the host that another account than root can turn elsewhere. Paths as arguments."""
        return self._program("hostside.binds")

    @property
    def model_revisions(self) -> str:
        """What each revision that nobody locked was when this host first asked for it; root only may write there."""
        return f"{self.state}/revisions.json"

    @property
    def models_speed(self) -> str:
        """Bytes in a second, of the last fetch of models."""
        return f"{self.state}/models-speed"

    @property
    def measures(self) -> str:
        """How long starts, builds and installs took when they were last done; root only may write there."""
        return f"{self.state}/measures"

    @property
    def model_prune_command(self) -> str:
        """Removes files of models from the cache with their links. Request on stdin."""
        return self._program("hostside.model_prune")

    @property
    def model_import_command(self) -> str:
        """Looks in a folder for files of models, or takes them from there. Action as argument, request on stdin."""
        return self._program("hostside.model_import")

    @property
    def models_command(self) -> str:
        """Fetches, verifies and links model files. Request on stdin."""
        return self._program("hostside.models")

    @property
    def model_peer_command(self) -> str:
        """Gives files of models to another host, or takes them. Action as argument, request on stdin."""
        return self._program("hostside.model_peer")

    @property
    def gpu_proof_command(self) -> str:
        """Looks at every link from the driver to a computation in a container. Request on stdin."""
        return self._program("hostside.gpu_proof")

    @property
    def gpu_proof(self) -> str:
        """What containers' way to the GPUs was last proved with."""
        return f"{self.state}/gpu-proof.json"

    @property
    def job_command(self) -> str:
        """Runs a program as a detached unit, or attaches to the one that runs. Its stdin is the program's."""
        return f"{self._program('hostside.job')} run"

    @property
    def jobs(self) -> str:
        """What detached programs printed, while they run; root only."""
        return "/run/gpuhost/jobs"

    @property
    def broker_command(self) -> str:
        """Answers services about containers, on the socket that systemd hands it."""
        return self._program("hostside.broker")

    @property
    def broker(self) -> str:
        """The folder of its socket. A folder is mounted, and not the socket: one that is made anew is then seen."""
        return f"{RUNTIME}/broker"

    @property
    def trees_command(self) -> str:
        """Records what lies in a folder that was made whole, or sets it aside. Action as argument, request on stdin."""
        return self._program("hostside.trees")

    def _program(self, module: str) -> str:
        # -I: nothing is imported from the working folder, a home or PYTHONPATH (the venv itself names `programs`);
        # -B: not even compiled modules are written.
        return f"{self.venv}/bin/python -I -B -m {module}"

    @property
    def firewall_rules(self) -> str:
        """What the packet filter loads."""
        return f"{self.tools}/firewall.nft"

    @property
    def backups(self) -> str:
        """What was replaced, by time; root only."""
        return f"{self.state}/backups"

    @property
    def apt_stamp(self) -> str:
        """Touched after each successful `apt-get update` of ours."""
        return f"{self.state}/apt-updated"

    @property
    def engine_stamp(self) -> str:
        """What of Docker's daemon.json gpuhost wrote; root only."""
        return f"{self.state}/engine-config.json"

    @property
    def model_manifest(self) -> str:
        """What was fetched and verified of the models; in a folder of the account that fetches them."""
        return f"{self.state}/models/manifest.json"

    @property
    def cdi_stamp(self) -> str:
        """What the CDI specification was made from."""
        return f"{self.state}/cdi.json"

    def image_context(self, image: str) -> str:
        """The build context of an image."""
        return f"{self.tools}/images/{image}"

    def install(self, name: str) -> str:
        """The folder with the versions of an install."""
        return f"{self._installs}/{name}"

    def install_lock(self, name: str) -> str:
        """The locked packages of an install."""
        return f"{self.scripts}/{name}.lock"

    def install_manifests(self, name: str) -> str:
        """The folder with the manifests of the versions of an install; root only may write there."""
        return f"{self.state}/installs/{name}"

    def service_data(self, service: str) -> str:
        """What a service may write."""
        return f"{self._services}/{service}/data"

    def service_outputs(self, service: str) -> str:
        """What a service makes for people."""
        return f"{self.outputs}/{service}"

    def service_seeds(self, service: str) -> str:
        """The files that were made once for a service and are its own since; mounted one by one, so the folder is
        root's."""
        return f"{self._services}/{service}/seeds"

    def stack(self, stack: str) -> str:
        """A stack's folder."""
        return f"{self.stacks}/{stack}"

    def compose_file(self, stack: str) -> str:
        """A stack's compose file."""
        return f"{self.stack(stack)}/docker-compose-{stack}.yml"

    def env_file(self, stack: str) -> str:
        """A stack's variables, 0600."""
        return f"{self.stack(stack)}/.env.docker"

    def config_files(self, service: str, stack: str) -> str:
        """The folder of a service's configuration files."""
        return f"{self.stack(stack)}/config/{service}"

    def secret_files(self, service: str, stack: str) -> str:
        """The folder of a service's secret files, readable by its account alone."""
        return f"{self.stack(stack)}/secrets/{service}"

    @property
    def stacks(self) -> str:
        """The folders of the stacks."""
        return f"{self.data}/stacks"

    @property
    def _installs(self) -> str:
        return f"{self.data}/installs"

    @property
    def _services(self) -> str:
        return f"{self.data}/services"

    @property
    def _cache(self) -> str:
        return f"{self.data}/cache"
