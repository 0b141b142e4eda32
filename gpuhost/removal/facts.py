"""What of gpuhost's is on a host, beside its containers: files, folders, rules, networks, images. One round trip."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from dataclasses import dataclass, field

from gpuhost.run.fact import HostFact

_SCRIPT = r"""
for path in @FILES@; do { [ -f "$path" ] || [ -L "$path" ]; } && printf 'file\t%s\n' "$path"; done
for path in @FOLDERS@; do [ -d "$path" ] && [ ! -L "$path" ] && printf 'folder\t%s\n' "$path"; done
command -v nft >/dev/null 2>&1 && nft list table inet @TABLE@ >/dev/null 2>&1 && printf 'rules\t@TABLE@\n'
if systemctl is-active --quiet docker 2>/dev/null; then
  docker network ls --filter label=gpuhost.network --format 'network{{"\t"}}{{.Name}}'
  # Another name for one of them is somebody's own.
  docker image ls --filter label=gpuhost.image --format 'image{{"\t"}}{{.Repository}}:{{.Tag}}' |
    sed -n '/\tgpuhost\//p' | sed '/<none>/d'
fi
printf 'end\n'
"""


@dataclass
class Ours:
    """`files`, `folders`: those of the asked ones that are there; `rules`: the kernel has our packet filter's;
    `networks`: names; `images`: tags of those that gpuhost built."""

    files: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    rules: bool = False
    networks: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)


class OursState(HostFact[Ours]):
    """What is there. Docker is not asked where it does not run."""

    def command(self, files: Collection[str], folders: Collection[str], table: str) -> str:
        """One script."""
        marks = {"@FILES@": shlex.join(files) or "''", "@FOLDERS@": shlex.join(folders) or "''", "@TABLE@": table}
        script = _SCRIPT
        for mark, text in marks.items():
            script = script.replace(mark, text)
        return script

    @staticmethod
    def default() -> Ours:
        """Nothing."""
        return Ours()

    def read(self, output: list[str]) -> Ours:
        """Lines of kind and name, `end` last."""
        if not output or output[-1] != "end":
            raise ValueError("what gpuhost has on the host could not be read to its end")
        found = Ours()
        for kind, _, name in (line.partition("\t") for line in output[:-1]):
            if kind == "rules":
                found.rules = True
            else:
                {"file": found.files, "folder": found.folders, "network": found.networks, "image": found.images}[
                    kind
                ].append(name)
        return found
