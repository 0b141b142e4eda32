"""Models from the Hugging Face Hub, in the one shared cache, verified, linked into the models folder."""

from __future__ import annotations

import json
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

# The token comes on stdin's first line and lives in a folder that only root and the account can read, in memory.
_FETCH = r"""
set -eu; umask 077; IFS= read -r token; IFS= read -r document
mkdir -p -m 755 /run/gpuhost; credentials="$(mktemp -d /run/gpuhost/fetch.XXXXXX)"
trap 'rm -rf "$credentials"' EXIT INT TERM HUP
[ -z "$token" ] || printf '%s' "$token" > "$credentials/hf_token"
chown -R @ACCOUNT@ "$credentials"
printf '%s' "$document" | HOME="$credentials" CREDENTIALS_DIRECTORY="$credentials" HF_ENDPOINT=@ENDPOINT@ \
  SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt HF_HUB_DISABLE_TELEMETRY=1 PYTHONDONTWRITEBYTECODE=1 \
  setpriv --reuid=@UID@ --regid=@GID@ --clear-groups -- @PYTHON@ @PROGRAM@
"""


def _explain(text: str) -> tuple[str, str] | None:
    for line in reversed(text.splitlines()):
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and event.get("event") == "error":
            return str(event.get("message")), str(event.get("hint"))
    return None


@operation()
def fetched(
    wanted: Mapping[str, Model], layout: Layout, manifest: str, account: Account, endpoint: str, secrets: SecretStore
) -> Commands:
    """Every wanted model is there and verified. 0 requests when all is right."""
    paths = [f"{layout.models}/{rules.destination(model)}" for model in wanted.values()]
    changes = rules.reconcile(wanted, host.get_fact(ModelsState, manifest=manifest, paths=paths), layout.models)
    marks = {
        "@ACCOUNT@": f"{account.uid}:{account.gid}",
        "@UID@": str(account.uid),
        "@GID@": str(account.gid),
        "@ENDPOINT@": shlex.quote(endpoint),
        "@PYTHON@": f"{layout.venv}/bin/python",
        "@PROGRAM@": f"{layout.programs}/fetch_models.py",
    }
    script = _FETCH
    for mark, value in marks.items():
        script = script.replace(mark, value)

    def act() -> Commands:
        document = {
            "models": [
                {"name": name, "dest": rules.destination(model), **model.model_dump(exclude={"folder"})}
                for name, model in wanted.items()
            ],
            "cache_dir": f"{layout.hub_cache}/hub",
            "models_dir": layout.models,
            "manifest": manifest,
        }
        token = secrets.optional("HF_TOKEN") or ""
        yield Step(script, _explain, stdin=f"{token}\n{json.dumps(document)}\n", live=True)

    yield from carry_out(changes, act())
