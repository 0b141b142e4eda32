"""A host seen from outside: what a run that changes nothing must leave as it was."""

from __future__ import annotations

from typing import Any

# Not compared, each for a reason.
EXCLUDED = {
    "/proc": "kernel",
    "/sys": "kernel",
    "/dev": "kernel",
    "/run": "lives in memory; what matters there is shown by the services section",
    "/tmp": "scratch",
    "/var/tmp": "scratch",
    "/var/log": "logs grow",
    "/var/lib/docker": "Docker's own data; containers, images and networks are listed instead",
    "/var/lib/containerd": "same",
    "/var/lib/systemd/timers": "stamps of timers that ran",
    "/var/lib/systemd/random-seed": "written at shutdown",
    "/var/lib/systemd/timesync": "clock stamp",
    "/var/lib/private/systemd": "systemd's own state",
    "/var/lib/systemd/linger": "systemd's own state",
    "/var/cache/apt/pkgcache.bin": "apt's index cache, rebuilt when read",
    "/var/cache/apt/srcpkgcache.bin": "same",
    "/var/lib/apt/periodic": "stamps of apt's timers",
    "/etc/hosts": "written by the outer engine at each boot",
    "/etc/hostname": "same",
    "/etc/resolv.conf": "mounted by the world",
}
SCRIPT = r"""
set -u
work=$(mktemp -d /tmp/snapshot.XXXXXX)
trap 'rm -rf "$work"' EXIT
echo '#files'
find / @PRUNE@ -printf '%y %m %U:%G %p\t%l\n' 2>/dev/null
echo '#hashes'
# Each batch into a file of its own: two writers on one pipe would mix their lines.
hash='sha256sum "$@" > "$(mktemp -p "$0")" 2>/dev/null'
find / @PRUNE@ -type f -print0 2>/dev/null | xargs -0 -r -P 2 -n 400 sh -c "$hash" "$work"
cat "$work"/*
echo '#packages'
dpkg-query -W -f '${Package} ${Version} ${db:Status-Abbrev}\n'
echo '#services'
for unit in $(systemctl list-units --plain --no-legend --type=service --state=running | cut -d' ' -f1); do
    case $unit in user@*|session-*|run-*|systemd-*|apt-daily*|dpkg-*) continue ;; esac
    echo "$unit $(systemctl show --value -p InvocationID "$unit")"
done
if ! systemctl is-active --quiet docker.service; then
    echo '#docker'; echo 'does not run'
elif command -v docker >/dev/null && [ -S /run/docker.sock ]; then
    echo '#containers'
    docker ps -aq --no-trunc | xargs -r docker inspect \
        -f '{{.Name}} {{.Id}} started={{.State.StartedAt}} restarts={{.RestartCount}} {{.State.Status}}'
    echo '#images'
    docker images -a --no-trunc --format '{{.Repository}}:{{.Tag}} {{.ID}}'
    echo '#networks'
    docker network ls --no-trunc --format '{{.Name}} {{.ID}}'
    echo '#volumes'
    docker volume ls -q
fi
"""


def snapshot_script() -> str:
    """The program that runs inside the host (POSIX sh, findutils, coreutils)."""
    prune = " -o ".join(f"-path {path}" for path in EXCLUDED)
    return SCRIPT.replace("@PRUNE@", rf"\( {prune} \) -prune -o")


def times_script() -> str:
    """When each file and folder was last written and changed."""
    prune = " -o ".join(f"-path {path}" for path in EXCLUDED)
    return rf"find / \( {prune} \) -prune -o -printf '%T@ %C@ %p\n' 2>/dev/null"


def written(before: str, after: str) -> list[str]:
    """The paths that came, went, or were touched between two outputs of that, be it with the same content again."""
    return sorted({line.split(" ", 2)[2] for line in set(before.splitlines()) ^ set(after.splitlines())})


def parse_snapshot(output: str) -> dict[str, Any]:
    """Sections by name; "files" maps path -> "type mode owner [sha256 or -> target]", others are sorted lists."""
    sections: dict[str, list[str]] = {}
    current: list[str] = []
    for line in output.splitlines():
        if line.startswith("#") and " " not in line:
            current = sections.setdefault(line[1:], [])
        elif line:
            current.append(line)
    hashes = {}
    for line in sections.pop("hashes", []):
        value, _, path = line.lstrip("\\").partition("  ")
        hashes[path] = value
    files = {}
    for line in sections.pop("files", []):
        facts, _, target = line.partition("\t")
        if facts.count(" ") < 3:
            continue  # the rest of a name that holds a newline
        kind, mode, owner, path = facts.split(" ", 3)
        files[path] = f"{kind} {mode} {owner}" + (f" -> {target}" if target else f" {hashes.get(path, '')}".rstrip())
    return {"files": files, **{name: sorted(lines) for name, lines in sections.items()}}


def diff_snapshots(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """One line for each difference; empty when nothing changed."""
    lines = []
    for path in sorted(before["files"].keys() | after["files"].keys()):
        was, now = before["files"].get(path), after["files"].get(path)
        if was != now:
            lines.append(f"file {path}: {was or 'missing'} -> {now or 'missing'}")
    for section in sorted((before.keys() | after.keys()) - {"files"}):
        was_lines, now_lines = set(before.get(section, [])), set(after.get(section, []))
        lines += [f"{section}: gone {line}" for line in sorted(was_lines - now_lines)]
        lines += [f"{section}: new {line}" for line in sorted(now_lines - was_lines)]
    return lines
