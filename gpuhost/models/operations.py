"""Models from the Hugging Face Hub, in the one shared cache, verified, linked into the models folder."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace

from pyinfra.api.operation import operation
from pyinfra.context import host

from gpuhost.catalog.types import Account, Model
from gpuhost.errors import Cause
from gpuhost.host.paths import Paths
from gpuhost.models import rules
from gpuhost.models.facts import ModelsState
from gpuhost.run.remote import Script
from gpuhost.run.session import Commands, carry_out
from gpuhost.secrets.store import SecretStore
from hostside.protocol import ModelEvent, ModelFailure, ModelsRequest, model_event
from hostside.wire import WireError, to_json

STALL_S = 120.0

# The request, with the token in it, goes from our stdin to the program's: it is in no file and no argument.
_FETCH = r"""
set -eu; umask 022; cd /
exec env HOME=/nonexistent HF_HOME=@HOME@ HF_ENDPOINT=@ENDPOINT@ HF_HUB_DISABLE_TELEMETRY=1 \
  SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt setpriv --reuid=@UID@ --regid=@GID@ --clear-groups -- @COMMAND@
"""


def _script(paths: Paths, account: Account, endpoint: str) -> str:
    marks = {
        "@HOME@": paths.hub_cache,
        "@UID@": str(account.uid),
        "@GID@": str(account.gid),
        "@ENDPOINT@": shlex.quote(endpoint),
        "@COMMAND@": paths.models_command,
    }
    script = _FETCH
    for mark, value in marks.items():
        script = script.replace(mark, value)
    return script


def _explain(text: str) -> Cause | None:
    """The last error that the program reported; that it was killed, when it said nothing but how far it was."""
    events = [_event(line) for line in text.splitlines()]
    for event in reversed(events):
        if isinstance(event, ModelFailure):
            return Cause(event.message, event.hint)
    if events and all(events):
        return Cause(
            "the fetch of the models was killed", "`journalctl -k` says whether for memory; run again: it goes on"
        )
    return None


def _event(line: str) -> ModelEvent | None:
    try:
        return model_event(line)
    except WireError:
        return None


@operation()
def fetched(
    wanted: Mapping[str, Model], paths: Paths, manifest: str, account: Account, endpoint: str, secrets: SecretStore
) -> Commands:
    """Every wanted model is there and verified. No program is started when all is right."""
    cache_dir = f"{paths.hub_cache}/hub"
    reading = host.get_fact(
        ModelsState,
        manifest=manifest,
        cache_dir=cache_dir,
        links=[f"{paths.models}/{rules.destination(model)}" for model in wanted.values()],
        files=[(model.repo, model.file) for model in wanted.values()],
    )
    planned = rules.reconcile(wanted, reading, paths.models, cache_dir)
    request = ModelsRequest(
        models=[each.file for each in planned],
        cache_dir=cache_dir,
        models_dir=paths.models,
        manifest=manifest,
        stall_s=STALL_S,
    )

    def act() -> Commands:
        needed = any(each.file.gated and each.file.action == "fetch" for each in planned)
        asked = replace(request, token=secrets.optional("HF_TOKEN") if needed else None)
        yield Script(_script(paths, account, endpoint), _explain, stdin=f"{to_json(asked)}\n", live=True)

    yield from carry_out([each.change() for each in planned], act())
