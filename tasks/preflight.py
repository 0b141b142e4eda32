"""Refuse before anything changes; decide who runs where."""

from __future__ import annotations

from pyinfra.context import host, state

from gpuhost.errors import Problem, UserError
from gpuhost.facts.host import HostState
from gpuhost.inventory import catalog_of
from gpuhost.operations import lock
from gpuhost.placement import place
from gpuhost.preflight import problems, sudo_problem
from gpuhost.remote import run as run_now
from gpuhost.remote import send_at_once
from gpuhost.run import HostRun
from gpuhost.secrets import SecretStore
from gpuhost.session import ONLY_DATA, current, note, tell

# Asked without privileges; the answer is prefixed so that nothing takes it for a password prompt.
_SUDO = """
if [ "$(id -u)" = 0 ]; then echo 'sudo=root'
elif ! command -v sudo >/dev/null 2>&1; then echo 'sudo=absent'
else printf 'sudo=%s\\n' "$(sudo -n true 2>&1 && echo ok)"; fi
"""


def preflight() -> HostRun | None:
    """The run of this host, or None when it is refused (its problems told, the host failed)."""
    current().report.add("host", host.name)
    send_at_once()
    try:
        catalog = catalog_of(host)
        found = _privileges()
        if not found:
            roots = [catalog.data_root, catalog.state_root, "/var/lib/docker"]
            reading = host.get_fact(HostState, roots=roots)
            placement = place(catalog.enabled(), reading.gpus)
            found = problems(reading, catalog, placement.gpus, host.name)
    except UserError as error:
        found = [Problem(problem.what, problem.hint, host.name) for problem in error.problems]
    if found:
        for problem in found:
            tell(problem)
        state.fail_hosts({host})
        return None
    if not reading.gpus:
        note("gpu", "no NVIDIA GPU on this host: the NVIDIA Container Toolkit is not installed")
    for service, why in placement.skipped.items():
        note("skipped", f"skipped: {service}: {why}", service=service, reason=why)
    if host.data.get(ONLY_DATA) is None:
        lock.host_lock(name="preflight | host lock")
    return HostRun(catalog, reading, placement, SecretStore(catalog, host.name))


def _privileges() -> list[Problem]:
    completed = run_now(_SUDO, sudo=False)
    has_password = bool(state.config.SUDO_PASSWORD or getattr(state.config, "USE_SUDO_PASSWORD", False))
    problem = sudo_problem(completed.stdout, has_password)
    return [Problem(*problem, host=host.name)] if problem else []
