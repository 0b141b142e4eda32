"""Looks at every link of the chain from the driver to a computation in a container: what each shows, no judgement.

Request on stdin, one line of JSON on stdout (GpuChainSeen). Every question has an end: a command that hangs is
a link that says so. Containers get neither a network nor a name that outlives them.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from hostside.protocol.gpu_proof import ComputingGpu, EngineSeen, GpuChainRequest, GpuChainSeen, GpuContainerSeen
from hostside.wire import MAX_BYTES, WireError, from_json, to_json

ASK_S = 60
SAID_CHARS = 600
WSL_SMI = "/usr/lib/wsl/lib/nvidia-smi"
LABEL = "gpuhost.job=gpu-check"


def ask(command: list[str], timeout_s: int = ASK_S, stdin: str = "") -> tuple[int, str, str]:
    """Exit code, stdout, and the end of what it said besides; 124 when it took too long, 127 when it is not there, less
    than 0 when it was killed: for it had too much to say, maybe."""
    try:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except FileNotFoundError:
        return 127, "", f"{command[0]} is not there"
    assert process.stdin and process.stdout and process.stderr
    with process, ThreadPoolExecutor(2) as pool:
        reading = [pool.submit(_read, stream, process) for stream in (process.stdout, process.stderr)]
        with contextlib.suppress(BrokenPipeError):  # it does not listen
            process.stdin.write(stdin.encode())
            process.stdin.close()
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            return 124, "", f"no answer within {timeout_s} s"
        out, error = (each.result() for each in reading)
    return process.returncode, out, (error.strip() or out.strip())[-SAID_CHARS:]


def _read(stream: IO[bytes], process: subprocess.Popen[bytes]) -> str:
    """All that comes; of what does not end so much, and then the process is ended."""
    text = stream.read(MAX_BYTES)
    if len(text) == MAX_BYTES:
        process.kill()
    return text.decode(errors="replace")


def driver() -> tuple[list[str], str]:
    """The UUIDs that nvidia-smi names, and its words when it fails."""
    program = WSL_SMI if Path(WSL_SMI).exists() else "nvidia-smi"
    code, out, said = ask([program, "--query-gpu=uuid", "--format=csv,noheader"])
    uuids = [line.strip() for line in out.splitlines() if line.startswith("GPU-")]
    return uuids, "" if code == 0 and uuids else said or "it names no GPU"


def device_files() -> list[str]:
    """The device files by which containers reach cards: /dev/nvidia*, on WSL2 /dev/dxg."""
    found = [*Path("/dev").glob("nvidia*"), Path("/dev/dxg")]
    return sorted(str(path) for path in found if path.is_char_device())


def toolkit() -> str:
    """The version of nvidia-ctk, "" when it does not say."""
    words = ask(["nvidia-ctk", "--version"])[1].split()
    return words[words.index("version") + 1] if "version" in words[:-1] else ""


def engine() -> EngineSeen:
    """What Docker says that it can give."""
    code, out, said = ask(["docker", "info", "--format", "{{json .}}"])
    try:
        info = json.loads(out) if code == 0 else {}
    except (ValueError, RecursionError):
        info = {}
    if info.get("ServerErrors"):  # the client alone has answered
        said, info = "; ".join(map(str, info["ServerErrors"]))[-SAID_CHARS:], {}
    found = info.get("DiscoveredDevices")  # since Docker 28.3
    return EngineSeen(
        runtimes=sorted(map(str, info.get("Runtimes") or {})),
        cdi_folders=list(map(str, info.get("CDISpecDirs") or [])),
        devices=None if found is None else [str(each.get("ID", "")) for each in found],
        said="" if info else said,
    )


def container(request: GpuChainRequest, device: str | None) -> GpuContainerSeen:
    """What a container sees that asks for one device, or for none."""
    name = f"gpuhost-gpu-check-{uuid.uuid4().hex[:12]}"
    command = ["docker", "run", "--rm", "--interactive", "--name", name, "--label", LABEL, "--pull=never"]
    command += ["--network=none", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
    command += [
        "--user=65534:65534",
        "--memory=4g",
        "--memory-swap=4g",
        "--ulimit=core=0",
        "--pids-limit=256",
        "--log-driver=none",
        "--env=CUDA_CACHE_DISABLE=1",
    ]
    if device and request.access == "cdi":
        command += [f"--device=nvidia.com/gpu={device}"]
    elif device:
        command += ["--runtime=nvidia", f'--gpus="device={device}"']
    code, out, said = ask([*command, "--entrypoint=python3", request.image, "-"], request.timeout_s, request.source)
    if code == 124 or code < 0:
        ask(["docker", "rm", "--force", name])
    try:
        seen = json.loads(out.splitlines()[-1]) if code == 0 else None
        gpus = [ComputingGpu(each["uuid"], each["wrong"], each["error"]) for each in seen["gpus"]] if seen else []
    except (IndexError, ValueError, KeyError, TypeError, RecursionError):
        return GpuContainerSeen(device, False, [], False, [], "its answer cannot be read")
    if seen is None:
        return GpuContainerSeen(device, False, [], False, [], said or f"exit code {code}")
    return GpuContainerSeen(device, True, list(seen["devices"]), bool(seen["driver"]), gpus, str(seen["error"]))


def look(request: GpuChainRequest) -> GpuChainSeen:
    """Every link, once."""
    uuids, said = driver()
    containers = [container(request, device) for device in (None, *request.devices)]
    return GpuChainSeen(uuids, said, device_files(), toolkit(), engine(), containers)


def main() -> int:
    """The exit code."""
    try:
        request = from_json(GpuChainRequest, sys.stdin.buffer.read(MAX_BYTES + 1))
    except WireError as error:
        print(f"error: the request cannot be read: {error}\nhint: run `gpuhost apply` again", file=sys.stderr)
        return 2
    print(to_json(look(request)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
