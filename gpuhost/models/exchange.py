"""The hosts of a run give models to each other: what each has and lacks is told to the others, and bytes go from one
to another over the operator's connections to both, through this process.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import gevent  # type: ignore[import-untyped]
from gevent.event import Event  # type: ignore[import-untyped]
from pyinfra.context import ctx_host, host, state

from gpuhost.catalog.types import Account
from gpuhost.models import neighbours
from gpuhost.models.neighbours import Blob, Given, Turns, blob
from gpuhost.models.rules import PlannedModel
from gpuhost.run import stream
from gpuhost.run.host_run import HostRun
from gpuhost.run.session import note
from gpuhost.run.stream import Stream
from hostside.protocol.model_peer import GivenFile, GiveRequest, TakenFile, TakeReady, TakeRequest
from hostside.protocol.models import ModelFile
from hostside.wire import WireError, from_host, to_json

READY_BYTES_MAX = 200

# -- what each has and lacks -------------------------------------------------------------------------------------------


class _Meeting:
    """pyinfra prepares its hosts side by side: each says what it has, and waits for the others before it needs to know
    who gives what."""

    def __init__(self) -> None:
        self.said: dict[str, HostRun | None] = {}
        self._turns: Mapping[str, Turns] | None = None
        self._changed = Event()

    def say(self, name: str, run: HostRun | None) -> None:
        self.said[name] = run
        self._changed.set()

    def turns(self) -> Mapping[str, Turns]:
        """Decided once, when all that are still in the run have said what they have."""
        while self._turns is None:
            if all(each.name in self.said for each in state.active_hosts):
                self._turns = neighbours.decided(self._shared())
            else:
                self._changed.clear()
                self._changed.wait()
        return self._turns

    def _shared(self) -> dict[str, neighbours.HostModels]:
        """In the order of the inventory: what is decided must not hang on who was first."""
        runs = [(each.name, self.said.get(each.name)) for each in state.inventory]
        return {name: run.decided.shared for name, run in runs if run and run.decided.shared}


_meeting = _Meeting()


def tell(run: HostRun | None) -> None:
    """The other hosts what this one has and lacks of models; None: it is refused, and gives and takes nothing."""
    _meeting.say(host.name, run)


def turns() -> Turns:
    """When the models of this host come, and who gives them. Waits for what the others tell."""
    if len(state.activated_hosts) > state.pool.size:
        # pyinfra's --parallel: some hosts are prepared when others have been, and nobody can wait for them.
        note("fetch", "models: hosts are prepared a few at a time, so each fetches its own from the hub")
        return {}
    return _meeting.turns().get(host.name, {})


# -- from one to another -----------------------------------------------------------------------------------------------


@dataclass
class Ways:
    """`secret`: with which a neighbour is asked; `addresses`: where it answers, on the host that takes."""

    secret: str
    addresses: dict[Blob, str] = field(default_factory=dict)

    def to(self, file: ModelFile) -> list[str]:
        """The neighbours that give a file."""
        address = self.addresses.get(blob(file))
        return [address] if address and file.action == "fetch" else []


@contextmanager
def givers(planned: Sequence[PlannedModel], turns: Turns) -> Iterator[Ways]:
    """While it is entered, neighbours give the current host the planned files. One that cannot is told about, and the
    hub is asked for its files."""
    ways = Ways(secrets.token_urlsafe(32))
    wanted: dict[str, dict[Blob, tuple[ModelFile, Given]]] = {}
    for model in planned:
        for each in model.files:
            if each.giver:
                given = turns[model.name].given[blob(each.file)]
                wanted.setdefault(each.giver, {})[blob(each.file)] = (each.file, given)
    with ExitStack() as stack:
        for giver, files in wanted.items():
            try:
                port = stack.enter_context(_joined(giver, ways.secret, list(files.values())))
            except (*stream.ERRORS, WireError) as error:
                note("fetch", f"models: {giver} cannot give any now, so the hub is asked: {error}")
                continue
            ways.addresses.update(dict.fromkeys(files, f"http://127.0.0.1:{port}"))
        yield ways


@contextmanager
def _joined(giver: str, secret: str, files: Sequence[tuple[ModelFile, Given]]) -> Iterator[int]:
    """The port at which this host is given the files. Raises one of stream.ERRORS, and WireError."""
    run, its = _run_of(host.name), _run_of(giver)
    named = [TakenFile(f.repo, f.commit, f.file, f.size, blob(f)[1]) for f, _ in files]
    placed = [GivenFile(given.at, f.size) for f, given in files]
    with ExitStack() as ends:
        taking = _started(run, "take", to_json(TakeRequest(named, secret)))
        ends.callback(stream.close, taking)
        ready = from_host(TakeReady, stream.line(taking, READY_BYTES_MAX))
        if not 0 < ready.port < 2**16:
            raise WireError("the port is none")
        with ctx_host.use(state.inventory.get_host(giver)):
            giving = _started(its, "give", to_json(GiveRequest(placed, f"{its.paths.hub_cache}/hub")))
        ends.callback(stream.close, giving)
        pumps = [gevent.spawn(stream.hand_on, *ways) for ways in ((taking, giving), (giving, taking))]
        ends.callback(gevent.killall, pumps)
        yield ready.port


def _run_of(name: str) -> HostRun:
    """Raises ConnectionError for a host that is out of the run."""
    run = _meeting.said.get(name)
    if run is None or state.inventory.get_host(name) not in state.active_hosts:
        raise ConnectionError(f"{name} is out of the run")
    return run


def _started(run: HostRun, action: str, request: str) -> Stream:
    """On the current host."""
    command = f"{_as_account(run.catalog.account)} {run.paths.model_peer_command} {action}"
    started = stream.opened(f"cd / && exec {command}")
    started.sendall(f"{request}\n".encode())
    return started


def _as_account(account: Account) -> str:
    """The begin of a command that needs no more than to read the models."""
    return f"setpriv --reuid={account.uid} --regid={account.gid} --clear-groups --no-new-privs --"
