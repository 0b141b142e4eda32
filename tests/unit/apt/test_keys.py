"""Signing keys: those that are shipped; the script that fetches one, run here with stand-ins for curl and gpg."""

from __future__ import annotations

import base64
import hashlib
import os
import runpy
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpuhost.apt import operations as apt
from gpuhost.files.rules import plain
from gpuhost.project import PROJECT, apt_key
from gpuhost.run.remote import Script

KEYS = PROJECT / "files" / "apt-keys"
URL = """https://apt.example/it's $HOME/"$(touch PWNED)`touch PWNED`";touch PWNED"""
FINGERPRINT = "A" * 40


def here(folder: Path, step: Script) -> str:
    """What it runs, for somebody who is not root."""
    script = step.get_raw_value().replace("/etc/apt/keyrings", str(folder / "keyrings"))
    return script.replace("/run gpuhost-key", f"{folder} gpuhost-key")


@pytest.mark.parametrize("fails", ["fetch", "fingerprint", ""])
def test_a_url_is_one_word_whatever_is_in_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fails: str) -> None:
    steps: list[Any] = []
    monkeypatch.setattr(apt, "host", SimpleNamespace(get_fact=lambda *a, **k: {}))
    monkeypatch.setattr(apt, "carry_out", lambda changes, commands: steps.extend(commands) or [])
    path = str(tmp_path / "key.asc")
    source = plain(str(tmp_path / "ours.sources"), "Types: deb\n")
    checked: dict[str, Any] = {"key_url": URL, "fingerprint": FINGERPRINT, "key": path, "source": source}
    checked |= {"url": "https://apt.example/debian", "foreign": []}
    list(apt.repository._inner(stage="engine", backups=str(tmp_path / "backups"), **checked))
    programs = tmp_path / "bin"
    programs.mkdir()
    curl = 'for last; do :; done; printf "%s" "$last" > asked; while [ "$1" != -o ]; do shift; done; : > "$2"'
    gpg = f'printf "pub:\\nfpr:::::::::{"B" * 40 if fails == "fingerprint" else FINGERPRINT}:\\n"'
    for name, code in {"curl": f"{curl}; exit {7 if fails == 'fetch' else 0}", "gpg": gpg}.items():
        (programs / name).write_text(f"#!/bin/sh\n{code}\n")
        (programs / name).chmod(0o755)
    script = here(tmp_path, steps[0])
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (tmp_path / "asked").read_text() == URL and not (tmp_path / "PWNED").exists()
    assert done.returncode == (1 if fails else 0), done.stderr
    if fails:
        what, hint = done.stderr.splitlines()
        assert f"the signing key at {URL} " in what and hint.startswith("hint: ")
    assert (tmp_path / "key.asc").exists() != bool(fails)


def fingerprint(armored: str) -> str:
    """Of the first packet of an armored OpenPGP key, which must be a public key, version 4 (RFC 4880, 12.2)."""
    lines = armored.strip().splitlines()
    assert lines[0] == "-----BEGIN PGP PUBLIC KEY BLOCK-----" and lines[-1] == "-----END PGP PUBLIC KEY BLOCK-----"
    body = lines[lines.index("") + 1 : -1]
    packets = base64.b64decode("".join(line for line in body if not line.startswith("=")))
    assert packets[0] == 0x99 and packets[3] == 4  # a public key whose length has two bytes
    length = int.from_bytes(packets[1:3], "big")
    return hashlib.sha1(packets[: 3 + length], usedforsecurity=False).hexdigest().upper()


def test_the_keys_that_are_shipped() -> None:
    """One for each repository of the shipped data, under the fingerprint that it has."""
    shipped = {file.stem: fingerprint(file.read_text()) for file in KEYS.iterdir()}
    expected = runpy.run_path(str(PROJECT / "group_data" / "all.py"))["apt_key_fingerprints"]
    assert shipped == {each: each for each in expected.values()}
    assert {apt_key(each) for each in shipped} == {file.read_text() for file in KEYS.iterdir()}
    assert apt_key(FINGERPRINT) is None


@pytest.mark.parametrize("other", [False, True])
def test_a_key_that_is_shipped_is_checked_and_not_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, other: bool
) -> None:
    steps: list[Any] = []
    monkeypatch.setattr(apt, "host", SimpleNamespace(get_fact=lambda *a, **k: {}))
    monkeypatch.setattr(apt, "carry_out", lambda changes, commands: steps.extend([*changes, *commands]) or [])
    path = str(tmp_path / "key.asc")
    checked: dict[str, Any] = {"key_url": URL, "fingerprint": FINGERPRINT, "key": path, "shipped": "the key\n"}
    checked |= {"source": plain(str(tmp_path / "ours.sources"), "Types: deb\n"), "foreign": []}
    list(apt.repository._inner(stage="engine", backups="/backups", url="https://apt.example/debian", **checked))
    change, script = steps[0], next(step for step in steps if isinstance(step, Script))
    assert (change.action, script.connector_arguments) == ("write", {"_stdin": "the key\n"})
    programs = {"curl": "touch asked", "gpg": f'printf "pub:\nfpr:::::::::{"B" * 40 if other else FINGERPRINT}:\n"'}
    for name, code in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{code}\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["sh", "-c", here(tmp_path, script)],
        input="the key\n",
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not (tmp_path / "asked").exists()
    if other:
        assert done.returncode == 1 and not Path(path).exists()
        assert done.stderr.startswith(f"error: the signing key that gpuhost ships has the fingerprint {'B' * 40}, not ")
    else:
        assert (done.returncode, Path(path).read_text()) == (0, "the key\n"), done.stderr
