"""The proof that one group of damages is seen, planned truly and repaired, and that nothing else is touched."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence, Set
from fnmatch import fnmatchcase
from typing import Any

from ..world.freshhost import FreshHost
from ..world.snapshot import diff_snapshots
from .control import Told
from .damages import DATA, STATE, Damage, O, Q, breaking, fits, said
from .proof import Proof, expect

Snapshot = dict[str, Any]
# What a repair leaves behind, and what a service writes while it runs.
# `measures`: how long each start took.
GROWS = (f"{STATE}/backups/*", f"{STATE}/backups", f"{STATE}/measures", f"{DATA}/services/*/data/*", "/root/*")
SERVICES = {O, Q}
_PLANT = r"""
set -eu
mkdir -p /srv/mine /srv/genai/outputs/mine /srv/genai/stacks/mine
echo mine > /srv/mine/note; echo mine > /srv/genai/outputs/mine/picture.png; echo mine > /srv/genai/stacks/mine/note
echo mine > /opt/gpuhost/mine; echo mine > /etc/mine.conf; chmod 640 /etc/mine.conf
( cd /srv/mine; : > Packages )
echo 'deb [trusted=yes] file:/srv/mine ./' > /etc/apt/sources.list.d/mine.list
useradd --system --no-create-home mine; groupadd mine-too
printf '[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n' \
  > /etc/systemd/system/mine.service
systemctl daemon-reload; systemctl enable --quiet --now mine.service
docker network create --subnet 172.29.0.0/16 mine >/dev/null; docker volume create mine >/dev/null
image="$(docker image ls -q --filter label=gpuhost.image=orchestrator | head -n1)"
docker tag "$image" mine:1
docker run -d --name mine-runs --network mine --restart unless-stopped -v mine:/data --entrypoint sleep mine:1 \
  infinity >/dev/null
docker create --name mine-stands mine:1 true >/dev/null
"""


def plant(host: FreshHost) -> None:
    """What is nobody's of ours: files, a user, a unit, an apt source, a network, a volume, an image, containers."""
    host.root(_PLANT, check=True)


def broken(proof: Proof, damages: Sequence[Damage]) -> Snapshot:
    """The host after all of them, as it was found by the plan."""
    for command in breaking(damages):
        proof.host.root(command, check=True)
    return proof.host.snapshot()


def repaired(proof: Proof, damages: Sequence[Damage], good: Snapshot) -> None:
    """Damage a converged host and expect every line of the plan, one apply, and the host as it was.

    `good`: the host as it is before.
    """
    try:
        _repaired(proof, damages, good)
    finally:
        undone = [proof.host.root(damage.undo) for damage in damages if damage.undo]
    expect(all(each.rc == 0 for each in undone), "what is nobody's to repair was still there", undone)


def _repaired(proof: Proof, damages: Sequence[Damage], good: Snapshot) -> None:
    damaged = broken(proof, damages)
    plan = proof.control.plan()
    expect(plan.code == 2, "the plan finds changes", (plan.code, plan.errors, plan.stderr[-2000:]))
    wrote = diff_snapshots(damaged, proof.host.snapshot())
    expect(not wrote, "the plan wrote nothing", "\n".join(wrote))
    wrong = [*unseen(plan, damages), *unexplained(plan, damages)]
    expect(not wrong, "the plan is true", "\n".join(wrong))
    for damage in damages:
        if damage.first:  # one apply finds out what only the next one may do
            ended = proof.control.apply()
            whats = [error["what"] for error in ended.errors]
            expect(ended.code == 1 and any(re.search(damage.first, what) for what in whats), damage.name, whats)
            plan = proof.control.plan()
    told = proof.control.apply()
    expect(told.code == 0, "one apply repairs", (told.errors, told.stderr[-2000:]))
    other = sorted(set(told.changes) ^ set(plan.changes))
    expect(sorted(told.changes) == sorted(plan.changes), "performed equals planned", other)
    proof.nothing_to_do()
    left = list(touched(good, damaged, proof.host.snapshot(), damages, plan))
    expect(not left, "everything is as it was, and nothing else was touched", "\n".join(left))


def unseen(plan: Told, damages: Sequence[Damage]) -> list[str]:
    """The lines that the plan lacks, or whose reason is another."""
    found = []
    changes = (plan.document or {})["changes"]
    for damage in damages:
        for seen in damage.seen:
            lines = [said(change) for change in changes if fits(seen.key, change)]
            if not lines:
                found.append(f"{damage.name}: the plan has no {seen.stage}: {seen.action} {seen.name}")
            elif not any(re.search(seen.words, line) for line in lines):
                found.append(f"{damage.name}: {seen.name}: no `{seen.words}` in: {lines}")
    return found


def unexplained(plan: Told, damages: Sequence[Damage]) -> list[str]:
    """The lines of the plan that none of the damages asks for."""
    keys = [key for damage in damages for key in (*(seen.key for seen in damage.seen), *damage.also)]
    changes = (plan.document or {})["changes"]
    return [
        f"nobody asked for {change['stage']}: {change['action']} {change['resource']['name']}: {said(change)}"
        for change in changes
        if not any(fits(key, change) for key in keys)
    ]


def touched(good: Snapshot, damaged: Snapshot, end: Snapshot, damages: Sequence[Damage], plan: Told) -> Iterator[str]:
    """What is not as it was before the damages, but for what the plan was to change."""
    stays = [pattern for damage in damages for pattern in damage.stays]
    free = [*GROWS, *(pattern for damage in damages for pattern in damage.changed)]
    planned = {(stage, name) for stage, name, _ in plan.changes}
    yield from _differing("files", _files(good, stays, free, False), _files(end, stays, free, False))
    yield from _differing("files", _files(damaged, stays, free, True), _files(end, stays, free, True))
    # A service of ours that the plan leaves alone goes on; what is nobody's of ours is as it was, and as it was found.
    restarted = {("engine", "dockerd"), ("engine", "Docker Engine")} & planned
    made = {name for stage, name in planned if stage == "stacks"}
    gone = {name for damage in damages for name in damage.goes}
    added = _first_words(damaged, "containers") - _first_words(good, "containers")  # by the damages
    for was, without in ((good, made | added), (damaged, made | SERVICES | gone)):
        kept = [_containers(snapshot, without, bool(restarted)) for snapshot in (was, end)]
        yield from _differing("containers", *kept)
    for section in ("networks", "volumes", "packages", "images"):
        before, after = (_kept(section, snapshot, planned) for snapshot in (good, end))
        if section == "images":  # those that the damages added stay, too
            new = _first_words(damaged, section) - _first_words(good, section)
            after = [line for line in after if line.split()[0] not in new]
        yield from _differing(section, before, after)


def _differing(section: str, was: Any, now: Any) -> list[str]:
    return diff_snapshots({"files": {}, section: was}, {"files": {}, section: now})


def _files(snapshot: Snapshot, stays: Sequence[str], free: Sequence[str], left: bool) -> dict[str, str]:
    """Its files: those that must be as the damage left them, or the others."""
    return {
        path: seen
        for path, seen in snapshot["files"].items()
        if _matches(path, stays) is left and not _matches(path, free)
    }


def _matches(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def _containers(snapshot: Snapshot, without: Set[str], restarted: bool) -> list[str]:
    """Its containers, but for some; without their starts when dockerd was to be restarted."""
    lines = [line.split() for line in snapshot.get("containers", [])]
    return [
        " ".join([name, identity, *([] if restarted else rest)])
        for name, identity, *rest in lines
        if name.removeprefix("/") not in without
    ]


def _first_words(snapshot: Snapshot, section: str) -> set[str]:
    """The names of its containers or images."""
    return {line.split()[0].removeprefix("/") for line in snapshot.get(section, [])}


def _kept(section: str, snapshot: Snapshot, planned: Set[tuple[str, str]]) -> list[str]:
    """Its lines, but for what the plan was to make anew, the bridge that dockerd makes at each start, and images
    without a name, which builds leave behind."""
    lines: list[str] = snapshot[section]
    made = {name for _, name in planned} | {"bridge", "<none>:<none>"}
    return lines if section == "packages" else [line for line in lines if line.split()[0] not in made]
