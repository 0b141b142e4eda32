"""The script that fetches a signing key, run here with stand-ins for curl and gpg."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpuhost.apt import operations as apt
from gpuhost.files.rules import plain

URL = """https://apt.example/it's $HOME/"$(touch PWNED)`touch PWNED`";touch PWNED"""
FINGERPRINT = "A" * 40


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
    script = steps[0].get_raw_value().replace("/etc/apt/keyrings", str(tmp_path / "keyrings"))
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
