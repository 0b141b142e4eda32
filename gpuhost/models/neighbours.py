"""Which host gives which models to which other one, so that each byte comes from the hub once. Pure.

A model comes to a host in one wave, all of its files together. What a host has when the run begins it gives in the
first wave; what it fetches in one wave it gives from the next one on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from gpuhost.models.facts import FileStat, ModelsReading
from gpuhost.models.rules import PlannedModel, Wanted
from hostside import hub_cache
from hostside.protocol.models import ModelFile

WAVES = 3
# Each pair of hosts takes a session of the SSH connection of both, of which sshd allows ten at a time.
TAKERS_MAX = 3  # of one giver, in a wave
GIVERS_MAX = 3  # of one taker, in a wave

Blob = tuple[str, str]  # the repository, and what the hub calls the bytes: their sha256, or their git id


@dataclass(frozen=True)
class MissingFile:
    """A file that a host is to get. `at`: where it will lie, below its cache."""

    blob: Blob
    size: int
    at: str


@dataclass(frozen=True)
class MissingModel:
    """A model of which a host lacks files. `from_hub`: it asks the hub for them whoever has them, for the model is
    gated, and nobody has heard from the hub in this run that the account of this host's token may read it."""

    name: str
    files: Sequence[MissingFile]
    from_hub: bool = False

    @property
    def bytes(self) -> int:
        """Of its missing files."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True)
class HostModels:
    """`has`: the files that were compared with a known hash, and where each lies below its cache; `lacks`: models."""

    has: Mapping[Blob, str] = field(default_factory=dict)
    lacks: Sequence[MissingModel] = ()


@dataclass(frozen=True)
class Given:
    """A neighbour gives a file: `host`, which has it `at`, below its cache."""

    host: str
    at: str


@dataclass(frozen=True)
class Turn:
    """When a model comes to a host, and which of its files neighbours give; the others come from the hub."""

    wave: int = 1
    given: Mapping[Blob, Given] = field(default_factory=dict)


Turns = Mapping[str, Turn]  # of one host, by model; one that is not in it comes in the first wave, from the hub


def blob(file: ModelFile) -> Blob:
    """What tells a file's bytes from all others."""
    return file.repo, file.sha256 or file.git_sha1 or ""


def host_models(
    planned: Iterable[PlannedModel], reading: ModelsReading, cache_dir: str, owner: int, unheard: Collection[str]
) -> HostModels:
    """What a host has and lacks. `planned`: what is to be done there; `owner`: the uid whose its models are;
    `unheard`: the repositories of which the hub did not say in this run that they may be read from there."""
    has = {}
    for entry in reading.manifest.files.values():
        cached = reading.cached.get(entry.path)
        same = cached == FileStat(entry.size, entry.mtime_ns, entry.inode) and cached.uid == owner
        if same and entry.checked_against != "none" and entry.path.startswith(f"{cache_dir}/"):
            has[entry.repo, entry.git_sha1 or entry.sha256] = entry.path.removeprefix(f"{cache_dir}/")
    lacks = []
    for model in planned:
        files = [each.file for each in model.files if each.fetch_bytes]
        if files:
            missing = [MissingFile(blob(each), each.size, _at(each)) for each in files]
            from_hub = any(each.gated and each.repo in unheard for each in files)
            lacks.append(MissingModel(model.name, missing, from_hub))
    return HostModels(has, lacks)


def _at(file: ModelFile) -> str:
    return hub_cache.snapshot("", file.repo, file.commit, file.file).lstrip("/")


def of_wave(models: Iterable[Wanted], turns: Turns, wave: int) -> list[Wanted]:
    """Those models that come in this wave."""
    return [each for each in models if turns.get(each.name, Turn()).wave == wave]


def with_givers(planned: Iterable[PlannedModel], turns: Turns) -> list[PlannedModel]:
    """The models of a host with who gives which file, as it was decided."""
    found = []
    for model in planned:
        given = turns.get(model.name, Turn()).given
        hosts = [given[blob(each.file)].host if blob(each.file) in given else "" for each in model.files]
        files = [
            replace(each, giver=host if each.fetch_bytes else "") for each, host in zip(model.files, hosts, strict=True)
        ]
        found.append(replace(model, files=files))
    return found


def decided(hosts: Mapping[str, HostModels]) -> Mapping[str, Turns]:
    """The turns of each host. The largest models first; of the hosts that all lack one, that fetches it from the hub
    which has the least to fetch there by then."""
    plan = _Plan(hosts)
    sizes: Counter[str] = Counter()
    for each in hosts.values():
        for model in each.lacks:
            sizes[model.name] = max(sizes[model.name], model.bytes)
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        lacking = {host: model for host, each in hosts.items() for model in each.lacks if model.name == name}
        while lacking:
            host = min(lacking, key=lambda host: _rank(lacking[host], plan.from_hub_bytes[host]))
            plan.add(host, lacking.pop(host))
    return plan.turns


def _rank(model: MissingModel, from_hub_bytes: int) -> tuple[bool, int, int]:
    """Who asks the hub anyway comes first, then who lacks most: the others take from it."""
    return not model.from_hub, -model.bytes, from_hub_bytes


class _Plan:
    """What is decided so far."""

    def __init__(self, hosts: Mapping[str, HostModels]) -> None:
        self.turns: dict[str, dict[str, Turn]] = {host: {} for host in hosts}
        self.from_hub_bytes: Counter[str] = Counter()
        self._pairs: set[tuple[int, str, str]] = set()  # wave, giver, taker
        # Who has a blob, and from which wave on; and what comes to a host already, for another model.
        self._givers: dict[Blob, list[tuple[int, Given]]] = {}
        self._coming: dict[tuple[str, Blob], tuple[int, Given | None]] = {}
        for host, each in hosts.items():
            for known, at in each.has.items():
                self._givers.setdefault(known, []).append((1, Given(host, at)))

    def add(self, host: str, model: MissingModel) -> None:
        """Decides of one model of a host."""
        # A model some of whose files come too late for the last wave comes from the hub whole.
        waves = [] if model.from_hub else range(1, WAVES + 1)
        tried = ((wave, self._given(host, model.files, wave)) for wave in waves)
        wave, given = next(((wave, given) for wave, given in tried if given is not None), (1, {}))
        self.turns[host][model.name] = Turn(wave, given)
        self._pairs |= {(wave, each.host, host) for each in given.values()}
        for file in model.files:
            if (host, file.blob) not in self._coming:
                self._coming[host, file.blob] = (wave, given.get(file.blob))
                self._givers.setdefault(file.blob, []).append((wave + 1, Given(host, file.at)))
                self.from_hub_bytes[host] += 0 if file.blob in given else file.size

    def _given(self, host: str, files: Sequence[MissingFile], wave: int) -> dict[Blob, Given] | None:
        """Who gives each file in this wave, those left out that the hub alone has; None when one must wait for it."""
        given: dict[Blob, Given] = {}
        for file in files:
            if coming := self._coming.get((host, file.blob)):
                if coming[0] > wave:
                    return None
                if coming[0] == wave and coming[1]:
                    given[file.blob] = coming[1]
                continue
            known = [(since, each) for since, each in self._givers.get(file.blob, ()) if each.host != host]
            if not known:
                continue
            chosen = self._giver(host, [each for since, each in known if since <= wave], wave, given)
            if chosen is None:
                return None
            given[file.blob] = chosen
        return given

    def _giver(self, host: str, known: Sequence[Given], wave: int, given: Mapping[Blob, Given]) -> Given | None:
        """One that gives to this host in the wave anyway, else the one that gives to the fewest."""
        mine = {giver for when, giver, taker in self._pairs if (when, taker) == (wave, host)}
        mine |= {each.host for each in given.values()}
        if among := next((each for each in known if each.host in mine), None):
            return among
        takers = Counter(giver for when, giver, _ in self._pairs if when == wave)
        free = [each for each in known if takers[each.host] < TAKERS_MAX]
        return min(free, key=lambda each: takers[each.host]) if free and len(mine) < GIVERS_MAX else None
