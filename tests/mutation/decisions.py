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
    "gpuhost/files/owners.py",
    "gpuhost/files/trees.py",
    "gpuhost/gpu/driver.py",
    "gpuhost/gpu/rules.py",
    "gpuhost/host/facts.py",
    "gpuhost/host/paths.py",
    "gpuhost/host/preflight.py",
    "gpuhost/host/python.py",
    "gpuhost/images/dockerfile.py",
    "gpuhost/images/registry.py",
    "gpuhost/images/rules.py",
    "gpuhost/installs/rules.py",
    "gpuhost/models/decided.py",
    "gpuhost/models/neighbours.py",
    "gpuhost/models/patterns.py",
    "gpuhost/models/rules.py",
    "gpuhost/plan/*.py",
    "gpuhost/run/session.py",
    "gpuhost/secrets/envfile.py",
    "gpuhost/secrets/locations.py",
    "gpuhost/secrets/store.py",
    "gpuhost/engine/containers.py",
    "gpuhost/services/arguments.py",
    "gpuhost/services/conformity.py",
    "gpuhost/services/files.py",
    "gpuhost/services/placement.py",
    "gpuhost/services/render.py",
    "gpuhost/services/rules.py",
    "gpuhost/services/compose.py",
    "gpuhost/services/forms.py",
    "gpuhost/services/stacks.py",
    "gpuhost/systemd/*.py",
    "gpuhost/verify/*.py",
    "files/host/hostside/envfile.py",
    "files/host/hostside/fingerprint.py",
    "files/host/hostside/labels.py",
    "files/host/hostside/models/hub_errors.py",
    "files/host/hostside/models/manifest.py",
    "files/host/hostside/models/meter.py",
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


_POWER = "shown only by a loss of power"
_SET_BEFORE = "a first value that is never read"
EQUIVALENT: tuple[Equivalent, ...] = (
    Equivalent("trees/record.py", "HOLE_FACTOR = ", "16 -> 17", "a bound on nonsense"),
    Equivalent("trees/record.py", "MAX_BYTES + 1", "MAX_BYTES + 1 -> (MAX_BYTES - 1)", "a bound on nonsense"),
    Equivalent("orchestrator/connections.py", "> CONNECTIONS", "len(self.connections) >", "one more or less"),
    Equivalent("verify/observe.py", "watch.outcome or", "watch.outcome or", "the waiting ends with an outcome"),
    Equivalent("files/trees.py", 'words = ["timeout"', "\"-B\" -> '-BXX'", "Python ignores it"),
    Equivalent("secrets/store.py", "return False", "False -> None", "either is no"),
    Equivalent("engine/containers.py", '"swap": swap_text', "0 -> 1", "without a limit there is no swap either"),
    Equivalent("host/preflight.py", 'return ""', '"" -> None', "either way nothing is said"),
    Equivalent("catalog/inventory.py", "_SSH = sorted", "sorted -> list", "the order in which a name is looked for"),
    Equivalent("host/facts.py", "cpus: int = 0", "0 -> 1", _SET_BEFORE),
    Equivalent("models/meter.py", "daemon=True", "without daemon", "__exit__ waits for the thread"),
    Equivalent("models/meter.py", "daemon=True", "True -> False", "__exit__ waits for the thread"),
    Equivalent("models/manifest.py", "json.dumps", "without", "how the file looks to a person"),
    Equivalent("models/manifest.py", "os.fsync", "os.fsync(file.fileno()) -> pass", _POWER),
    Equivalent("models/manifest.py", "file.flush()", "file.flush() -> pass", _POWER),
    Equivalent("models/hub_errors.py", "[:200]", "200 -> 201", "how much of another program's text is shown"),
    Equivalent("hostside/redaction.py", "quote(secret, safe", "\"\" -> 'XX'", "an X is never quoted"),
    Equivalent("hostside/redaction.py", "for shift in range(3)", "3 -> 4", "three bytes are four digits: 3 is 0 again"),
    Equivalent("verify/answers.py", "CONNECT_TIMEOUT_S =", "", "how patient it is"),
    Equivalent("trees/look.py", "_MAX = ", "1_000_000 -> 1000001", "a bound on nonsense"),
    Equivalent("catalog/inventory.py", "suggest(install.script", '"script" -> ', "said when there is none at all"),
    Equivalent("verify/answers.py", "GRACE_S =", "", "how patient it is"),
    Equivalent("files/trees.py", 'return {"size": f', '"mode" -> ', "a name that nobody is shown"),
    Equivalent("files/trees.py", 'return {"size": f', '"size" -> ', "a name that nobody is shown"),
    Equivalent("files/trees.py", 'return {"size": f', '"owner" -> ', "a name that nobody is shown"),
    Equivalent("host/python.py", 'programs: str = ""', "\"\" -> 'XX'", "no folder has that name either"),
    Equivalent("verify/observe.py", "_s: float = 0.0", "0.0 -> 1.0", _SET_BEFORE),
    Equivalent("trees/look.py", ": int = 0", "0 -> 1", "compared with each other, for kinds that have none"),
    Equivalent("trees/record.py", "_sync(", "_sync", _POWER),
    Equivalent("secrets/store.py", "check=False", "without check=False", "it is what subprocess does by itself"),
    Equivalent("trees/record.py", "check=False", "without check=False", "it is what subprocess does by itself"),
    Equivalent("trees/record.py", "file.flush()", "file.flush() -> pass", _POWER),
    Equivalent("images/registry.py", "timeout=20", "without timeout=20", "how patient it is"),
    Equivalent("images/registry.py", "timeout=20", "20 -> 21", "how patient it is"),
    Equivalent("images/registry.py", "_ANSWER_S = ", "60.0 -> 61.0", "how patient it is"),
    Equivalent(
        "images/registry.py", "until", "time.monotonic() > until -> time.monotonic() >=", "no clock hits that moment"
    ),
    Equivalent("images/registry.py", '"WWW-Authenticate", ""', "\"\" -> 'XX'", "neither names a scheme"),
    Equivalent("images/registry.py", '"Retry-After", ""', "\"\" -> 'XX'", "neither is a number"),
    Equivalent("trees/record.py", "os.fsync", "os.fsync(file.fileno()) -> pass", _POWER),
    Equivalent("catalog/messages.py", "about.is_required()", "about.is_required() -> True", "it is the first field"),
    Equivalent("plan/report.py", "sort_keys", "without sort_keys", "the order of keys in a line that a program reads"),
    Equivalent("plan/report.py", "sort_keys", "True -> False", "the order of keys in a line that a program reads"),
    Equivalent(
        "services/rules.py",
        "if name != container.service",
        "name != container.service -> True",
        "none is in its own way",
    ),
)
