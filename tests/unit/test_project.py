"""What is shipped arrives byte for byte, whatever lies among it."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import pytest

from gpuhost.files.facts import parse, read_script
from gpuhost.files.operations import write_step
from gpuhost.files.rules import encoded, plain, same
from gpuhost.plan.spec import text_digest
from gpuhost.project import _read, folder
from gpuhost.services.stacks import Stacks
from tests.unit import sample

ODD = b"\xff\xfe binary \x00 and\r\nline ends\n\xc3\xa9"


def test_a_file_that_is_no_text_is_shipped_as_it_is(tmp_path: Path) -> None:
    """An editor's swap file among them breaks no plan."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".x.swp").write_bytes(ODD)
    (tmp_path / "run.sh").write_text("#!/bin/sh\n")
    (tmp_path / "run.sh").chmod(0o755)
    found = folder(tmp_path)
    assert {path: file.mode for path, file in found.items()} == {"a/.x.swp": "644", "run.sh": "755"}
    spec = plain(str(tmp_path / "copy"), found["a/.x.swp"].text)
    step = write_step([spec], {spec.path: spec.content()}, "/backups")
    encoded = str(step.connector_arguments["_stdin"]).splitlines()[0]
    assert base64.b64decode(encoded) == ODD
    Path(spec.path).write_bytes(ODD)
    seen = subprocess.run(["sh", "-c", read_script([spec.path])], capture_output=True, text=True, check=True).stdout
    assert same(spec, spec.content(), parse(seen.splitlines())[spec.path])
    assert text_digest(found["a/.x.swp"].text) != text_digest(found["run.sh"].text)


def test_a_service_may_be_given_a_file_that_is_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "logo.png").write_bytes(ODD)
    monkeypatch.setattr("gpuhost.services.stacks.project_file", lambda path: _read(tmp_path / path).text)
    stacks = Stacks(sample.run({"services.api.shipped_files": {"logo.png": "logo.png"}}, {"LABEL_HMAC_KEY": "k"}))
    [path] = stacks.specs["api"]["files"]
    [spec] = [each for each in stacks.files("front") if each.path == path]
    assert path.endswith("/config/api/logo.png") and encoded(spec.content()) == ODD
