"""What pip would install for an install, resolved here: every package in one version, with the sha256 of its files.

uv resolves it; it builds nothing, so no code of a package runs on this machine. Of a git repository only the one file
is read, at its commit.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from uv import find_uv_bin

from gpuhost.errors import Problem, UserError
from gpuhost.errors import explain as explain_by
from gpuhost.installs.rules import Sources

FILE = "requirements.txt"
# Wheels for it run on every system that an image of ours may hold; PyTorch's are made for it.
_PLATFORM = "x86_64-manylinux_2_28"
_GIT_S, _UV_S = 300, 600
_MAX_FILE_BYTES = 1 << 20
_PREFIX = "gpuhost-lock-"  # of folders that a resolution works in


def resolve(wanted: Sources, python: str) -> list[str]:
    """The packages for a Python version, sorted: `torch==2.8.0 --hash=sha256:... --hash=...`. Raises UserError."""
    with _folder() as folder:
        files = [folder / "pyproject.toml"]
        files[0].write_text(_project(wanted))
        texts = [_requirements(folder / f"{i}.git", *each) for i, each in enumerate(wanted.repositories)]
        for number, text in enumerate([*texts, "\n".join(wanted.lines) + "\n"]):
            files.append(folder / f"{number}-{FILE}")
            files[-1].write_text(text)
        return _packages(_compile(folder, files, python))


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder for as long as it is entered. Its lock goes with this program, however that ends; a folder that nobody
    holds is removed by the next run."""
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        if (held := _held(left)) is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(held)
    made = Path(tempfile.mkdtemp(prefix=_PREFIX))
    while (held := _held(made, wait=True)) is None and not made.is_dir():  # another run took it for one that was left
        made = Path(tempfile.mkdtemp(prefix=_PREFIX))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        if held is not None:
            os.close(held)


def _held(folder: Path, wait: bool = False) -> int | None:
    """What holds the lock of a folder of ours; None when another run has it (unless that is waited for), or it is none
    of ours, or gone."""
    try:
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    with suppress(OSError):
        fcntl.flock(held, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        mine = os.fstat(held)
        if mine.st_uid == os.geteuid() and os.path.samestat(mine, folder.lstat()):
            return held
    os.close(held)
    return None


def _project(wanted: Sources) -> str:
    """A project that takes what comes from an index of its own from there, and all else from nowhere near it."""
    pins = [pin for _, listed in wanted.indexes for pin in listed]
    lines = ["[project]", 'name = "gpuhost-install"', 'version = "0"', f"dependencies = {json.dumps(pins)}"]
    lines += ["[tool.uv.sources]"]
    lines += [
        f'{json.dumps(re.split(r"[^A-Za-z0-9._-]", pin)[0])} = {{ index = "index-{number}" }}'
        for number, (_, listed) in enumerate(wanted.indexes)
        for pin in listed
    ]
    for number, (url, _) in enumerate(wanted.indexes):
        lines += ["[[tool.uv.index]]", f'name = "index-{number}"', f"url = {json.dumps(url)}", "explicit = true"]
    return "\n".join(lines) + "\n"


def _requirements(folder: Path, url: str, commit: str) -> str:
    """The requirements file of a repository at a commit, "" when it has none."""
    _git(url, commit, "init", "-q", "--bare", str(folder))
    _git(url, commit, f"--git-dir={folder}", "fetch", "-q", "--no-tags", "--depth=1", "--", url, commit)
    # git compares what it fetched with the name that it was asked for; of a tag's own name this is another commit.
    if _git(url, commit, f"--git-dir={folder}", "rev-parse", "FETCH_HEAD^{commit}").strip() != commit:
        raise UserError(Problem(f"{commit} is not a commit of {_bare(url)}", "check the pinned commit in group_data"))
    listed = _git(url, commit, f"--git-dir={folder}", "ls-tree", "-l", commit, "--", FILE).split()
    if not listed:
        return ""
    mode, _, _, size, _ = listed
    if mode not in ("100644", "100755") or int(size) > _MAX_FILE_BYTES:
        what = f"{FILE} of {_bare(url)} at {commit[:12]} is no plain file of at most {_MAX_FILE_BYTES >> 20} MiB"
        raise UserError(Problem(what, "choose another commit"))
    return _git(url, commit, f"--git-dir={folder}", "show", f"{commit}:{FILE}")


_GIT_CAUSES = (
    (
        r"(?i)could not read username|authentication failed|not found|does not appear to be a git",
        "there is no readable git repository at @URL@",
        "check the URL in group_data",
    ),
    (
        r"(?i)not our ref|unadvertised object|couldn't find remote ref|bad object",
        "@COMMIT@ is not a commit of @URL@",
        "check the pinned commit in group_data",
    ),
    (
        r"(?i)could not resolve|timed out|connect|unable to access|certificate",
        "the repository @URL@ cannot be reached",
        "check network, DNS, proxy and CA of this machine",
    ),
)


def _git(url: str, commit: str, *words: str) -> str:
    # Nothing is asked, and what the person's own settings of git say holds (proxy, CA, credentials).
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(
            ["git", *words],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_GIT_S,
            check=False,
        )
    except FileNotFoundError:
        raise UserError(Problem("git is not installed on this machine", "install it: `apt-get install git`")) from None
    except subprocess.TimeoutExpired:
        raise UserError(Problem(f"the repository {_bare(url)} does not answer", "check the network")) from None
    if done.returncode == 0:
        return done.stdout
    last = tuple(done.stderr.splitlines()[-5:])
    cause = explain_by(_GIT_CAUSES, done.stderr)
    what, hint = cause or ("git failed on @URL@", "the lines below are git's own")
    what = what.replace("@URL@", _bare(url)).replace("@COMMIT@", commit)
    raise UserError(Problem(what, hint, detail=() if cause else tuple(map(_bare, last))))


def _bare(text: str) -> str:
    """Without what stands before the `@` of a URL."""
    return re.sub(r"://[^/@\s]+@", "://***@", text)


# What uv says. A wheel that is missing and a version that is missing are told apart by it, not by us.
_UV_CAUSES = (
    (
        r"(?i)(?:failed to fetch|error sending request|could not connect|request failed)[^\n]*?`?(https?://[^`\s)]+)",
        "the package index cannot be read: {0}",
        "check network, DNS, proxy and CA of this machine",
    ),
    (r"(?i)has no usable wheels|no wheels? with a matching", "a package has no wheel for this Python", "see below"),
    (r"(?i)requirements are unsatisfiable", "the versions asked for do not go together", "pin others in group_data"),
)


def _compile(folder: Path, files: Sequence[Path], python: str) -> str:
    words = [find_uv_bin(), "pip", "compile", "--quiet", "--no-cache", "--color=never", "--python", sys.executable]
    words += ["--python-version", python, "--python-platform", _PLATFORM, "--only-binary=:all:", "--generate-hashes"]
    words += ["--no-header", "--no-annotate", *(file.name for file in files)]
    try:
        done = subprocess.run(
            words,
            cwd=folder,
            env={**os.environ, "TMPDIR": str(folder)},  # it has its cache there for the time
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_UV_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UserError(Problem("the packages are not resolved after ten minutes", "check the network")) from None
    if done.returncode == 0:
        return done.stdout
    what, hint = explain_by(_UV_CAUSES, done.stderr) or ("the packages cannot be resolved", "the lines below are uv's")
    raise UserError(Problem(_bare(what), hint, detail=tuple(map(_bare, done.stderr.splitlines()[-12:]))))


def _packages(compiled: str) -> list[str]:
    """One line a package, each with its hashes."""
    lines = [
        re.sub(r"\s+", " ", line).strip()
        for line in compiled.replace("\\\n", " ").splitlines()
        if line.strip() and not line.lstrip().startswith(("#", "--index-url", "--extra-index-url"))
    ]
    for line in lines:
        if not re.match(r"[A-Za-z0-9._-]+==\S+ .*--hash=sha256:", line):
            what = f"`{_bare(line.partition(' --hash')[0])}` cannot be locked: it comes from no package index"
            raise UserError(Problem(what, "name a version of it that an index has"))
    return sorted(lines)
