"""apt where pyinfra's built-in operations do not reach: a checked signing key, an index that is read when a source is
newer, held packages, and failures that name their cause."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from pyinfra.api.operation import OperationMeta, operation
from pyinfra.context import host, state

from gpuhost import errors
from gpuhost.apt.facts import AptState
from gpuhost.files.facts import FilesState, FileState
from gpuhost.plan.change import Change, Difference, Resource
from gpuhost.run.remote import Step
from gpuhost.run.session import Commands, carry_out

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
    (r"No space left on device", "the disk is full", "free space on /var and run again"),
    (
        r"Could not get lock (\S*[^\s.])",
        "another program has held apt's lock ({0}) for ten minutes",
        "wait for it, then run again",
    ),
)


def explain(text: str) -> tuple[str, str] | None:
    """The cause of an apt failure as (sentence, hint); None when it is none of those known."""
    return errors.explain(_CAUSES, text)


_KEY = r"""
set -eu; umask 022; mkdir -p /etc/apt/keyrings; url=@URL@
new="$(mktemp -d)"; trap 'rm -rf "$new"' EXIT
curl -fsSL --retry 3 --max-time 60 -o "$new/key" -- "$url" 2> "$new/why" || {
  echo "error: the signing key at $url could not be fetched: $(tail -n1 "$new/why")" >&2
  echo "hint: check that the host reaches that address" >&2; exit 1; }
fingerprints="$(gpg --batch --homedir "$new" --show-keys --with-colons "$new/key" 2>/dev/null |
  awk -F: '$1=="pub"{p=1} $1=="fpr"&&p{print $10; p=0}')"
[ "$fingerprints" = @FINGERPRINT@ ] || {
  echo "error: the signing key at $url has the fingerprint ${fingerprints:-none}, not @FINGERPRINT@" >&2
  echo "hint: do not trust it; compare with the publisher's page before you change apt_key_fingerprints" >&2; exit 1; }
rm -f @PATH@.*  # a stamp of an earlier key must not vouch for this one
chmod 644 "$new/key"; sync "$new/key"; mv -f "$new/key" @PATH@
: > @PATH@.@FINGERPRINT@
"""


def key_changes(stage: str, path: str, stamp: str, observed: Mapping[str, FileState]) -> list[Change]:
    """What is wrong with a signing key: apt, which reads it as a user of its own, must be able to. Pure."""
    resource, key = Resource("apt key", path), observed.get(path)
    if key is None:
        return [Change(stage, resource, "fetch", "the key is not there")]
    if stamp not in observed:
        return [Change(stage, resource, "fetch", "it was not checked against the expected fingerprint")]
    pairs = (("mode", key.mode, "644"), ("owner", f"{key.user}:{key.group}", "root:root"))
    diff = tuple(Difference(*pair) for pair in pairs if pair[1] != pair[2])
    reason = ", ".join(f"its {each.field} is {each.before}, not {each.after}" for each in diff)
    return [Change(stage, resource, "correct", reason, diff)] if diff else []


@operation()
def signing_key(stage: str, url: str, fingerprint: str, path: str) -> Commands:
    """An armored key at `path`, fetched by the host and refused unless its fingerprint (40 hex) is the expected one."""
    stamp = f"{path}.{fingerprint}"  # an empty file that says which key we checked
    observed: dict[str, FileState] = host.get_fact(FilesState, paths=[path, stamp])
    changes = key_changes(stage, path, stamp, observed)
    if [change.action for change in changes] == ["correct"]:
        yield from carry_out(changes, [Step(f"chown root:root {shlex.quote(path)}; chmod 644 {shlex.quote(path)}")])
        return
    quoted = {"@URL@": shlex.quote(url), "@FINGERPRINT@": fingerprint, "@PATH@": shlex.quote(path)}
    script = _KEY
    for mark, value in quoted.items():
        script = script.replace(mark, value)
    yield from carry_out(changes, [Step(script)])


@operation()
def index(
    stage: str, subject: str, stamp: str, source: str | None = None, written: OperationMeta | None = None
) -> Commands:
    """apt's package index, read again when a source is newer than our last reading.

    `source`: a file of ours, and `written`: the operation that writes it. In a plan that one alone decides: what is
    unread already, the first index of the run will have read.
    """
    if source and written and not state.is_executing:
        unread = [source] if written.will_change else []
    else:
        unread = host.get_fact(AptState, packages=[], stamp=stamp).unread
    changes = (
        [Change(stage, Resource("apt index", subject), "update", f"not read since {', '.join(unread)} changed")]
        if unread
        else []
    )
    folder = shlex.quote(stamp.rpartition("/")[0])
    # Without the option apt-get update exits 0 on a repository that does not answer.
    script = f"mkdir -p {folder}; {APT} -o APT::Update::Error-Mode=any update && touch {shlex.quote(stamp)}"
    if source:  # left there, it would break apt for everybody, and the next run before it can correct the file
        script += f" || {{ rm -f {shlex.quote(source)}; exit 1; }}"
    yield from carry_out(changes, [Step(script, explain)])


def why_missing(packages: Sequence[str], stamp: str) -> str:
    """What is wrong with packages that must be installed. `packages`: `name` or `name=version`."""
    wanted = dict(each.partition("=")[::2] for each in packages)
    installed = host.get_fact(AptState, packages=list(wanted), stamp=stamp).packages
    absent = [name for name in wanted if name not in installed]
    other = [f"{name} is {installed[name]}, not {v}" for name, v in wanted.items() if v and installed.get(name, v) != v]
    return "; ".join([*([f"not installed: {', '.join(absent)}"] if absent else []), *other])


@operation()
def held(stage: str, packages: Mapping[str, str], stamp: str) -> Commands:
    """Packages that only we upgrade: together, in one version. `packages`: name -> that version.

    apt lets go of a held package that it installs in another version: one whose version differs will be held anew.
    """
    reading = host.get_fact(AptState, packages=packages, stamp=stamp)
    right = {name for name in reading.held if reading.packages.get(name) == packages.get(name)}
    loose = [name for name in packages if name not in right]
    changes = [Change(stage, Resource("package", name), "hold", "apt may upgrade it alone") for name in loose]
    yield from carry_out(changes, [Step(f"apt-mark hold {shlex.join(loose)}")])
