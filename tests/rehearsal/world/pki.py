"""Keys of the rehearsal: a test CA, one server certificate for all names, two apt signing keys, SSH keys."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

from .cache import cached, digest
from .run import run

CA_SUBJECT = "/CN=gpuhost rehearsal CA (worthless outside of tests)"
DAYS = "3650"
NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True)
class Certificate:
    """PEM files of one server: chain and key."""

    chain: Path
    key: Path


@dataclass(frozen=True)
class SigningKey:
    """An apt repository's key: GnuPG home (secret), armored public key, fingerprint (40 hex digits)."""

    home: Path
    public: Path
    fingerprint: str


def certificate_authority() -> Path:
    """The folder with ca.crt and ca.key; made once per cache."""

    def build(folder: Path) -> None:
        what = ["-x509", "-days", DAYS, "-subj", CA_SUBJECT, "-addext", "keyUsage=critical,keyCertSign,cRLSign"]
        run(["openssl", "req", *NEW_KEY, *what, "-keyout", folder / "ca.key", "-out", folder / "ca.crt"])

    return cached("ca", digest(CA_SUBJECT, DAYS), build)


def server_certificate(names: list[str]) -> Certificate:
    """One certificate that is valid for all `names`, signed by the test CA."""
    ca = certificate_authority()

    def build(folder: Path) -> None:
        alt = "subjectAltName=" + ",".join(f"DNS:{name}" for name in names)
        (folder / "ext").write_text(f"{alt}\nextendedKeyUsage=serverAuth\nbasicConstraints=CA:FALSE\n")
        csr = folder / "server.csr"
        who = ["-subj", "/CN=gpuhost rehearsal", "-keyout", str(folder / "server.key")]
        run(["openssl", "req", *NEW_KEY, *who, "-out", csr])
        signer = ["-CA", str(ca / "ca.crt"), "-CAkey", str(ca / "ca.key"), "-set_serial", f"0x{secrets.token_hex(8)}"]
        terms = ["-days", DAYS, "-extfile", str(folder / "ext")]
        run(["openssl", "x509", "-req", "-in", csr, *signer, *terms, "-out", folder / "server.crt"])

    made = cached("server-cert", digest(ca / "ca.crt", *sorted(names)), build)
    return Certificate(made / "server.crt", made / "server.key")


def signing_key(name: str) -> SigningKey:
    """The apt signing key `name` ("docker", "nvidia", ...), made once per cache."""

    def build(folder: Path) -> None:
        home = folder / "home"
        home.mkdir(mode=0o700)
        gpg = ["gpg", "--homedir", str(home), "--batch", "--no-tty"]
        user = f"gpuhost rehearsal {name} <{name}@rehearsal.invalid>"
        run([*gpg, "--passphrase", "", "--quick-generate-key", user, "ed25519", "sign", "never"])
        armored = run([*gpg, "--armor", "--export"]).stdout
        (folder / "key.asc").write_text(armored)
        listing = run([*gpg, "--with-colons", "--list-keys"]).stdout.splitlines()
        (folder / "fingerprint").write_text(next(x for x in listing if x.startswith("fpr:")).split(":")[9])
        run(["gpgconf", "--homedir", home, "--kill", "all"], check=False)

    made = cached(f"signing-key-{name}", digest(name), build)
    return SigningKey(made / "home", made / "key.asc", (made / "fingerprint").read_text())


def clearsign(key: SigningKey, text: Path, signed: Path) -> None:
    """Write `signed`: `text` with a clear signature, as apt's InRelease has it."""
    gpg = ["gpg", "--homedir", str(key.home), "--batch", "--no-tty", "--yes", "--digest-algo", "SHA512"]
    run([*gpg, "--clearsign", "-o", signed, text])
    run(["gpgconf", "--homedir", key.home, "--kill", "all"], check=False)


def ssh_key(path: Path, comment: str = "gpuhost-rehearsal") -> str:
    """Make an ed25519 key at `path` (0600) unless it is there; the public key's line."""
    if not path.exists():
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", path])
        path.chmod(0o600)
    return path.with_name(path.name + ".pub").read_text().strip()
