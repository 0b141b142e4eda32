"""What is shipped arrives byte for byte, whatever lies among it."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

from gpuhost.files.facts import parse, read_script
from gpuhost.files.operations import write_step
from gpuhost.files.rules import plain, same
from gpuhost.plan.spec import text_digest
from gpuhost.project import folder

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
