"""An apt repository that the data names: its checked key, its source, and apt's index of it."""

from __future__ import annotations

from gpuhost.apt import operations as apt
from gpuhost.apt import sources
from gpuhost.files.rules import plain
from gpuhost.project import apt_key
from gpuhost.run.host_run import HostRun


def declared(run: HostRun, which: str, key: str, source: str, stage: str) -> None:
    """An apt repository: its checked key, its source, and apt's index of it."""
    repository = run.catalog.apt_repositories[which]  # type: ignore[index]
    marks = run.reading.url_marks
    url = repository.url.format(**marks)
    suites = repository.suites.format(**marks)
    text = apt.source_text(url, suites, repository.components, run.reading.deb_arch, key)
    fingerprint = run.catalog.apt_key_fingerprints[which]  # type: ignore[index]
    wanted = plain(f"/etc/apt/sources.list.d/{source}.sources", text)
    written = apt.repository(
        name=f"{stage} | apt repository {which}",
        stage=stage,
        key_url=repository.key_url.format(**marks),
        fingerprint=fingerprint,
        key=key,
        source=wanted,
        url=url,
        foreign=sources.declaring(run.reading.apt_sources, url, run.reading.deb_arch)[0],
        backups=run.paths.backups,
        shipped=apt_key(fingerprint),
    )
    apt.index(
        name=f"{stage} | apt index of {which}",
        stage=stage,
        subject=f"apt index of {which}",
        stamp=f"{run.paths.apt_stamp}-{which}",
        source=wanted.path,
        url=url,
        declared=written,
    )
