# ruff: noqa: PTH100, PTH103, PTH105, PTH107, PTH113, PTH118, PTH119, PTH120, PTH123
# Paths are str here, as in the real one.
"""The server of the stand-in: PromptServer with `instance`, `app`, `routes`; the HTTP API that clients use."""

import asyncio
import logging
import os
import sys
import uuid
from typing import Any
from urllib.parse import unquote

import folder_paths
import nodes
import torch
from aiohttp import web
from app.logger import get_logs
from comfy.cli_args import args
from comfyui_version import __version__

GIB = 1 << 30


class BadPrompt(Exception):
    """A prompt that cannot run: the type and message of the real answer."""


def check_prompt(prompt: dict[str, Any]) -> None:
    """As ComfyUI does: the classes exist, the required inputs are there, a choice is one of the choices."""
    if not any(getattr(nodes.NODE_CLASS_MAPPINGS.get(x.get("class_type")), "OUTPUT_NODE", 0) for x in prompt.values()):
        raise BadPrompt("prompt_no_outputs", "Prompt has no outputs")
    for number, node in prompt.items():
        kind = nodes.NODE_CLASS_MAPPINGS.get(node.get("class_type"))
        if kind is None:
            message = f"Cannot execute because node {node.get('class_type')} does not exist."
            raise BadPrompt("invalid_prompt", message)
        for name, declared in kind.INPUT_TYPES()["required"].items():
            if name not in node["inputs"]:
                raise BadPrompt("prompt_outputs_failed_validation", f"Required input is missing: {name} of {number}")
            value = node["inputs"][name]
            if isinstance(declared[0], list) and value not in declared[0]:
                raise BadPrompt("prompt_outputs_failed_validation", f"Value not in list: {name}: '{value}'")


@web.middleware
async def cache_control(request: web.Request, handler: Any) -> web.StreamResponse:
    """ComfyUI's own come before every node's."""
    response: web.StreamResponse = await handler(request)
    if request.path.endswith((".js", ".css")):
        response.headers.setdefault("Cache-Control", "no-cache")
    return response


@web.middleware
async def origin_only(request: web.Request, handler: Any) -> web.StreamResponse:
    """Answers OPTIONS itself, whoever asks, as the real one."""
    if request.method == "OPTIONS":
        return web.Response()
    answer: web.StreamResponse = await handler(request)
    return answer


class PromptServer:
    """One server a process; custom nodes find it as PromptServer.instance."""

    instance: "PromptServer"

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        PromptServer.instance = self
        self.loop = loop
        self.user_root = os.path.join(folder_paths.user_directory, "default")
        os.makedirs(self.user_root, exist_ok=True)  # on a read-only tree without flags it ends here, as the real one
        size = round(args.max_upload_size * 1024 * 1024)
        self.app = web.Application(client_max_size=size, middlewares=[cache_control, origin_only])
        self.routes = web.RouteTableDef()
        self.queue: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()
        self.history: dict[str, Any] = {}
        self._declare()

    def _declare(self) -> None:
        routes = self.routes

        @routes.get("/")
        async def root(request: web.Request) -> web.Response:
            return web.Response(text="<!DOCTYPE html><title>ComfyUI</title>", content_type="text/html")

        @routes.get("/ws")
        async def websocket(request: web.Request) -> web.WebSocketResponse:
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            sid = request.query.get("clientId") or uuid.uuid4().hex
            queue = {"exec_info": {"queue_remaining": self.queue.qsize()}}
            await socket.send_json({"type": "status", "data": {"status": queue, "sid": sid}})
            async for _ in socket:
                pass
            return socket

        @routes.get("/system_stats")
        async def system_stats(request: web.Request) -> web.Response:
            device = {"name": "cpu", "type": "cpu", "index": None, "vram_total": 16 * GIB, "vram_free": 8 * GIB}
            if not args.cpu:
                device.update(name="cuda:0 stand-in : native", type="cuda", index=0)
            device.update(torch_vram_total=0, torch_vram_free=0)
            system = {
                "os": os.name,
                "ram_total": 16 * GIB,
                "ram_free": 8 * GIB,
                "comfyui_version": __version__,
                "python_version": sys.version,
                "pytorch_version": torch.__version__,
                "embedded_python": False,
                "argv": sys.argv,
            }
            return web.json_response({"system": system, "devices": [device]})

        @routes.get("/models/{folder}")
        async def models(request: web.Request) -> web.Response:
            if request.match_info["folder"] not in folder_paths.folder_names_and_paths:
                return web.Response(status=404)
            return web.json_response(folder_paths.get_filename_list(request.match_info["folder"]))

        @routes.get("/object_info")
        async def object_info(request: web.Request) -> web.Response:
            return web.json_response({name: describe(name) for name in nodes.NODE_CLASS_MAPPINGS})

        @routes.get("/object_info/{node_class}")
        async def object_info_of(request: web.Request) -> web.Response:
            name = request.match_info["node_class"]
            return web.json_response({name: describe(name)} if name in nodes.NODE_CLASS_MAPPINGS else {})

        @routes.post("/prompt")
        async def post_prompt(request: web.Request) -> web.Response:
            body = await request.json()
            if "prompt" not in body:
                error = {"type": "no_prompt", "message": "No prompt provided", "details": "", "extra_info": {}}
                return web.json_response({"error": error, "node_errors": {}}, status=400)
            try:
                check_prompt(body["prompt"])
            except BadPrompt as bad:
                error = {"type": bad.args[0], "message": bad.args[1], "details": "", "extra_info": {}}
                return web.json_response({"error": error, "node_errors": {}}, status=400)
            prompt_id = str(body.get("prompt_id") or uuid.uuid4())
            await self.queue.put((prompt_id, body["prompt"]))
            return web.json_response({"prompt_id": prompt_id, "number": len(self.history), "node_errors": {}})

        @routes.get("/prompt")
        async def get_prompt(request: web.Request) -> web.Response:
            return web.json_response({"exec_info": {"queue_remaining": self.queue.qsize()}})

        @routes.get("/queue")
        async def get_queue(request: web.Request) -> web.Response:
            return web.json_response({"queue_running": [], "queue_pending": [None] * self.queue.qsize()})

        @routes.get("/history")
        async def get_history(request: web.Request) -> web.Response:
            return web.json_response(self.history)

        @routes.get("/history/{prompt_id}")
        async def get_history_of(request: web.Request) -> web.Response:
            wanted = request.match_info["prompt_id"]
            return web.json_response({wanted: self.history[wanted]} if wanted in self.history else {})

        @routes.get("/view")
        async def view(request: web.Request) -> web.StreamResponse:
            kinds = {"input": folder_paths.input_directory, "temp": folder_paths.temp_directory}
            folder = kinds.get(request.query.get("type", "output"), folder_paths.output_directory)
            path = os.path.join(folder, os.path.basename(request.query.get("filename", "")))
            return web.FileResponse(path) if os.path.isfile(path) else web.Response(status=404)

        @routes.post("/upload/image")
        async def upload(request: web.Request) -> web.Response:
            image = (await request.post()).get("image")
            if not isinstance(image, web.FileField):
                return web.Response(status=400)
            name = os.path.basename(image.filename)
            with open(os.path.join(folder_paths.input_directory, name), "wb") as file:
                file.write(image.file.read())
            return web.json_response({"name": name, "subfolder": "", "type": "input"})

        @routes.get("/userdata/{file}")
        async def get_userdata(request: web.Request) -> web.StreamResponse:
            path = self._user_file(request)
            return web.FileResponse(path) if os.path.isfile(path) else web.Response(status=404)

        @routes.post("/userdata/{file}")
        async def post_userdata(request: web.Request) -> web.Response:
            path = self._user_file(request)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(await request.read())
            return web.json_response(os.path.relpath(path, self.user_root))

        @routes.delete("/userdata/{file}")
        async def delete_userdata(request: web.Request) -> web.Response:
            os.remove(self._user_file(request, there=True))
            return web.Response(status=204)

        @routes.post("/userdata/{file}/move/{dest}")
        async def move_userdata(request: web.Request) -> web.Response:
            source, dest = self._user_file(request, there=True), self._user_file(request, "dest")
            os.replace(source, dest)
            return web.json_response(os.path.relpath(dest, self.user_root))

    def _user_file(self, request: web.Request, param: str = "file", there: bool = False) -> str:
        path = os.path.abspath(os.path.join(self.user_root, unquote(request.match_info[param])))
        if not path.startswith(self.user_root + os.sep):
            raise web.HTTPForbidden
        if there and not os.path.isfile(path):
            raise web.HTTPNotFound
        return path

    def add_routes(self) -> None:
        """Every route twice, as in the real one: as it is and under /api."""
        for route in list(self.routes):
            if isinstance(route, web.RouteDef):
                self.app.router.add_route(route.method, "/api" + route.path, route.handler, **route.kwargs)
        self.app.add_routes(self.routes)
        internal = web.Application()
        internal.router.add_get("/logs", self.logs)
        self.app.add_subapp("/internal", internal)

    async def logs(self, request: web.Request) -> web.Response:
        return web.json_response("".join(f"{entry['t']} - {entry['m']}" for entry in get_logs()))

    async def work(self) -> None:
        """Run the queued prompts one after another."""
        while True:
            prompt_id, prompt = await self.queue.get()
            results: dict[str, Any] = {}
            status, messages = "success", []
            try:
                for number in prompt:
                    self._execute(number, prompt, results)
            except Exception as error:
                status, messages = "error", [["execution_error", {"exception_message": str(error)}]]
            outputs = {n: {"images": r} for n, r in results.items() if is_output(prompt[n])}
            state = {"status_str": status, "completed": status == "success", "messages": messages}
            self.history[prompt_id] = {"prompt": [0, prompt_id, prompt], "outputs": outputs, "status": state}

    def _execute(self, number: str, prompt: dict[str, Any], results: dict[str, Any]) -> Any:
        if number not in results:
            node = prompt[number]
            inputs = {
                name: self._execute(value[0], prompt, results) if isinstance(value, list) else value
                for name, value in node["inputs"].items()
            }
            results[number] = nodes.NODE_CLASS_MAPPINGS[node["class_type"]]().run(**inputs)
        return results[number]

    async def start(self, address: str, port: int) -> None:
        """Serve for ever; on_startup runs before the port opens."""
        runner = web.AppRunner(self.app, access_log=None)
        await runner.setup()
        logging.info("Starting server\n")
        await web.TCPSite(runner, address, port).start()
        logging.info("To see the GUI go to: http://%s:%s", address, port)
        await self.work()


def is_output(node: dict[str, Any]) -> bool:
    """Whether a node of a prompt writes images."""
    return bool(getattr(nodes.NODE_CLASS_MAPPINGS[node["class_type"]], "OUTPUT_NODE", False))


def describe(name: str) -> dict[str, Any]:
    """A node's entry in /object_info."""
    kind = nodes.NODE_CLASS_MAPPINGS[name]
    return {
        "name": name,
        "display_name": name,
        "input": kind.INPUT_TYPES(),
        "output_node": bool(getattr(kind, "OUTPUT_NODE", False)),
        "python_module": "nodes",
    }
