"""An install: its spec, its folder, and whether it is there. Pure, but for the text of its script."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpuhost.catalog.types import Install
from gpuhost.plan.change import Change, Resource
from gpuhost.plan.spec import Spec, canonical, differences, digest, parse, summary, text_digest
from gpuhost.project import project_file

STAMP = ".gpuhost/installed.json"


def script(install: Install) -> str:
    """The text of its script."""
    return project_file(f"files/{install.script}")


def spec(install: Install, image: str) -> dict[str, Any]:
    """Everything that makes the install what it is. `image`: the reference of the image that runs the script."""
    return {
        "version": install.version,
        "script": text_digest(script(install)),
        "image": image,
        "environment": dict(install.environment),
    }


def folder(install: Install, spec: Spec) -> str:
    """The folder's name: installs live side by side, so that a rollback finds its own."""
    return f"{install.version}-{digest(spec)[:12]}"


def environment(install: Install, spec: Spec) -> dict[str, str]:
    """What the script reads from its environment; nothing secret."""
    return {**install.environment, "INSTALL_SPEC": canonical(spec)}


def reconcile(path: str, spec: Spec, stamps: Mapping[str, str]) -> list[Change]:
    """Install when the folder has not the stamp of this spec.

    `stamps`: folder -> the stamp in it, of every folder beside `path` and of `path` itself.
    """
    found = _installed(stamps.get(path))
    if found is not None and canonical(found) == canonical(spec):
        return []
    return [Change("installs", Resource("install", path), "install", *_reason(path, spec, stamps))]


def _reason(path: str, spec: Spec, stamps: Mapping[str, str]) -> tuple[str, tuple[Any, ...]]:
    if path in stamps:
        return "it was not finished", ()
    others = {other: made for other, stamp in stamps.items() if (made := _installed(stamp)) is not None}
    if not others:
        return "not installed", ()
    diffs = {other: differences(made, spec) for other, made in others.items()}
    nearest = min(diffs, key=lambda other: (len(diffs[other]), other))
    return f"{summary(diffs[nearest])}; {nearest.rpartition('/')[2]} stays beside it", diffs[nearest]


def _installed(stamp: str | None) -> dict[str, Any] | None:
    made = (parse(stamp) or {}).get("spec")
    return made if isinstance(made, dict) else None
