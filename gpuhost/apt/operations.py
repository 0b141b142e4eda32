"""apt where pyinfra's built-in operations do not reach: a checked signing key, an index that is read when a source is
newer, held packages, and failures that name their cause."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from pyinfra.api.operation import OperationMeta, operation
from pyinfra.context import host, state
from pyinfra.facts.deb import DebPackages

from gpuhost import errors
from gpuhost.apt.facts import AptReading, AptState, CutOff
from gpuhost.apt.sources import DISABLED, disabling
from gpuhost.files.facts import FilesState, FileState
from gpuhost.files.operations import blocked, with_text_diffs, write_step
from gpuhost.files.rules import FileSpec, reconcile, same
from gpuhost.plan.change import Change, Difference, Impact, Resource
from gpuhost.run.remote import Script
from gpuhost.run.session import Commands, carry_out, fail_host

# At boot apt's own timers hold the lock: wait for it.
LOCK_WAIT = "-o DPkg::Lock::Timeout=600"
APT = f"DEBIAN_FRONTEND=noninteractive LC_ALL=C apt-get -q -y {LOCK_WAIT}"

# pattern in apt's output, sentence, hint
_CAUSES = (
    (
        r"GPG error: (\S+)",
        "the index of {0} is not signed by the expected key",
        "someone tampered with it, or the key changed: compare `apt_key_fingerprints` with the publisher's page",
    ),
    (
        r"Hash Sum mismatch|Clearsigned file isn't valid|unexpected size",
        "a package index does not match its signature",
        "someone or some proxy changed it on the way: try again, then try without the proxy",
    ),
    (
        r"The repository '([^']+)' (?:is not signed|does not have a Release file|no longer has)",
        "the repository {0} is not there, or is not signed",
        "check `apt_repositories`, and that the host reaches it",
    ),
    (
        r"Could not resolve '?([^'\s]+)'?",
        "the host cannot resolve {0}",
        "check the host's DNS and network",
    ),
    (
        r"Failed to fetch (\S+)",
        "{0} could not be fetched",
        "check that the host reaches it, then run again",
    ),
    (
        r"Unable to locate package (\S+)",
        "no repository has the package {0}",
        "check its name in group_data",
    ),
    (
        r"Version '([^']+)' for '([^']+)' was not found",
        "no repository has version {0} of {1}",
        "choose a version that `apt-cache madison` lists",
    ),
    (
        r"dpkg was interrupted",
        "an earlier installation of packages was cut off in the middle",
        "`dpkg --configure -a` on the host, then run again",
    ),
    (
        r"Held packages were changed|held broken packages",
        "a package that somebody holds stands in the way",
        "`apt-mark showhold` lists them: let go of it (`apt-mark unhold NAME`), or upgrade it yourself",
    ),
    (
        r"unmet dependencies",
        "packages on the host do not fit together",
        "`apt-get --fix-broken install` on the host says which, then run again",
    ),
    (r"No space left on device", "the disk is full", "free space on /var and run again"),
    (
        r"Could not get lock (\S*[^\s.])",
        "another program has held apt's lock ({0}) for ten minutes",
        "wait for it, then run again",
    ),
)


def explain(text: str) -> errors.Cause | None:
    """The cause of an apt failure; None when it is none of those known."""
    return errors.explain(_CAUSES, text)


# A key that we ship comes by stdin; another one, such as that of a mirror that signs anew, from its address.
_SHIPPED = r"""cat > "$new/key"; from='that gpuhost ships'"""
_FETCHED = r"""url=@URL@; from="at $url"
curl -fsSL --retry 3 --max-time 60 -o "$new/key" -- "$url" 2> "$new/why" || {
  echo "error: the signing key $from could not be fetched: $(tail -n1 "$new/why")" >&2
  echo "hint: check that the host reaches that address" >&2; exit 1; }"""
_KEY = r"""
set -eu; umask 022; mkdir -p /etc/apt/keyrings
new="$(mktemp -d -p /run gpuhost-key.XXXXXX)"; trap 'rm -rf "$new"' EXIT
@COME@
fingerprints="$(gpg --batch --homedir "$new" --show-keys --with-colons "$new/key" 2>/dev/null |
  awk -F: '$1=="pub"{p=1} $1=="fpr"&&p{print $10; p=0}')"
[ "$fingerprints" = @FINGERPRINT@ ] || {
  echo "error: the signing key $from has the fingerprint ${fingerprints:-none}, not @FINGERPRINT@" >&2
  echo "hint: do not trust it; compare with the publisher's page before you change apt_key_fingerprints" >&2; exit 1; }
rm -f @PATH@.*  # a stamp of an earlier key must not vouch for this one
chmod 644 "$new/key"; cp "$new/key" "$new/stamp"; sync "$new/key" "$new/stamp"
mv -f "$new/key" @PATH@; mv -f "$new/stamp" @PATH@.@FINGERPRINT@
"""


def key_changes(
    stage: str, path: str, stamp: str, observed: Mapping[str, FileState], shipped: bool = False
) -> list[Change]:
    """What is wrong with a signing key: apt, which reads it as a user of its own, must be able to. Pure."""
    anew = "write" if shipped else "fetch"
    resource, key = Resource("apt key", path), observed.get(path)
    if key is None:
        return [Change(stage, resource, anew, "the key is not there")]
    if stamp not in observed:
        return [Change(stage, resource, anew, "it was not checked against the expected fingerprint")]
    if key.sha256 != observed[stamp].sha256:
        return [Change(stage, resource, anew, "it changed since it was checked against the expected fingerprint")]
    pairs = (("mode", key.mode, "644"), ("owner", f"{key.user}:{key.group}", "root:root"))
    diff = tuple(Difference(*pair) for pair in pairs if pair[1] != pair[2])
    reason = ", ".join(f"its {each.field} is {each.before}, not {each.after}" for each in diff)
    return [Change(stage, resource, "correct", reason, diff)] if diff else []


def look_at_repository(key: str, fingerprint: str, source: str) -> dict[str, FileState]:
    """The files of a repository that are there: its key, what the key was when it was checked, its source."""
    return host.get_fact(FilesState, paths=[key, _stamp(key, fingerprint), source])


def _stamp(key: str, fingerprint: str) -> str:
    """Where a copy of the key lies that we checked."""
    return f"{key}.{fingerprint}"


@operation()
def repository(
    stage: str,
    key_url: str,
    fingerprint: str,
    key: str,
    source: FileSpec,
    url: str,
    foreign: Sequence[str],
    backups: str,
    shipped: str | None = None,
) -> Commands:
    """A repository's source, and its armored key at the path `key`: `shipped` itself, or fetched by the host; refused
    unless its fingerprint (40 hex) is the expected one. `foreign`: somebody's files that declare that `url`, and
    nothing else, with another key."""
    stamp, text = _stamp(key, fingerprint), source.content()
    observed = look_at_repository(key, fingerprint, source.path)
    if problem := blocked(observed):
        yield from fail_host(*problem)
        return
    keys = key_changes(stage, key, stamp, observed, shipped is not None)
    files = with_text_diffs(reconcile(stage, [source], {source.path: text}, observed), [source], observed)
    replaced = disabling(stage, foreign, url)

    def act() -> Commands:
        if [change.action for change in keys] == ["correct"]:
            yield Script(f"chown root:root {shlex.quote(key)}; chmod 644 {shlex.quote(key)}")
        elif keys:
            come = _SHIPPED if shipped else _filled(_FETCHED, {"@URL@": shlex.quote(key_url)})
            marks = {"@FINGERPRINT@": fingerprint, "@PATH@": shlex.quote(key), "@COME@": come}
            yield Script(_filled(_KEY, marks), stdin=shipped)
        if replaced:
            names = " ".join(map(shlex.quote, foreign))
            yield Script(f'for file in {names}; do mv --backup=numbered -T -- "$file" "$file{DISABLED}"; done')
        if files:
            right = {source.path} if same(source, text, observed.get(source.path)) else set()
            yield write_step([source], {source.path: text}, backups, right)

    yield from carry_out([*keys, *replaced, *files], act())


def _filled(script: str, marks: Mapping[str, str]) -> str:
    for mark, text in marks.items():
        script = script.replace(mark, text)
    return script


# Each reads only the sources that it is for: one of ours that somebody broke must not keep apt from the packages by
# which it is mended. Without the first option apt-get update exits 0 on a repository that does not answer, without the
# second it removes the indexes of the sources that it does not read.
_UPDATE = r"""
mkdir -p "$(dirname @STAMP@)"; parts="$(mktemp -d /run/gpuhost-apt.XXXXXX)"; trap 'rm -rf "$parts"' EXIT
for source in @SOURCES@; do
  case "$source" in /etc/apt/sources.list.d/gpuhost-*) [ "$source" = @OURS@ ] || continue ;; esac
  [ ! -e "$source" ] || ln -s "$source" "$parts/"
done
i=0  # apt itself waits for dpkg's lock, not for that of its indexes
until said="$(@APT@ -o APT::Update::Error-Mode=any -o APT::Get::List-Cleanup=0 \
  -o Dir::Etc::SourceParts="$parts" @OPTIONS@ update 2>&1)"; do
  case "$said" in *"Could not get lock"*) i=$((i+1)); [ $i -gt 300 ] || { sleep 2; continue; };; esac
  printf '%s\n' "$said"; @FAILED@  # a source of ours that cannot be read would break apt for everybody
done
touch @STAMP@
"""


# It waits for whoever installs something: what he has unpacked and not configured yet looks just like a cut.
_REPAIR = r"""
export DEBIAN_FRONTEND=noninteractive LC_ALL=C; i=0
until said="$(dpkg --force-confdef --force-confold --configure -a 2>&1)"; do
  case "$said" in *"lock"*) i=$((i+1)); [ $i -gt 300 ] || { sleep 2; continue; };; esac
  printf '%s\n' "$said" >&2
  echo "error: packages whose installation was cut off cannot be configured: $(printf %s "$said" | tail -n1)" >&2
  echo "hint: \`dpkg --configure -a\`, then \`apt-get --fix-broken install\` on the host; then run again" >&2; exit 1
done
half="$(dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' | sed -n 's/^.H.* //p' | tr '\n' ' ')"
[ -z "$half" ] || {
  echo "error: these packages are installed by half: $half" >&2
  echo "hint: \`apt-get install --reinstall $half\` on the host, then run again" >&2; exit 1; }
"""


def look_for_cut_off() -> list[str]:
    """The packages whose installation was cut off."""
    return host.get_fact(CutOff)


@operation()
def repaired(stage: str) -> Commands:
    """dpkg was not cut off in the middle of an installation; else what it left is configured, files that people changed
    stay as they are."""
    cut_off = look_for_cut_off()
    what = f"an earlier installation was cut off: {', '.join(cut_off[:4])}{' and more' if len(cut_off) > 4 else ''}"
    changes = [Change(stage, Resource("packages", "dpkg"), "repair", what)] if cut_off else []
    yield from carry_out(changes, [Script(_REPAIR, explain)])


def source_text(url: str, suites: str, components: str, architecture: str, key: str) -> str:
    """A repository as a source of apt's (deb822). `suites` with a `/` at its end has no components."""
    fields = {"Types": "deb", "URIs": url, "Suites": suites, "Components": components, "Architectures": architecture}
    return "".join(f"{name}: {text}\n" for name, text in {**fields, "Signed-By": key}.items() if text)


def look_for_unread(stamp: str, source: str = "", url: str = "") -> dict[str, str]:
    """The sources of which apt has no index, or an old one, and why."""
    return host.get_fact(AptState, packages=[], stamp=stamp, source=source, url=url).unread


@operation()
def index(
    stage: str,
    subject: str,
    stamp: str,
    source: str = "",
    url: str = "",
    declared: OperationMeta | None = None,
) -> Commands:
    """apt's package index of one repository of ours (`source`: its file, `url`: what that says, `declared`: the
    operation that writes it), or of all others; read again when a source is newer than our last reading."""
    unread = look_for_unread(stamp, source, url)
    whys = {why: ", ".join(file for file, other in unread.items() if other == why) for why in unread.values()}
    reason = "; ".join(f"{why} {files}" for why, files in whys.items())
    if declared and (declared.did_change() if state.is_executing else declared.will_change):
        reason = "its signing key or its source is written anew"
    marks = {
        "@STAMP@": shlex.quote(stamp),
        "@OURS@": shlex.quote(source),
        "@SOURCES@": shlex.quote(source) if source else "/etc/apt/sources.list.d/*",
        "@OPTIONS@": "-o Dir::Etc::SourceList=/dev/null" if source else "",
        "@APT@": APT,
        "@FAILED@": f"rm -f {shlex.quote(source)}; exit 1" if source else "exit 1",
    }
    changes = [Change(stage, Resource("apt index", subject), "update", reason)] if reason else []
    yield from carry_out(changes, [Script(_filled(_UPDATE, marks), explain)])


def installing(change: Change, packages: Sequence[str], stamp: str) -> Change:
    """The change that installs packages, with what is wrong with them and how much is downloaded. `packages`: `name` or
    `name=version`."""
    wanted = dict(each.partition("=")[::2] for each in packages)
    reading = look_at_packages(wanted, stamp, packages)
    installed = reading.packages
    absent = [name for name in wanted if name not in installed]
    other = [f"{name} is {installed[name]}, not {v}" for name, v in wanted.items() if v and installed.get(name, v) != v]
    reason = "; ".join([*([f"not installed: {', '.join(absent)}"] if absent else []), *other])
    return replace(change, reason=reason, impact=Impact(download_bytes=reading.download_bytes, disk_bytes=None))


def look_at_packages(names: Iterable[str], stamp: str, install: Sequence[str] = ()) -> AptReading:
    """Which of them are installed, and held; `install`: what is to be, with how much is downloaded then."""
    return host.get_fact(AptState, packages=list(names), stamp=stamp, install=install)


def look_at_all_packages() -> None:
    """What pyinfra's own operation asks, whichever packages it is to install."""
    host.get_fact(DebPackages)


@operation()
def held(stage: str, packages: Mapping[str, str], stamp: str) -> Commands:
    """Packages that only we upgrade: together, in one version. `packages`: name -> that version.

    apt lets go of a held package that it installs in another version: one whose version differs will be held anew.
    """
    reading = look_at_packages(packages, stamp)
    right = {name for name in reading.held if reading.packages.get(name) == packages.get(name)}
    loose = [name for name in packages if name not in right]
    changes = [Change(stage, Resource("package", name), "hold", "apt may upgrade it alone") for name in loose]
    yield from carry_out(changes, [Script(f"apt-mark hold {shlex.join(loose)}")])
