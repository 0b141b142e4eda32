"""Somebody else on the machine who tries, all the time, to read what is written: a file that is readable for a moment
is a file that was read."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ..world.freshhost import FreshHost
from ..world.run import RunError
from .leaks import Canaries

# In perl, for a bare Debian has it (perl-base) and no python3. It lists folders and opens what it finds, follows no
# links, keeps every file open that it could open once, and reads it once more at the end: who got hold of an empty
# file reads what is written to it later.
_PROGRAM = r"""
use strict; use Fcntl qw(:DEFAULT :mode);
my ($depth, @paths) = @ARGV;
my ($attempts, %listings, %reads, %contents, %held) = (0);
sub keep { my ($path, $text) = @_;
    $contents{$path}{$text} = 1 if length $text && keys %{$contents{$path}} < 1000; }
sub look { my ($path, $deeper) = @_;
    $attempts++;
    sysopen(my $file, $path, O_RDONLY | O_NONBLOCK | O_NOFOLLOW) or return;
    my ($device, $inode, $mode) = stat $file;
    if (S_ISDIR($mode)) {
        return if $deeper < 0;
        opendir(my $folder, $path) or return;
        $listings{$path}++;
        for my $name (readdir $folder) { look("$path/$name", $deeper - 1) if $name ne '.' && $name ne '..'; }
    } elsif (S_ISREG($mode)) {
        defined sysread($file, my $text, 65536) or return;
        $reads{$path}++;
        keep($path, $text);
        $held{"$device $inode"} = [$path, $file] if keys %held < 900 && !$held{"$device $inode"};
    }
}
$| = 1;
my $rounds = 0;
while (1) {
    look($_, $depth) for @paths;
    print "ready\n" if !$rounds++;
    vec(my $ended = '', fileno(STDIN), 1) = 1;
    last if select($ended, undef, undef, 0);
}
for (values %held) { my ($path, $file) = @$_;
    sysseek($file, 0, 0); sysread($file, my $text, 1 << 20); keep($path, $text); }
print "attempts $attempts\n";
print "listing $listings{$_} ", unpack('H*', $_), "\n" for keys %listings;
for my $path (keys %reads) {
    print "read $reads{$path} ", unpack('H*', $path), "\n";
    print 'content ', unpack('H*', $_), ' ', unpack('H*', $path), "\n" for keys %{$contents{$path}};
}
"""


@dataclass
class Watched:
    """What the watcher did, complete after the block.

    `attempts`: of opening something; `listings`: how often each folder could be listed; `reads`: how often each file
    could be read. The contents are kept out of every repr.
    """

    attempts: int = 0
    listings: dict[str, int] = field(default_factory=dict)
    reads: dict[str, int] = field(default_factory=dict)
    _contents: list[tuple[str, bytes]] = field(default_factory=list, repr=False)

    def findings(self, canaries: Canaries) -> list[str]:
        """In what could be read: "watcher PATH: NAME as FORM"."""
        found = {
            f"watcher {canaries.masked(path)}: {hit}"
            for path, content in self._contents
            for hit in canaries.find(content)
        }
        return sorted(found)

    def _take(self, told: bytes) -> None:
        for line in told.decode().splitlines():
            kind, what, *hexed = line.split(" ")
            path = bytes.fromhex(hexed[0]).decode(errors="replace") if hexed else ""
            if kind == "attempts":
                self.attempts = int(what)
            elif kind == "listing":
                self.listings[path] = int(what)
            elif kind == "read":
                self.reads[path] = int(what)
            else:
                self._contents.append((path, bytes.fromhex(what)))


def watch(
    host: FreshHost, paths: Sequence[str], user: str = "nobody", group: str = "nogroup", depth: int = 0
) -> AbstractContextManager[Watched]:
    """On a host: `paths` are folders whose files are tried, `depth` levels of folders below them too, and files.

    A file may be missing or be there for a moment only. `group`: another one, for a mate of a group.
    """
    return _watch(["docker", "exec", "-i", host.container], paths, user, group, depth)


def watch_local(
    paths: Sequence[Path], user: str = "nobody", group: str = "nogroup", depth: int = 0
) -> AbstractContextManager[Watched]:
    """The same on this machine; needs root."""
    return _watch([], [str(path) for path in paths], user, group, depth)


@contextmanager
def _watch(prefix: Sequence[str], paths: Sequence[str], user: str, group: str, depth: int) -> Iterator[Watched]:
    become = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "--no-new-privs"]
    line = [*prefix, *become, "perl", "-e", _PROGRAM, str(depth), *paths]
    watched = Watched()
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as watcher:
        assert watcher.stdout
        if watcher.stdout.readline() != b"ready\n":
            raise RunError(f"the watcher did not start: {shlex.join([*prefix, *become])}")
        try:
            yield watched
        finally:
            told = watcher.communicate()[0]
            if watcher.returncode:
                raise RunError(f"the watcher ended with {watcher.returncode}")
            watched._take(told)
