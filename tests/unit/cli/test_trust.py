"""`gpuhost trust`, and that nothing else trusts a host key: against a server that speaks SSH."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import paramiko
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from paramiko import PKey
from pyinfra.api.config import Config
from pyinfra.api.exceptions import ConnectError
from pyinfra.api.inventory import Inventory
from pyinfra.api.state import State
from pyinfra.connectors.ssh import connector_data_meta
from pyinfra.connectors.sshuserclient import client as pyinfra_client

from gpuhost.cli import arguments
from gpuhost.cli import main as cli
from gpuhost.cli import site as site_module
from gpuhost.run import connection, host_keys, known_hosts
from gpuhost.run.connection import refuse_unknown_keys
from tests.unit import sample
from tests.unit.ssh_server import SshServer

GET_HOST_KEYS = pyinfra_client.get_host_keys


def ed25519(folder: Path, name: str) -> PKey:
    file = folder / name
    file.write_bytes(
        Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )
    )
    return paramiko.Ed25519Key.from_private_key_file(str(file))


class Operator:
    """Somebody's home, inventory and terminal, and the host `gpu1`."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.ssh = root / "home" / ".ssh"
        self.ssh.mkdir(parents=True)
        self.known_hosts = self.ssh / "known_hosts"
        self.site = root / "site"
        self.key, self.rsa = ed25519(root, "key"), paramiko.RSAKey.generate(2048)
        self.other = ed25519(root, "other")
        self.server = SshServer(self.rsa, self.key)
        self.name = f"[127.0.0.1]:{self.server.port}"
        self._monkeypatch, self._capsys = monkeypatch, capsys
        monkeypatch.setenv("HOME", str(root / "home"))
        self.inventory()

    def inventory(self, **data: Any) -> None:
        self.site.mkdir(exist_ok=True)
        values = {"ssh_hostname": "127.0.0.1", "ssh_port": self.server.port, "ssh_user": "admin"} | data
        (self.site / "inventory.py").write_text(f"hosts = [('gpu1', {values!r}), '@local']\n")

    def config(self, text: str) -> None:
        (self.ssh / "config").write_text(text)
        forget()

    def trust(self, *words: str, answer: str | None = None) -> tuple[int, list[str]]:
        """The exit code and what was said; `answer`: typed at a terminal, None: there is none."""
        forget()
        terminal = SimpleNamespace(isatty=lambda: answer is not None, readline=lambda: f"{answer}\n")
        self._monkeypatch.setattr("sys.stdin", terminal)
        self._monkeypatch.setattr("builtins.input", lambda: answer)
        code = cli.main(["trust", "-i", str(self.site), *words])
        said = self._capsys.readouterr()
        assert said.out == ""
        return code, said.err.splitlines()

    def connect(self, **data: Any) -> str:
        """How pyinfra's own connection fails: nobody can log in there."""
        forget()
        values = {"ssh_hostname": "127.0.0.1", "ssh_port": self.server.port, "ssh_user": "admin"}
        quiet = {"ssh_allow_agent": False, "ssh_look_for_keys": False, "ssh_password": "x"}
        given = {name: value for name, value in (values | quiet | data).items() if value is not None}
        [host] = State(Inventory((["gpu1"], given)), Config()).inventory
        host.init(cast(State, SimpleNamespace(config=Config())))
        with pytest.raises(ConnectError) as caught:
            host.connector.connect()
        return str(caught.value)

    def knows(self, key: PKey, name: str | None = None) -> bool:
        asked = ["ssh-keygen", "-F", name or self.name, "-f", str(self.known_hosts)]
        found = subprocess.run(asked, capture_output=True, text=True, check=False)
        return f"{key.get_name()} {key.get_base64()}" in found.stdout


def forget() -> None:
    """What pyinfra keeps for the time of a process."""
    pyinfra_client.get_ssh_config.cache.clear()
    GET_HOST_KEYS.cache.clear()


@pytest.fixture
def operator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], pyinfra_state: State
) -> Iterator[Operator]:
    project = tmp_path / "project"
    sample.write_group_data(project, {"all": sample.data()})
    (project / "deploy.py").touch()
    for module in (arguments, site_module):
        monkeypatch.setattr(module, "PROJECT", project)
    monkeypatch.setattr(host_keys, "SYSTEM_CONFIG", str(tmp_path / "none"))
    # As pyinfra has them, whatever ran before in this process.
    monkeypatch.setattr(pyinfra_client, "get_host_keys", GET_HOST_KEYS)
    monkeypatch.setattr(pyinfra_client, "get_missing_host_key_policy", connection._policy)
    monkeypatch.setattr(connector_data_meta["ssh_strict_host_key_checking"], "default", "accept-new")
    made = Operator(tmp_path, monkeypatch, capsys)
    yield made
    made.server.close()
    forget()


# -- a run -------------------------------------------------------------------------------------------------------------


def test_pyinfra_by_itself_takes_any_key(operator: Operator) -> None:
    """Or the next tests would prove nothing."""
    assert "Authentication error" in operator.connect()
    assert operator.knows(operator.key) or operator.knows(operator.rsa)


def test_an_unknown_key_is_refused_and_not_kept(operator: Operator) -> None:
    refuse_unknown_keys()
    assert f"No host key for {operator.name} found" in operator.connect()
    for config in ("StrictHostKeyChecking yes", "StrictHostKeyChecking ask", "User somebody"):
        operator.config(f"Host *\n  {config}\n")
        assert f"No host key for {operator.name} found" in operator.connect()
    assert not operator.known_hosts.exists()


def test_who_says_otherwise_is_heard(operator: Operator, tmp_path: Path) -> None:
    refuse_unknown_keys()
    operator.config("Host *\n  StrictHostKeyChecking accept-new\n")
    assert "No host key" in operator.connect(ssh_strict_host_key_checking="yes")
    assert "Authentication error" in operator.connect()
    operator.known_hosts.unlink()
    operator.config("")
    mine = tmp_path / "mine"
    mine.write_text(f"{operator.name} {operator.key.get_name()} {operator.key.get_base64()}\n")
    assert "Authentication error" in operator.connect(ssh_known_hosts_file=str(mine))
    assert "Authentication error" in operator.connect(ssh_strict_host_key_checking="off")
    assert not operator.known_hosts.exists()


def test_a_host_on_the_way_is_not_asked_about(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    """pyinfra would ask, and show no fingerprint; of another key than the known one it would not speak at all."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    refuse_unknown_keys()
    operator.config(f"Host gpu1.example\n  ProxyJump 127.0.0.1:{operator.server.port}\n")
    assert f"No host key for {operator.name} found" in operator.connect(ssh_hostname="gpu1.example", ssh_port=22)
    known_hosts.add(operator.known_hosts, operator.name, operator.other, hashed=False)
    assert "Host key for 127.0.0.1 does not match" in operator.connect(ssh_hostname="gpu1.example", ssh_port=22)


# -- gpuhost trust -----------------------------------------------------------------------------------------------------


def test_the_fingerprint_is_shown_and_the_key_added_when_the_person_says_so(operator: Operator) -> None:
    shown = f"256 {operator.key.fingerprint} {operator.name} (ED25519)"
    code, said = operator.trust("gpu1", answer="n")
    assert code == 1 and said[0] == shown and not operator.known_hosts.exists()
    code, said = operator.trust("gpu1", answer="y")
    assert code == 0 and said[0] == shown and said[-1].endswith(f"trusted: {operator.name} in {operator.known_hosts}")
    assert operator.knows(operator.key) and not operator.knows(operator.rsa)  # only what was shown
    assert operator.known_hosts.stat().st_mode & 0o777 == 0o600
    listed = subprocess.run(["ssh-keygen", "-lf", operator.known_hosts], capture_output=True, text=True, check=True)
    assert listed.stdout.strip() == shown
    refuse_unknown_keys()
    assert "Authentication error" in operator.connect()
    before = operator.known_hosts.read_text()
    assert operator.trust("gpu1") == (0, [f"known already: {shown}"])
    assert operator.known_hosts.read_text() == before


def test_without_a_terminal_nobody_is_trusted(operator: Operator) -> None:
    code, said = operator.trust("gpu1")
    assert code == 1 and said[-2] == "error: nobody can be asked: stdin is not a terminal"
    assert said[-1].startswith("hint: add --yes and --fingerprint SHA256:")
    code, said = operator.trust("gpu1", "--yes")
    assert code == 1 and said[0] == "error: --yes alone would trust whoever answers" and len(said) == 2
    assert not operator.known_hosts.exists()


def test_only_the_expected_fingerprint_is_taken(operator: Operator) -> None:
    code, said = operator.trust("gpu1", "--yes", "--fingerprint", operator.other.fingerprint)
    assert code == 1 and operator.other.fingerprint in said[0] and operator.key.fingerprint in said[0]
    assert len(said) == 2 and not operator.known_hosts.exists()
    assert operator.trust("gpu1", "--yes", "--fingerprint", operator.rsa.fingerprint)[0] == 0
    assert operator.knows(operator.rsa) and not operator.knows(operator.key)


def test_a_changed_key_is_never_replaced_without_both_being_shown(operator: Operator) -> None:
    others = "# mine\n\n@cert-authority *.example ssh-ed25519 AAAA\ngpu9,192.0.2.9 ssh-ed25519 AAAA\n"
    shared = f"gpu7,{operator.name} {operator.other.get_name()} {operator.other.get_base64()} a comment\n"
    operator.known_hosts.write_text(others + shared)
    code, said = operator.trust("gpu1", answer="n")
    assert code == 1 and operator.known_hosts.read_text() == others + shared
    assert [re.sub(" +", " ", line) for line in said[:2]] == [
        f"known: 256 {operator.other.fingerprint} {operator.name} (ED25519)",
        f"now: 256 {operator.key.fingerprint} {operator.name} (ED25519)",
    ]
    assert "ANOTHER ONE" in said[2] and "Forget the old key" in said[-1]
    code, said = operator.trust("gpu1", answer="y")
    assert code == 0 and operator.knows(operator.key) and not operator.knows(operator.other)
    assert operator.knows(operator.other, "gpu7") and operator.known_hosts.read_text().startswith(others)
    assert (operator.ssh / "known_hosts.old").read_text() == others + shared
    operator.server.keys = [operator.rsa]  # a rebuilt host may have another kind only
    code, said = operator.trust("gpu1", "--yes", "--fingerprint", operator.rsa.fingerprint)
    assert code == 0 and operator.key.fingerprint in said[0] and operator.rsa.fingerprint in said[1]
    assert not operator.knows(operator.key) and operator.knows(operator.rsa)


def test_an_old_key_before_the_new_one_is_forgotten(operator: Operator) -> None:
    """OpenSSH takes either; a run looks at the first only, and would refuse the host."""
    for key in (operator.other, operator.key):
        known_hosts.add(operator.known_hosts, operator.name, key, hashed=False)
    refuse_unknown_keys()
    assert "does not match" in operator.connect()
    code, said = operator.trust("gpu1", answer="y")
    assert code == 0 and operator.other.fingerprint in said[0]
    assert "Authentication error" in operator.connect()


def test_a_line_that_paramiko_does_not_understand_hides_none_behind_it(operator: Operator) -> None:
    lines = ["@cert-authority *.example ssh-ed25519 AAAA", "|1|x|y ssh-ed25519 ?", "\xff", "gpu9 ssh-ed25519 AAAA"]
    lines += [
        f"|1|{salt} {operator.other.get_name()} {operator.other.get_base64()}" for salt in ("x|y", "eHg=|eHg=", "")
    ]
    operator.known_hosts.write_text("\n".join([*lines, "gpu9 ssh-new AAAA", ""]))
    assert operator.trust("gpu1", answer="y")[0] == 0
    refuse_unknown_keys()
    assert "Authentication error" in operator.connect()


@pytest.mark.parametrize("by", ["the file", "ssh_config", "the system's"])
def test_names_are_hashed_where_they_are(
    operator: Operator, by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if by == "the file":
        known_hosts.add(operator.known_hosts, "gpu9", operator.other, hashed=True)
    elif by == "ssh_config":
        operator.config("Host *\n  HashKnownHosts yes\n")
    else:
        (tmp_path / "system").write_text("Host *\n  HashKnownHosts yes\n")
        monkeypatch.setattr(host_keys, "SYSTEM_CONFIG", str(tmp_path / "system"))
    assert operator.trust("gpu1", answer="y")[0] == 0
    assert operator.knows(operator.key) and "127.0.0.1" not in operator.known_hosts.read_text()
    operator.server.keys = [operator.other]
    assert operator.trust("gpu1", answer="y")[0] == 0
    assert operator.knows(operator.other) and not operator.knows(operator.key)
    assert by != "the file" or operator.knows(operator.other, "gpu9")


def test_the_users_ssh_config_says_where_the_host_and_the_file_are(operator: Operator, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    operator.inventory(ssh_hostname="box", ssh_port=None)
    operator.config(f"Host box\n  HostName 127.0.0.1\n  Port {operator.server.port}\n  UserKnownHostsFile {mine}\n")
    assert operator.trust("gpu1", answer="y")[0] == 0
    assert operator.name in mine.read_text() and not operator.known_hosts.exists()
    refuse_unknown_keys()
    assert "Authentication error" in operator.connect(ssh_hostname="box", ssh_port=None)


def test_a_host_on_the_way_is_trusted_first(operator: Operator) -> None:
    operator.inventory(ssh_hostname="gpu1.example", ssh_port=22)
    operator.config(f"Host gpu1.example\n  ProxyJump 127.0.0.1:{operator.server.port}\n")
    code, said = operator.trust("gpu1", answer="y")
    assert code == 1 and len(said) == 2 and not operator.known_hosts.exists()
    assert f"the SSH host key of {operator.name}, on the way to this host, is not known" in said[0]


def test_a_file_that_is_a_link_stays_one(operator: Operator, tmp_path: Path) -> None:
    (tmp_path / "dotfiles").mkdir()
    operator.known_hosts.symlink_to(tmp_path / "dotfiles" / "known_hosts")
    assert operator.trust("gpu1", answer="y")[0] == 0
    assert operator.known_hosts.is_symlink() and operator.knows(operator.key)


MISTAKES = {
    "another name": ("gpu2", "error: the inventory names no host `gpu2`", "hint: did you mean `gpu1`?"),
    "no SSH": ("@local", "error: this host is not reached by SSH: it has no host key", "hint: nothing is to be done"),
}


@pytest.mark.parametrize(("host", "what", "hint"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_told(operator: Operator, host: str, what: str, hint: str) -> None:
    assert operator.trust(host, answer="y") == (1, [what, hint])


def test_a_host_that_does_not_answer(operator: Operator) -> None:
    operator.server.close()
    code, said = operator.trust("gpu1", answer="y")
    assert code == 1 and len(said) == 2 and said[0].startswith("error: [gpu1] no SSH connection: ")


def test_a_file_that_cannot_be_written(operator: Operator) -> None:
    operator.known_hosts.mkdir()
    code, said = operator.trust("gpu1", answer="y")
    assert code == 1 and "known_hosts" in said[-2] and said[-1].startswith("hint: ") and "Traceback" not in str(said)
