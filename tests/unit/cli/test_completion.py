"""What a shell completes: by the code that it reads, and by what it then asks at each TAB."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gpuhost.cli import main as cli
from gpuhost.project import PROJECT


@pytest.fixture(autouse=True)
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "inventory.py").write_text('lab = ["gpu1", "gpu2"]\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def completed(line: str, folder: Path) -> list[str]:
    """What `gpuhost` answers a shell in which somebody pressed TAB behind this line."""
    answer = folder / "answer"
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n"}
    environment |= {"COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_STDOUT_FILENAME": str(answer)}
    done = subprocess.run(
        [sys.executable, "-m", "gpuhost.cli.main"], env=environment, cwd=folder, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, b""), done.stderr
    return [word.strip() for word in answer.read_text().splitlines()]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("gpuhost pl", ["plan"]),
        ("gpuhost plan --no", ["--no-diff"]),
        ("gpuhost plan --only st", ["stacks"]),
        ("gpuhost plan --limit g", ["gpu1", "gpu2"]),
        ("gpuhost logs orch", ["orchestrator"]),
        ("gpuhost secrets show ORCH", ["ORCHESTRATOR_TOKEN"]),
        ("gpuhost secrets ro", ["rotate"]),
        ("gpuhost secrets show HF", ["HF_TOKEN"]),
        ("gpuhost secrets rotate HF", []),
        ("gpuhost secrets show COMFYUI_U", ["COMFYUI_USER"]),
        ("gpuhost secrets rotate COMFYUI_U", []),
        ("gpuhost secrets rotate ORCH", ["ORCHESTRATOR_TOKEN"]),
        ("gpuhost lock qwen3-mi", ["qwen3-micro", "qwen3-mini"]),
        ("gpuhost completion z", ["zsh"]),
    ],
)
def test_a_word(site: Path, line: str, words: list[str]) -> None:
    assert completed(line, site) == words


def test_what_cannot_be_read_completes_to_nothing(site: Path) -> None:
    (site / "inventory.py").write_text("hosts = [\n")
    assert completed("gpuhost logs orch", site) == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_code_of_a_shell(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", shell]) == 0
    code = capsys.readouterr().out
    assert "gpuhost" in code
    if program := shutil.which(shell):
        subprocess.run([program, "-n"], input=code, text=True, check=True)


def test_bash_itself(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["completion", "bash"])
    code = capsys.readouterr().out
    (site / "bin").mkdir()
    program = site / "bin/gpuhost"
    program.write_text(f"#!{sys.executable}\nimport sys\nfrom gpuhost.cli.main import main\nsys.exit(main())\n")
    program.chmod(0o755)
    asked = "COMP_LINE='gpuhost status --li'; COMP_POINT=${#COMP_LINE}; COMP_TYPE=9; _python_argcomplete gpuhost"
    script = f'{code}\n{asked}\necho "${{COMPREPLY[@]}}"'
    environment = {**os.environ, "PATH": f"{site / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "--limit"
