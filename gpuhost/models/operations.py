"""Models from the Hugging Face Hub, in the one shared cache, verified, linked into the models folder."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from pyinfra.api.operation import operation
from pyinfra.context import host

from gpuhost.catalog.types import Account, Model
from gpuhost.host.paths import Layout
from gpuhost.models import rules
from gpuhost.models.facts import ModelsState
from gpuhost.run.remote import Step
from gpuhost.run.session import Commands, carry_out
from gpuhost.secrets.store import SecretStore
from hostside.protocol import ModelFailure, ModelsRequest, model_event
from hostside.wire import WireError, to_json

STALL_S = 120.0

# The token is stdin's first line; it lives in a folder that only root and the account can read, in memory.
_FETCH = r"""
set -eu; umask 077; IFS= read -r token; IFS= read -r request
mkdir -p -m 755 /run/gpuhost; credentials="$(mktemp -d /run/gpuhost/fetch.XXXXXX)"
trap 'rm -rf "$credentials"' EXIT INT TERM HUP
[ -z "$token" ] || printf '%s' "$token" > "$credentials/hf_token"
chown -R @ACCOUNT@ "$credentials"; cd /
printf '%s' "$request" | HOME="$credentials" CREDENTIALS_DIRECTORY="$credentials" HF_ENDPOINT=@ENDPOINT@ \
  SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt HF_HUB_DISABLE_TELEMETRY=1 \
  setpriv --reuid=@UID@ --regid=@GID@ --clear-groups -- @COMMAND@
"""


def _script(layout: Layout, account: Account, endpoint: str) -> str:
    marks = {
        "@ACCOUNT@": f"{account.uid}:{account.gid}",
        "@UID@": str(account.uid),
        "@GID@": str(account.gid),
        "@ENDPOINT@": shlex.quote(endpoint),
        "@COMMAND@": layout.models_command,
    }
    script = _FETCH
    for mark, value in marks.items():
        script = script.replace(mark, value)
    return script


def _explain(text: str) -> tuple[str, str] | None:
    """The last error that the program reported."""
    for line in reversed(text.splitlines()):
        try:
            event = model_event(line)
        except WireError:
            continue
        if isinstance(event, ModelFailure):
            return event.message, event.hint
    return None


@operation()
def fetched(
    wanted: Mapping[str, Model], layout: Layout, manifest: str, account: Account, endpoint: str, secrets: SecretStore
) -> Commands:
    """Every wanted model is there and verified. No program is started when all is right."""
    cache_dir = f"{layout.hub_cache}/hub"
    reading = host.get_fact(
        ModelsState,
        manifest=manifest,
        cache_dir=cache_dir,
        links=[f"{layout.models}/{rules.destination(model)}" for model in wanted.values()],
        files=[(model.repo, model.file) for model in wanted.values()],
    )
    planned = rules.reconcile(wanted, reading, layout.models, cache_dir)
    request = ModelsRequest(
        models=[each.file for each in planned],
        cache_dir=cache_dir,
        models_dir=layout.models,
        manifest=manifest,
        stall_s=STALL_S,
    )

    def act() -> Commands:
        token = secrets.optional("HF_TOKEN") or ""
        script = _script(layout, account, endpoint)
        yield Step(script, _explain, stdin=f"{token}\n{to_json(request)}\n", live=True)

    yield from carry_out([each.change() for each in planned], act())
