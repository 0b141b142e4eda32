"""The GPUs of a host and their driver: a part of the host's one reading (host/facts.py), parsed here. Pure.

A field that a card does not have is `[N/A]` or `[Not Supported]`; one that could not be read, `[Unknown Error]` or
`[GPU is lost]`: that card does not work, whatever its other fields say.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

# What every driver knows, then what those since R510 know, too.
BASIC_FIELDS = ("index", "uuid", "name", "memory.total", "memory.free", "driver_version")
FIELDS = (*BASIC_FIELDS, "compute_cap", "mig.mode.current")
PROCESS_FIELDS = ("pid", "process_name", "used_memory", "gpu_uuid")
_NAME_CHARS = 200  # of a process; whoever runs it chooses it

# Lines for host/facts.py: the driver, then its cards.
DRIVER = r"""
for vendor in /sys/bus/pci/devices/*/vendor; do
  if [ "$(cat "$vendor" 2>/dev/null)" = 0x10de ]; then
    class="$(cat "${vendor%vendor}class")"; case "$class" in 0x03*) printf 'nvidia_pci\t%s\n' "$class";; esac
  fi
done
if [ -e /proc/driver/nvidia/version ]; then sed -n 's/^NVRM version:/nvidia_module\t/p' /proc/driver/nvidia/version; fi
library="$(ldconfig -p 2>/dev/null | sed -n 's/.*libnvidia-ml\.so\.1 .*=> //p' | head -n1)"
if [ -n "$library" ]; then printf 'nvidia_library\t%s\n' "$(readlink -f "$library")"; fi
if [ -d /sys/module/nouveau ]; then printf 'nouveau\tyes\n'; fi
boot=/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c
if [ "$(od -An -tu1 -j4 -N1 "$boot" 2>/dev/null | tr -d ' ')" = 1 ]; then printf 'secure_boot\tyes\n'; fi
"""
# nvidia-smi of a hurt driver may hang.
CARDS = rf"""
smi="$(command -v nvidia-smi || true)"
[ -z "$smi" ] && [ -x /usr/lib/wsl/lib/nvidia-smi ] && smi=/usr/lib/wsl/lib/nvidia-smi
ask() {{ timeout 60 "$smi" "$1" --format=csv,noheader,nounits 2>&1; }}
if [ -n "$smi" ]; then
  out="$(ask --query-gpu={",".join(FIELDS)})"; code=$?
  case "$out" in *"is not a valid field to query"*) out="$(ask --query-gpu={",".join(BASIC_FIELDS)})"; code=$?;; esac
  if [ $code = 0 ]; then
    printf '%s\n' "$out" | sed "s/^/gpu$t/"
    ask --query-compute-apps={",".join(PROCESS_FIELDS)} | while IFS= read -r line; do
      pid="${{line%%,*}}"; case "$pid" in ''|*[!0-9]*) continue;; esac
      container="$(sed -n 's/.*\([0-9a-f]\{{64\}}\).*/\1/p' "/proc/$pid/cgroup" 2>/dev/null | head -n1)"
      printf 'gpu_process\t%s\t%s\n' "$line" "$container"
    done
  elif [ $code = 124 ]; then printf 'nvidia_error\tit does not answer within 60 s\n'
  else printf 'nvidia_error\t%s\n' "$(printf '%s' "$out" | head -n3 | tr '\n\t' '  ')"; fi
fi
"""


@dataclass(frozen=True)
class GpuProcess:
    """A process that holds memory of a GPU. `memory_mib`: 0 when the driver does not say (WSL2); `container`: the id of
    the one that it runs in, "" for none."""

    pid: int
    name: str
    memory_mib: int
    container: str = ""


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU as `nvidia-smi --query-gpu` reports it; memory in MiB, 0 when it is the host's own.

    `compute_cap`: such as `9.0`, "" when the driver does not say; `mig`: it is cut into instances, so nobody can have
    the whole of it.
    """

    uuid: str
    name: str
    vram_mib: int
    vram_free_mib: int
    driver: str
    index: int = 0
    compute_cap: str = ""
    mig: bool = False
    processes: tuple[GpuProcess, ...] = ()


def gpu(line: str) -> Gpu | str:
    """A line of `--query-gpu`; the driver's own words when it is no such line, or names a card that does not work."""
    values = [value.strip() for value in line.split(",")]
    # Some versions exit 0 after "No devices were found".
    if len(values) not in (len(BASIC_FIELDS), len(FIELDS)):
        return line.strip() or "it names no GPU"
    index, uuid, name, total, free, driver, *rest = values
    broken = next((value for value in values if value.strip("[]") in ("Unknown Error", "GPU is lost")), None)
    if broken:
        return f"GPU {index}: {broken.strip('[]')}"
    cap, mig = rest or ("", "")
    known = cap if re.fullmatch(r"\d+\.\d+", cap) else ""
    return Gpu(uuid, name, _mib(total), _mib(free), driver, _mib(index), known, mig == "Enabled")


def with_process(gpus: list[Gpu], line: str, container: str = "") -> list[Gpu]:
    """The GPUs with the process that a line of `--query-compute-apps` names; its name may hold commas."""
    pid, *name, memory, uuid = (value.strip() for value in line.split(","))
    process = GpuProcess(int(pid), ", ".join(name)[:_NAME_CHARS], _mib(memory), container)
    return [replace(each, processes=(*each.processes, process)) if each.uuid == uuid else each for each in gpus]


def module_version(text: str) -> str:
    """The version of the kernel module that is loaded, from the first line of /proc/driver/nvidia/version."""
    return next((word for word in text.split() if re.fullmatch(r"\d+\.\d+(\.\d+)?", word)), "")


def library_version(path: str) -> str:
    """The version of the libraries, from the real name of libnvidia-ml.so.1; "" where that names none (WSL2)."""
    found = re.search(r"\.so\.(\d+\.\d+(?:\.\d+)?)$", path)
    return found[1] if found else ""


def _mib(text: str) -> int:
    return int(text) if text.isdigit() else 0
