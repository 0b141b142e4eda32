"""An apt repository that the data names: its checked key, its source, and apt's index with it."""

from __future__ import annotations

from pyinfra.operations import apt as builtin_apt

from gpuhost.apt import operations as apt
from gpuhost.plan.change import Change, Resource
from gpuhost.run.host_run import HostRun
from gpuhost.run.session import builtin


def declared(run: HostRun, which: str, key: str, source: str, stage: str) -> None:
    """An apt repository: its checked key, its source, and apt's index with it."""
    repository = run.catalog.apt_repositories[which]  # type: ignore[index]
    marks = run.reading.url_marks
    url = repository.url.format(**marks)
    apt.signing_key(
        name=f"{stage} | signing key of {which}",
        stage=stage,
        url=repository.key_url.format(**marks),
        fingerprint=run.catalog.apt_key_fingerprints[which],  # type: ignore[index]
        path=key,
    )
    written = builtin(
        Change(stage, Resource("apt source", which), "write", f"{url} is not declared with our key"),
        builtin_apt.sources_file(
            name=f"{stage} | apt source {which}",
            filename=source,
            uris=[url],
            suites=[repository.suites.format(**marks)],
            components=repository.components.split(),
            architectures=[run.reading.deb_arch],
            signed_by=key,
        ),
    )
    apt.index(
        name=f"{stage} | apt index with {which}",
        stage=stage,
        subject=f"apt index with {which}",
        stamp=run.layout.apt_stamp,
        source=f"/etc/apt/sources.list.d/{source}.sources",
        written=written,
    )
