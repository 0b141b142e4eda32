"""An apt repository that the data names: its checked key, its source, and apt's index of it."""

from __future__ import annotations

from dataclasses import dataclass

from gpuhost.apt import operations as apt
from gpuhost.apt import sources
from gpuhost.files.rules import plain
from gpuhost.project import apt_key
from gpuhost.run.host_run import HostRun


@dataclass(frozen=True)
class Repository:
    """One of the catalogue's `apt_repositories`. `key`: where its armored key lies; `source`: the file that declares
    it; `stamp`: touched when apt has read its index."""

    name: str
    key: str
    source: str
    url: str
    fingerprint: str
    stamp: str

    @classmethod
    def of(cls, run: HostRun, name: str, key: str, source: str) -> Repository:
        """As this host has it."""
        url = run.catalog.apt_repositories[name].url.format(**run.reading.url_marks)  # type: ignore[index]
        fingerprint = run.catalog.apt_key_fingerprints[name]  # type: ignore[index]
        path = f"/etc/apt/sources.list.d/{source}.sources"
        return cls(name, key, path, url, fingerprint, f"{run.paths.apt_stamp}-{name}")


def declared(run: HostRun, which: str, key: str, source: str, stage: str) -> None:
    """An apt repository: its checked key, its source, and apt's index of it."""
    wanted, repository = Repository.of(run, which, key, source), run.catalog.apt_repositories[which]  # type: ignore[index]
    marks = run.reading.url_marks
    suites = repository.suites.format(**marks)
    text = apt.source_text(wanted.url, suites, repository.components, run.reading.deb_arch, key)
    written = apt.repository(
        name=f"{stage} | apt repository {which}",
        stage=stage,
        key_url=repository.key_url.format(**marks),
        fingerprint=wanted.fingerprint,
        key=key,
        source=plain(wanted.source, text),
        url=wanted.url,
        foreign=sources.declaring(run.reading.apt_sources, wanted.url, run.reading.deb_arch)[0],
        backups=run.paths.backups,
        shipped=apt_key(wanted.fingerprint),
    )
    apt.index(
        name=f"{stage} | apt index of {which}",
        stage=stage,
        subject=f"apt index of {which}",
        stamp=wanted.stamp,
        source=wanted.source,
        url=wanted.url,
        declared=written,
    )


def look(run: HostRun, which: str, key: str, source: str) -> None:
    """What that asks of the host."""
    wanted = Repository.of(run, which, key, source)
    apt.look_at_repository(key, wanted.fingerprint, wanted.source)
    apt.look_for_unread(wanted.stamp, wanted.source, wanted.url)
