"""What the two workflows that are shipped take on a GPU: `python3 -m bench.comfyui_gpu COMFYUI COMFYUI_LOGIN`.

Needs a machine with an NVIDIA GPU, the sources of ComfyUI and of ComfyUI-Login in two folders (group_data/all.py says
which versions) and the packages of both; no network. The weights are random, in the real shapes (bench/comfyui_model.py
says whose): they make noise as slowly as real ones make pictures, and nothing here says how good a picture is.

ComfyUI is laid out as its installer does, with the login and the guard node, and started with the arguments of the
catalogue. Each workflow is sent through the API with the token, and asked for without. Then once more while another
process holds all of the GPU but --room-mib: a simulation of a smaller card, whose chip, PCIe and total memory stay this
GPU's. Prints lines of JSON; the last is the whole result. What fails is told, and the next one is tried.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import json
import os
import runpy
import secrets
import shutil
import signal
import subprocess
import sys
import time
import traceback
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.sd35_gpu import ROOT, colours, gpu_name, since, tell, vram_mib, watched

PORT = 8188
SERVICES = runpy.run_path(str(ROOT / "group_data" / "all.py"))["services"]
# Seed and words: what is the same as before, ComfyUI does not make anew.
PICTURES = {"first": (0, ""), "other_seed": (1, ""), "other_prompt": (2, " at night")}
HOLD = """
import sys, torch
room = int(sys.argv[1]) << 20
held = torch.empty(torch.cuda.mem_get_info()[0] - room, dtype=torch.uint8, device="cuda")
print(torch.cuda.mem_get_info()[0] >> 20, flush=True)
sys.stdin.read()
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("comfyui", type=Path)
    parser.add_argument("login", type=Path, help="folder of ComfyUI-Login")
    parser.add_argument("--service", action="append", choices=["flux-1-dev", "comfyui-qwen"], help="both when left out")
    parser.add_argument("--work", type=Path, required=True, help="folder for models, pictures, logs: 35 GB a service")
    parser.add_argument("--room-mib", type=int, action="append", default=[], help="once more with so much of the GPU")
    parser.add_argument("--forget-models", action="store_true", help="remove a service's models when it is done")
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    app = lay_out(arguments.comfyui, arguments.login, work)
    found: dict[str, Any] = {"gpu": gpu_name(), "versions": versions(app)}
    for service in arguments.service or ["comfyui-qwen", "flux-1-dev"]:
        of_service: dict[str, Any] = {}
        found[service] = of_service
        with told(of_service, "models"):
            of_service["models"] = models(app, work, service)
        for room in [None, *arguments.room_mib]:
            with told(of_service, f"room_{room}_mib" if room else "whole_gpu") as figures, held(room, figures):
                measure(app, work, service, figures, room)
        if arguments.forget_models:
            shutil.rmtree(work / "models")
    print(json.dumps({"result": found}))
    return 0


def measure(app: Path, work: Path, service: str, found: dict[str, Any], room: int | None) -> None:
    """One server, from its start to its end."""
    tell(found, vram_before_mib=vram_mib())
    log = work / f"{service}-{room or 'whole'}.log"
    workflow = json.loads((ROOT / "files" / "workflows" / f"{service}.json").read_text())
    began = time.monotonic()
    try:
        with serving(app, work, service, log) as (api, server):
            tell(found, start_s=since(began), vram_started_mib=vram_mib(), strangers=strangers(api))
            if any(node["class_type"] == "LoadImage" for node in workflow.values()):
                tell(found, upload=api.upload("picture.png", picture()))
            for name, (seed, words) in PICTURES.items():
                began = time.monotonic()
                with watched(server) as peaks:
                    file = api.make(changed(workflow, seed, words))
                made = {"seconds": since(began), **looks(api, file), **peaks, "vram_resting_mib": vram_mib()}
                tell(found, **{f"picture_{name}": made})
            tell(found, free=given_back(api), host_ever_mib=ever_resident_mib(server))
    finally:
        tell(found, log=[line for line in log.read_text().splitlines() if "loaded " in line or "Error" in line][-40:])


def changed(workflow: dict[str, Any], seed: int, words: str) -> dict[str, Any]:
    """The workflow with another seed, and with words added to its prompts."""
    other = json.loads(json.dumps(workflow))
    for node in other.values():
        for key in node["inputs"].keys() & {"text", "prompt"}:
            node["inputs"][key] += words
        if "seed" in node["inputs"]:
            node["inputs"]["seed"] = seed
    return dict(other)


def given_back(api: Api) -> dict[str, Any]:
    """ComfyUI is asked to give the GPU's memory back; what it says is no proof, so: what is used afterwards."""
    api.json("/free", {"unload_models": True, "free_memory": True})
    seen: dict[int, int | None] = {}
    for after_s in (1, 10, 30, 60):
        time.sleep(after_s - max(seen, default=0))
        seen[after_s] = vram_mib()
    return {"vram_mib_after_s": seen}


def strangers(api: Api) -> dict[str, int]:
    """What somebody gets without the token, or with a wrong one."""
    asked = {"GET /system_stats": None, "POST /prompt": b"{}", "POST /upload/image": b"", "GET /history": None}
    got = {
        f"{ask}, {whose}": api.ask(ask.partition(" ")[2], body, token=token)[0]
        for ask, body in asked.items()
        for whose, token in {"no token": "", "wrong token": "x" * 60}.items()
    }
    if set(got.values()) != {401}:
        raise RuntimeError(f"strangers got in: {got}")
    return got


def looks(api: Api, file: dict[str, str]) -> dict[str, Any]:
    """Of the picture, which only the token gives."""
    from PIL import Image

    path = "/view?" + urllib.parse.urlencode(file)
    status, png = api.ask(path)
    with Image.open(io.BytesIO(png)) as image:
        size = image.size
    return {"status": status, "stranger": api.ask(path, token="")[0], "size": size, "colours": colours(png)}


def picture() -> bytes:
    """One to edit."""
    from PIL import Image

    file = io.BytesIO()
    Image.radial_gradient("L").resize((1024, 1024)).convert("RGB").save(file, "PNG")
    return file.getvalue()


class Api:
    """The server, with its token."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask(
        self, path: str, body: bytes | None = None, kind: str = "application/json", token: str | None = None
    ) -> tuple[int, bytes]:
        """Status and body. `token`: another one, "" for none."""
        given = self._token if token is None else token
        headers = {"Content-Type": kind, **({"Authorization": f"Bearer {given}"} if given else {})}
        request = urllib.request.Request(f"http://127.0.0.1:{PORT}{path}", body, headers)
        try:
            with self._opener.open(request, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def json(self, path: str, body: dict[str, Any] | None = None) -> Any:
        status, text = self.ask(path, None if body is None else json.dumps(body).encode())
        if status != 200:
            raise RuntimeError(f"{path}: {status} {text[:500]!r}")
        return json.loads(text or b"null")

    def upload(self, name: str, png: bytes) -> Any:
        mark = secrets.token_hex(16)
        head = f'--{mark}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
        body = f"{head}Content-Type: image/png\r\n\r\n".encode() + png + f"\r\n--{mark}--\r\n".encode()
        status, text = self.ask("/upload/image", body, f"multipart/form-data; boundary={mark}")
        if status != 200:
            raise RuntimeError(f"/upload/image: {status} {text[:500]!r}")
        return json.loads(text)

    def make(self, workflow: dict[str, Any]) -> dict[str, str]:
        """Wait for the picture; what `/view` wants to know of it."""
        prompt = self.json("/prompt", {"prompt": workflow})["prompt_id"]
        while not (history := self.json(f"/history/{prompt}")):
            time.sleep(0.1)
        said = history[prompt]
        if said["status"]["status_str"] != "success":
            raise RuntimeError(json.dumps(said["status"])[:3000])
        [file] = [image for output in said["outputs"].values() for image in output.get("images", [])]
        return {key: file[key] for key in ("filename", "subfolder", "type")}


@contextlib.contextmanager
def serving(app: Path, work: Path, service: str, log: Path) -> Iterator[tuple[Api, int]]:
    """The API and the process id of a running server: the command of templates/comfyui.yml.j2, below our own folder."""
    entry = SERVICES[service]
    data = work / service
    for folder in (*entry["folders"], "cache", "user"):
        (data / folder).mkdir(parents=True, exist_ok=True)
    token = new_login(app)
    command = [
        *[sys.executable, "main.py", "--listen=127.0.0.1", f"--port={PORT}", f"--base-directory={data}"],
        *[f"--database-url=sqlite:///{data}/user/comfyui.db", f"--extra-model-paths-config={app}/paths.yaml"],
        *[f"--output-directory={data}/outputs", "--disable-auto-launch", *entry["arguments"]],
    ]
    environment = {
        **os.environ,
        **entry["environment"],
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "HF_HUB_OFFLINE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "XDG_CACHE_HOME": str(data / "cache"),
    }
    with log.open("w") as file:
        server = subprocess.Popen(command, cwd=app / "ComfyUI", env=environment, stdout=file, stderr=file)
    try:
        api = Api(token)
        wait_until_it_answers(api, server)
        yield api, server.pid
        server.send_signal(signal.SIGINT)
        server.wait(60)
    finally:
        server.kill()
        server.wait()


def wait_until_it_answers(api: Api, server: subprocess.Popen[bytes]) -> None:
    for _ in range(3000):
        with contextlib.suppress(OSError):
            if api.ask("/system_stats")[0] == 200:
                return
        if server.poll() is not None:
            raise RuntimeError(f"the server ended with {server.returncode}")
        time.sleep(0.1)
    raise RuntimeError("the server does not answer")


@contextlib.contextmanager
def held(room: int | None, found: dict[str, Any]) -> Iterator[None]:
    """All of the GPU but `room` is held by another process meanwhile."""
    if room is None:
        yield
        return
    command = [sys.executable, "-c", HOLD, str(room)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout
        tell(found, room_mib=int(holder.stdout.readline()))
        yield
    finally:
        holder.kill()
        holder.wait()


@contextlib.contextmanager
def told(found: dict[str, Any], what: str) -> Iterator[dict[str, Any]]:
    """What the block finds under a name of its own; its failure is a finding, too."""
    figures: dict[str, Any] = {}
    print(json.dumps({"begins": what}), flush=True)
    found[what] = figures
    try:
        yield figures
    except Exception as error:
        traceback.print_exc()
        tell(figures, failed=f"{type(error).__name__}: {error}")


def lay_out(comfyui: Path, login: Path, work: Path) -> Path:
    """ComfyUI, ComfyUI-Login and the guard node, where files/install_comfyui.sh puts them; its folder."""
    import jinja2
    import yaml

    app = work / "app"
    nodes = app / "nodes"
    shutil.copytree(comfyui, app / "ComfyUI", ignore=shutil.ignore_patterns(".git"), dirs_exist_ok=True)
    shutil.copytree(login, nodes / "auth" / "ComfyUI-Login", ignore=shutil.ignore_patterns(".git"), dirs_exist_ok=True)
    shutil.copytree(ROOT / "files" / "comfyui" / "guard", nodes / "auth" / "gpuhost-guard", dirs_exist_ok=True)
    (app / "ComfyUI" / "login").mkdir(exist_ok=True)
    (nodes / "extra").mkdir(exist_ok=True)
    template = (ROOT / "templates" / "extra_model_paths.yaml.j2").read_text()
    paths = yaml.safe_load(jinja2.Template(template, trim_blocks=True).render(service={"auth": True}))
    paths["gpuhost"]["base_path"] = str(work / "models")
    paths["gpuhost_nodes"]["base_path"] = str(nodes)
    (app / "paths.yaml").write_text(yaml.safe_dump(paths))
    return app


def new_login(app: Path) -> str:
    """A password's hash, which is the API's token, and a key for cookies, as a service has them."""
    import bcrypt

    token = bcrypt.hashpw(secrets.token_hex(16).encode(), bcrypt.gensalt()).decode()
    (app / "ComfyUI" / "login" / "PASSWORD").write_text(f"{token}\ngenai\n")
    key = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    (app / "nodes" / "auth" / "ComfyUI-Login" / ".secret-key.txt").write_text(f"{key},{datetime.now().isoformat()}")
    return token


def models(app: Path, work: Path, service: str) -> dict[str, Any]:
    """Make the service's weights, in a process of their own: its memory is given back."""
    began = time.monotonic()
    words = [str(app / "ComfyUI"), str(work / "models"), service, "cuda"]
    subprocess.run([sys.executable, "-m", "bench.comfyui_model", *words], cwd=ROOT, check=True)
    sizes = {path.name: round(path.stat().st_size / 1e9, 2) for path in (work / "models").rglob("*.safetensors")}
    return {"make_s": since(began), "gb": sizes}


def versions(app: Path) -> dict[str, str]:
    """Of what makes the pictures."""
    from importlib.metadata import version

    comfyui = runpy.run_path(str(app / "ComfyUI" / "comfyui_version.py"))["__version__"]
    return {"comfyui": comfyui, **{name: version(name) for name in ("torch", "transformers", "numpy", "aiohttp")}}


def ever_resident_mib(pid: int) -> int:
    """The most of the host's memory that a process has had at once, mapped files and all."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) >> 10


if __name__ == "__main__":
    sys.exit(main())
