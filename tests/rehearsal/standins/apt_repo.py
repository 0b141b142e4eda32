"""Make Debian packages and signed repositories of them; fetch packages from this machine's mirror."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..world.mirrors import debian_mirror
from ..world.pki import SigningKey, clearsign
from ..world.run import run

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


@dataclass(frozen=True)
class Package:
    """A package to build: control fields, files below `root`, maintainer scripts by name."""

    name: str
    version: str
    root: Path
    depends: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    scripts: dict[str, str] = field(default_factory=dict)

    def build(self, folder: Path) -> Path:
        """Write the .deb into `folder`."""
        control = self.root / "DEBIAN"
        control.mkdir(parents=True, exist_ok=True)
        lines = {
            "Package": self.name,
            "Version": self.version,
            "Architecture": "amd64",
            "Maintainer": "gpuhost rehearsal <rehearsal@rehearsal.invalid>",
            "Section": "admin",
            "Priority": "optional",
            **({"Depends": self.depends} if self.depends else {}),
            **self.fields,
            "Description": f"stand-in for {self.name}",
        }
        (control / "control").write_text("".join(f"{key}: {value}\n" for key, value in lines.items()))
        for name, body in self.scripts.items():
            (control / name).write_text(body)
            if name != "conffiles":
                (control / name).chmod(0o755)
        file_version = self.version.split(":", 1)[-1]
        deb = folder / f"{self.name}_{file_version}_amd64.deb"
        run(["dpkg-deb", "--root-owner-group", "-Zzstd", "-z1", "--build", self.root, deb])
        return deb


def fetch_debs(suite: str, names: list[str], folder: Path) -> dict[str, Path]:
    """Download packages of a Debian suite and unpack each; returns name -> the folder of its files."""
    state = folder / "apt"
    for name in ("lists/partial", "archives/partial"):
        (state / name).mkdir(parents=True)
    mirror = debian_mirror()
    (state / "status").touch()
    (state / "sources.list").write_text(
        f"deb [signed-by={KEYRING}] {mirror.main} {suite} main\n"
        f"deb [signed-by={KEYRING}] {mirror.security} {suite}-security main\n"
    )
    options = {
        "Dir::Etc::sourcelist": state / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": state / "lists",
        "Dir::State::status": state / "status",
        "Dir::Cache": state,
        "Dir::Cache::archives": state / "archives",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        "Acquire::Check-Valid-Until": "false",
        "Acquire::Check-Date": "false",
    }
    apt = ["apt-get", "-q", *(part for key, value in options.items() for part in ("-o", f"{key}={value}"))]
    run([*apt, "update"])
    run([*apt, "download", *names], cwd=folder)
    unpacked: dict[str, Path] = {}
    (folder / "unpacked").mkdir()
    for name in names:
        deb = next(folder.glob(f"{name}_*.deb"))
        run(["dpkg-deb", "-x", deb, folder / "unpacked" / name])
        unpacked[name] = folder / "unpacked" / name
    return unpacked


def write_release(folder: Path, key: SigningKey, fields: dict[str, str]) -> None:
    """Sign the indexes below `folder`: Release and InRelease."""
    options = [part for name, value in fields.items() for part in ("-o", f"APT::FTPArchive::Release::{name}={value}")]
    for name in ("Release", "InRelease"):
        (folder / name).unlink(missing_ok=True)
    release = run(["apt-ftparchive", *options, "release", "."], cwd=folder).stdout
    (folder / "Release").write_text(release)
    clearsign(key, folder / "Release", folder / "InRelease")


def packages_index(root: Path, pool: str, index: Path) -> None:
    """Write `index` (and .gz) of the packages below `root/pool`; file names relative to `root`."""
    index.parent.mkdir(parents=True, exist_ok=True)
    index.write_text(run(["apt-ftparchive", "packages", pool], cwd=root).stdout)
    run(["gzip", "-9knf", index])
