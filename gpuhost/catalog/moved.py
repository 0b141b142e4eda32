"""What moved between two locks, for the person who reviews it. Pure.

`+` is new, `-` is gone, `~` is another version, `!` is other bytes under the same name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from gpuhost.catalog.lock import Lock, LockedModel

OTHER_BYTES = "!"


def moved(old: Lock, new: Lock) -> list[str]:
    """Lines; none when nothing did."""
    return [*_images(old, new), *_installs(old, new), *_models(old, new)]


def _images(old: Lock, new: Lock) -> Iterator[str]:
    for reference in sorted({*old.images, *new.images}):
        was, now = old.images.get(reference), new.images.get(reference)
        if (was and was.digest) != (now and now.digest):
            yield f"image {reference}"
            yield from ([f"  - {was.digest}"] if was else [])
            yield from ([f"  + {now.digest}"] if now else [])


def _installs(old: Lock, new: Lock) -> Iterator[str]:
    for name in sorted({*old.installs, *new.installs}):
        was, now = old.installs.get(name), new.installs.get(name)
        if was == now:
            continue
        before, after = _packages(was.requirements if was else ()), _packages(now.requirements if now else ())
        lines = [line for package in sorted({*before, *after}) for line in _package(package, before, after)]
        yield f"install {name}: {len(lines)} of {len(after or before)} packages"
        yield from lines or ["  ~ locked for the entry as it is now"]


def _packages(requirements: Sequence[str]) -> dict[str, tuple[str, frozenset[str]]]:
    """package -> version, with its marker if it has one, and the hashes of its files."""
    found = {}
    for requirement in requirements:
        pin, *hashes = requirement.split(" --hash=")
        name, _, version = pin.partition("==")
        found[name] = (version, frozenset(hashes))
    return found


_Packages = Mapping[str, tuple[str, frozenset[str]]]


def _package(name: str, before: _Packages, after: _Packages) -> Iterator[str]:
    if name not in before:
        yield f"  + {name} {after[name][0]}"
        return
    if name not in after:
        yield f"  - {name} {before[name][0]}"
        return
    (was, had), (now, has) = before[name], after[name]
    if was != now:
        yield f"  ~ {name} {was} -> {now}"
    elif had - has:
        gone = f"of {len(had)} files that were locked {len(had - has)} are not those any more"
        yield f"  {OTHER_BYTES} {name} {now}: {gone}"
    elif has - had:
        yield f"  ~ {name} {now}: {len(has - had)} more files"


def _models(old: Lock, new: Lock) -> Iterator[str]:
    for repo in sorted({*old.models, *new.models}):
        before, after = old.models.get(repo, {}), new.models.get(repo, {})
        for revision in sorted({*before, *after}):
            was, now = before.get(revision), after.get(revision)
            if was != now:
                yield f"model {repo} {revision}"
                yield from _model(was, now)


def _model(was: LockedModel | None, now: LockedModel | None) -> Iterator[str]:
    if was is None or now is None or was.commit != now.commit:
        yield from ([f"  - {was.commit}"] if was else [])
        yield from ([f"  + {now.commit}"] if now else [])
    if was and now:
        # A commit names its content: with the same one, other bytes are a hub that is not to be trusted.
        sign = OTHER_BYTES if was.commit == now.commit else "~"
        for path in sorted({*was.files, *now.files}):
            if path not in was.files:
                yield f"  + {path}"
            elif path not in now.files:
                yield f"  - {path}"
            elif was.files[path] != now.files[path]:
                yield f"  {sign} {path}"
