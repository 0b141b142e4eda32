"""Which modules decide something, and which changes of them mean nothing."""

from __future__ import annotations

from typing import NamedTuple

# Globs from the project's root. What only shows, reads files or speaks to a host is left to the rehearsals.
DECISIONS = (
    "gpuhost/apt/facts.py",
    "gpuhost/apt/operations.py",
    "gpuhost/catalog/*.py",
    "gpuhost/engine/rules.py",
    "gpuhost/files/rules.py",
    "gpuhost/files/folders.py",
    "gpuhost/files/trees.py",
    "gpuhost/gpu/rules.py",
    "gpuhost/host/facts.py",
    "gpuhost/host/paths.py",
    "gpuhost/host/preflight.py",
    "gpuhost/host/python.py",
    "gpuhost/images/rules.py",
    "gpuhost/installs/rules.py",
    "gpuhost/models/rules.py",
    "gpuhost/plan/*.py",
    "gpuhost/run/session.py",
    "gpuhost/secrets/envfile.py",
    "gpuhost/secrets/locations.py",
    "gpuhost/secrets/store.py",
    "gpuhost/services/containers.py",
    "gpuhost/services/mounts.py",
    "gpuhost/services/placement.py",
    "gpuhost/services/render.py",
    "gpuhost/services/rules.py",
    "gpuhost/services/spec.py",
    "gpuhost/services/stacks.py",
    "gpuhost/systemd/*.py",
    "gpuhost/verify/*.py",
    "files/host/hostside/envfile.py",
    "files/host/hostside/fingerprint.py",
    "files/host/hostside/labels.py",
    "files/host/hostside/models/hub_errors.py",
    "files/host/hostside/models/manifest.py",
    "files/host/hostside/models/watchdog.py",
    "files/host/hostside/placeholders.py",
    "files/host/hostside/redaction.py",
    "files/host/hostside/regular.py",
    "files/host/hostside/secret_audit.py",
    "files/host/hostside/timestamps.py",
    "files/host/hostside/trees/*.py",
    "files/host/hostside/verify/*.py",
    "files/host/hostside/wire.py",
    "files/orchestrator/orchestrator/*.py",
)


class Equivalent(NamedTuple):
    """A change that no test can tell from the code, or that none should: `file` ends with this, the line holds `line`,
    the change as it is shown begins with `change`."""

    file: str
    line: str
    change: str
    why: str


EQUIVALENT: tuple[Equivalent, ...] = ()
