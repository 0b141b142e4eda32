"""One host's folders, and the program run on them against the rehearsal's hub over real HTTP."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hostside.models import fetch
from hostside.models.hub_errors import FetchError, explain_disk
from hostside.protocol.models import ManifestEntry, ModelFile, ModelRef, ModelsRequest, manifest_key, model_event
from hostside.wire import to_json
from tests.rehearsal.standins.local import LocalHub

REPO = "owner/model"
STALL_S = 20.0


def wait_for(condition: Callable[[], Any]) -> None:
    while not condition():  # the test's own time limit ends it
        time.sleep(0.005)


class Host:
    """`cache`: the hub's; `models`: the folder of links."""

    def __init__(self, root: Path, hub: LocalHub, capsys: pytest.CaptureFixture[str] | None = None) -> None:
        self.root, self.hub = root, hub
        self.cache, self.models, self.manifest = root / "cache/hub", root / "models", root / "state/models.json"
        self._capsys = capsys

    def files(self, repo: str = REPO, **over: Any) -> list[ModelFile]:
        """What a plan says of every file of a repository's newest commit; `links`: path -> links."""
        meta = self.hub.store.read(repo)
        assert meta
        links = over.pop("links", {})
        found = []
        for path, entry in meta["commits"][meta["main"]].items():
            known: dict[str, Any] = {
                "model": repo.partition("/")[2],
                "repo": repo,
                "commit": meta["main"],
                "file": path,
                "size": entry["size"],
                "sha256": entry["lfs"]["oid"] if "lfs" in entry else None,
                "git_sha1": entry["oid"],
                "links": links.get(path, []),
                "action": "fetch",
                "gated": meta["gated"],
            }
            found.append(ModelFile(**(known | over)))
        return found

    def request(
        self,
        files: list[ModelFile],
        stall_s: float = STALL_S,
        token: str | None = None,
        refs: list[ModelRef] | None = None,
        peer_secret: str | None = None,
    ) -> ModelsRequest:
        folders = (str(self.cache), str(self.models), str(self.manifest))
        return ModelsRequest(files, refs or [], *folders, stall_s, token, peer_secret)

    def run(self, files: list[ModelFile] | None = None, **more: Any) -> list[Any]:
        """All events of the program in this process; the exit status comes last."""
        assert self._capsys
        request = self.request(self.files() if files is None else files, **more)
        try:
            status = 0 if fetch.Run(fetch.parse(to_json(request))).run() else 1
        except (FetchError, OSError) as error:
            fetch.complain(error if isinstance(error, FetchError) else explain_disk(error))
            status = 1
        out = self._capsys.readouterr().out.splitlines()
        assert all(model_event(line) for line in out)  # the control side takes each
        return [*map(json.loads, out), status]

    def start(self, request: ModelsRequest, **environ: str) -> subprocess.Popen[str]:
        """The program as it runs on a host."""
        known = {**os.environ, "HF_ENDPOINT": self.hub.url, "HF_HOME": str(self.root / "cache"), **environ}
        program = [sys.executable, "-I", "-B", "-m", "hostside.models"]
        process = subprocess.Popen(program, env=known, text=True, stdin=-1, stdout=-1, stderr=-1)
        assert process.stdin is not None
        process.stdin.write(to_json(request))
        process.stdin.close()
        process.stdin = None
        return process

    def pointer(self, file: ModelFile) -> Path:
        return self.cache / f"models--{file.repo.replace('/', '--')}" / "snapshots" / file.commit / file.file

    def entry(self, file: ModelFile) -> ManifestEntry:
        found = json.loads(self.manifest.read_text())["files"]
        return ManifestEntry(**found[manifest_key(file.repo, file.commit, file.file)])

    def partials(self) -> list[Path]:
        return [path for path in self.cache.rglob("*.incomplete") if path.is_file()]

    def visible(self) -> list[Path]:
        """Whatever a service could open as a model: in a snapshot, or in the models folder."""
        shown = [path for path in self.cache.glob("models--*/snapshots/**/*") if path.exists() and not path.is_dir()]
        return shown + [path for path in self.models.rglob("*") if path.is_file()]


def events(found: list[Any], kind: str) -> list[dict[str, Any]]:
    return [event for event in found[:-1] if event["event"] == kind]


def errors_of(found: list[Any]) -> list[tuple[str, str]]:
    return [(event["kind"], event["message"]) for event in events(found, "error")]


def states_of(found: list[Any]) -> list[str]:
    return sorted(event["state"] for event in events(found, "model"))


def only(found: list[Any], kind: str) -> dict[str, Any]:
    (event,) = events(found, kind)
    return event
