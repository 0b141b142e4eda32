"""How fast the server of Stable Diffusion 3.5 is on a GPU, and what it takes: `python3 bench/sd35_gpu.py`.

Needs a machine with an NVIDIA GPU and the packages of files/sd35/requirements.in; no network. Makes the model with
random weights of the real shapes (bench/sd35_model.py says whose), serves it as the container does, in a process of its
own, and asks through the API for pictures of 1024x1024 with 28 steps and guidance 7. Weights that are random make noise
as slowly as real ones make pictures. Prints lines of JSON; the last is the whole result.

`--offload model`: as a card of 24 GB needs it. `--model DIR` keeps the model there, and takes one that is there.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SERVER = ROOT / "files" / "sd35"
REPO = "random/stable-diffusion-3.5-large"
COMMIT = "0" * 40
PORT = 8000
PICTURE = {"prompt": "a lighthouse on a cliff in a storm", "size": "1024x1024", "num_inference_steps": 28}
MAKE = """
import sys
from pathlib import Path
import torch
from bench.sd35_model import LARGE, TINY, put_in_cache
hub, repo, commit, shapes, device = sys.argv[1:]
dtype = torch.bfloat16 if device == "cuda" else torch.float32
put_in_cache(Path(hub), repo, commit, {"large": LARGE, "tiny": TINY}[shapes], dtype, device)
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--offload", choices=["none", "model"], default="none")
    parser.add_argument("--shapes", choices=["large", "tiny"], default="large", help="tiny: to try this program")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--model", type=Path, help="folder for the model; a temporary one when left out")
    parser.add_argument("--pictures", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.model or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        print(json.dumps({"result": measure(folder.resolve(), Path(temporary), arguments)}))
    return 0


def measure(folder: Path, work: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """All figures of one run."""
    hub = folder / "hub"
    found: dict[str, Any] = {"versions": versions(), "gpu": gpu_name(), "offload": arguments.offload}
    if not hub.exists():
        began = time.monotonic()
        words = [str(hub), REPO, COMMIT, arguments.shapes, arguments.device]
        subprocess.run([sys.executable, "-c", MAKE, *words], cwd=ROOT, check=True)
        tell(found, make_model_s=since(began))
    sizes = [path.stat().st_size for path in hub.rglob("*.safetensors")]
    tell(found, weights_gb=round(sum(sizes) / 1e9, 2), vram_before_mib=vram_mib())
    with serving(folder, work, arguments) as (api, server):
        began = time.monotonic()
        with watched(server) as loading:
            while (said := api.get("/health"))["status"] != "ok":
                if said["status"] != "loading":
                    raise SystemExit(f"the server says: {said}")
                time.sleep(0.1)
        tell(found, load_s=since(began), loading=loading, vram_loaded_mib=vram_mib(), health=said)
        for number in range(arguments.pictures):
            picture = PICTURE if arguments.shapes == "large" else {**PICTURE, "size": "256x256"}
            began = time.monotonic()
            with watched(server) as making:
                answer = api.post("/v1/images/generations", {**picture, "seed": number})
            png = base64.b64decode(answer["data"][0]["b64_json"])
            made = {"seconds": since(began), "png_bytes": len(png), **making, "vram_resting_mib": vram_mib()}
            tell(found, **{f"picture_{number + 1}": made})
        tell(found, **contract(api, picture))
        before = vram_mib()
        unloaded = api.post("/unload", {})
        tell(found, unload={"vram_before_mib": before, "vram_mib": vram_mib(), "said": unloaded})
    tell(found, vram_after_mib=vram_mib())
    return found


def contract(api: Api, picture: dict[str, Any]) -> dict[str, Any]:
    """The same picture twice by `/generate`: a seed holds, progress is told, a file is written; then one cancelled."""
    width, _, height = picture["size"].partition("x")
    body = {
        **{key: picture[key] for key in ("prompt", "num_inference_steps")},
        **{"width": int(width), "height": int(height), "seed": 0},
    }
    pictures, steps = [], set()
    for _ in range(2):
        job = api.post("/generate", body)["job_id"]
        while (state := api.get(f"/status/{job}"))["status"] in ("pending", "processing"):
            steps.add(state["step"])
            time.sleep(0.05)
        pictures.append(Path(state["images"][0]).read_bytes())
    job = api.post("/generate", {**body, "num_inference_steps": 100})["job_id"]
    while api.get(f"/status/{job}")["step"] < 1:
        time.sleep(0.01)
    began = time.monotonic()
    cancelled = api.post(f"/cancel/{job}", {})["error"]["code"]
    return {
        "same_seed_same_picture": pictures[0] == pictures[1],
        "steps_seen": len(steps),
        "colours": colours(pictures[0]),
        "cancel": {"code": cancelled, "seconds": since(began)},
    }


def colours(png: bytes) -> int:
    """How many colours a picture has; 1 says that something became NaN."""
    from PIL import Image

    with Image.open(io.BytesIO(png)) as image:
        return len(image.convert("RGB").getcolors(2**24) or [])


class Api:
    """The server, with its token."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def get(self, path: str) -> dict[str, Any]:
        return self._ask(path, None)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return self._ask(path, json.dumps(body).encode())

    def _ask(self, path: str, body: bytes | None) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{PORT}{path}", body, headers)
        try:
            with self._opener.open(request, timeout=1800) as answer:
                found = json.load(answer)
        except urllib.error.HTTPError as error:  # `/health` says 503 while it loads
            found = json.load(error)
            if path != "/health":
                raise SystemExit(f"{path}: {error.code} {found}") from error
        assert isinstance(found, dict)
        return found


@contextlib.contextmanager
def serving(folder: Path, work: Path, arguments: argparse.Namespace) -> Iterator[tuple[Api, int]]:
    """The API and the process id of a running server; it ends by SIGTERM, and that is told, too."""
    token = secrets.token_urlsafe(32)
    (work / "outputs").mkdir()
    environment = {
        **os.environ,
        "SD35_API_KEY": token,
        "SD35_MODEL": REPO,
        "SD35_LOAD": "start",
        "SD35_OFFLOAD": arguments.offload,
        "SD35_DEVICE": arguments.device,
        "SD35_OUTPUTS": str(work / "outputs"),
        "HF_HOME": str(folder),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join([str(SERVER), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    server = subprocess.Popen([sys.executable, "-m", "sd35"], cwd=SERVER, env=environment, stdout=sys.stderr)
    try:
        api = Api(token)
        for _ in range(600):
            with contextlib.suppress(urllib.error.URLError):
                api.get("/health")
                break
            if server.poll() is not None:
                raise SystemExit(f"the server ended with {server.returncode}")
            time.sleep(0.1)
        yield api, server.pid
        server.send_signal(signal.SIGTERM)
        server.wait(40)
    finally:
        server.kill()
        server.wait()


@contextlib.contextmanager
def watched(server: int) -> Iterator[dict[str, Any]]:
    """The peaks while the block runs: the GPU's memory, and that of the server and its child on the host."""
    peaks: dict[str, Any] = {"vram_peak_mib": None, "host_peak_mib": 0, "host_anonymous_peak_mib": 0}
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            used = vram_mib()
            if used is not None:
                peaks["vram_peak_mib"] = max(used, peaks["vram_peak_mib"] or 0)
            resident, anonymous = host_mib(server)
            peaks["host_peak_mib"] = max(resident, peaks["host_peak_mib"])
            peaks["host_anonymous_peak_mib"] = max(anonymous, peaks["host_anonymous_peak_mib"])

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peaks
    finally:
        ended.set()
        thread.join()


def host_mib(server: int) -> tuple[int, int]:
    """Resident memory of a process and its children, and what of it no file gives back; MiB."""
    resident = anonymous = 0
    for pid in [server, *children(server)]:
        with contextlib.suppress(OSError):
            lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            resident += int(lines.get("VmRSS", "0 kB").split()[0])
            anonymous += int(lines.get("RssAnon", "0 kB").split()[0])
    return resident >> 10, anonymous >> 10


def children(parent: int) -> list[int]:
    """Of every thread of it: asyncio starts them from any."""
    found: list[int] = []
    for file in Path(f"/proc/{parent}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, file.read_text().split())
    return found


def vram_mib() -> int | None:
    """What is used of the first GPU, by everybody; None where there is none."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0)).used) >> 20
    except pynvml.NVMLError:
        return None


def gpu_name() -> str | None:
    """Of the first GPU, with the driver's version."""
    import pynvml

    try:
        pynvml.nvmlInit()
        name = pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0))
        return f"{name}, driver {pynvml.nvmlSystemGetDriverVersion()}"
    except pynvml.NVMLError:
        return None


def versions() -> dict[str, str]:
    """Of what makes the pictures."""
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "diffusers", "transformers", "accelerate", "fastapi")}


def tell(found: dict[str, Any], **what: Any) -> None:
    """Adds to the result and prints at once: a run that is cut short has told something."""
    found.update(what)
    print(json.dumps(what), flush=True)


def since(began: float) -> float:
    return round(time.monotonic() - began, 2)


if __name__ == "__main__":
    sys.exit(main())
