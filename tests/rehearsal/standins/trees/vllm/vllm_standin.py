"""Stand-in for vLLM: `vllm serve`, as far as its release's command line, its API, its lock and its start go.

It refuses arguments that the release refuses (arguments.json beside it), needs the model in the hub's cache and as many
GPUs as it shall use, takes `--middleware`, and locks the paths that the release locks. Texts are made up; answers have
the shape of the real ones. STANDIN_START_S: how long it loads; STANDIN_BROKEN: `/health` is 200, completions are not.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RELEASE = (HERE / "release").read_text().strip()
# What each release's own lock stands before, and the name of the reasoning in an answer.
LOCKED = {"v0.9.2": ("/v1",), "v0.32.0": ("/v1", "/v2", "/inference", "/cohere")}[RELEASE]
REASONING = {"v0.9.2": "reasoning_content", "v0.32.0": "reasoning"}[RELEASE]
App = Callable[..., Awaitable[None]]


def parsed(words: list[str]) -> argparse.Namespace:
    """The command line, as the release takes it; else argparse's words and exit 2, as of the real one."""
    parser = argparse.ArgumentParser(prog="vllm serve", add_help=False)
    parser.add_argument("model_tag")
    for name, takes in json.loads((HERE / "arguments.json").read_text())[RELEASE].items():
        if takes is None:
            parser.add_argument(name, action="store_true")
        elif isinstance(takes, list):
            parser.add_argument(name, choices=takes)
        else:
            parser.add_argument(name, nargs=None if takes == "1" else takes)
    return parser.parse_args(
        [word.replace("_", "-") if word.startswith("--") and "=" not in word else word for word in words]
    )


def fail(words: str) -> None:
    """End as a start that fails does."""
    print(words, file=sys.stderr)
    sys.exit(1)


def load(options: argparse.Namespace) -> None:
    """What must be there: the model, offline, and the GPUs."""
    folder = Path(os.environ["HF_HUB_CACHE"], "models--" + options.model_tag.replace("/", "--"))
    revision = options.revision or "main"
    named = folder / "refs" / revision
    commit = named.read_text().strip() if named.is_file() else revision
    if os.environ.get("HF_HUB_OFFLINE") != "1" or not any((folder / "snapshots" / commit).glob("*")):
        fail(
            f"OSError: We couldn't connect to the hub, and couldn't find {options.model_tag} ({revision}) in the cache"
        )
    wanted, there = int(options.tensor_parallel_size or 1), len([*Path("/usr/lib/nvidia-standin").glob("*.gpu")])
    if there < wanted:
        fail(f"ValueError: World size ({wanted}) is larger than the number of available GPUs ({there}) in this node.")
    if not 0 < float(options.gpu_memory_utilization or 0.9) <= 1:
        fail("ValueError: GPU memory utilization must be in (0, 1].")
    time.sleep(float(os.environ.get("STANDIN_START_S", "0")))


class Api:
    """The release's routes, as an ASGI application."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.name = (options.served_model_name or [options.model_tag])[0]
        self.length = int(options.max_model_len or 2048)

    async def __call__(self, scope: dict[str, Any], receive: App, send: App) -> None:
        body = (await receive())["body"]  # type: ignore[index]
        status, answer = self.answer(scope, body)
        data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
        headers = [(b"content-type", b"text/plain" if isinstance(answer, str) else b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": data})

    def answer(self, scope: dict[str, Any], body: bytes) -> tuple[int, Any]:
        """(status, answer) of a request."""
        method, path = scope["method"], scope["path"]
        if method != "OPTIONS" and path.startswith(LOCKED) and not self.knows_key(scope):
            return 401, {"error": "Unauthorized"}
        routes: dict[tuple[str, str], Callable[[dict[str, Any]], tuple[int, Any]]] = {
            ("GET", "/health"): lambda asked: (200, ""),
            ("GET", "/metrics"): lambda asked: (200, f'vllm:num_requests_running{{model_name="{self.name}"}} 0.0\n'),
            ("GET", "/version"): lambda asked: (200, {"version": RELEASE.removeprefix("v")}),
            ("GET", "/v1/models"): lambda asked: (200, {"object": "list", "data": [self.model()]}),
            ("POST", "/v1/completions"): self.completion,
            ("POST", "/invocations"): self.completion,
            ("POST", "/v1/chat/completions"): self.chat,
        }
        if (method, path) not in routes:
            return 405 if path in {known for _, known in routes} else 404, {"detail": "Not Found"}
        try:
            asked = json.loads(body or b"{}")
        except ValueError:
            return 400, {"error": {"message": "not JSON"}}
        if method == "POST" and asked.get("model") != self.name:
            return 404, {"error": {"message": f"The model `{asked.get('model')}` does not exist."}}
        if method == "POST" and os.environ.get("STANDIN_BROKEN"):
            return 500, {"error": {"message": "EngineDeadError"}}
        return routes[method, path](asked)

    def knows_key(self, scope: dict[str, Any]) -> bool:
        """Whether a request has the key."""
        return (b"authorization", b"Bearer " + os.environ["VLLM_API_KEY"].encode()) in scope["headers"]

    def model(self) -> dict[str, Any]:
        """Of the list of models."""
        return {"id": self.name, "object": "model", "owned_by": "vllm", "max_model_len": self.length}

    def completion(self, asked: dict[str, Any]) -> tuple[int, Any]:
        """As many tokens as were asked for."""
        count = int(asked.get("max_tokens", 16))
        choice = {"index": 0, "text": " two" * count, "finish_reason": "length"}
        usage = {"prompt_tokens": 4, "completion_tokens": count, "total_tokens": 4 + count}
        return 200, {"object": "text_completion", "model": self.name, "choices": [choice], "usage": usage}

    def chat(self, asked: dict[str, Any]) -> tuple[int, Any]:
        """A thought, then a call of the first tool when there is one, else a text."""
        message: dict[str, Any] = {"role": "assistant", "content": "two", REASONING: "one and one"}
        if asked.get("tools") and asked.get("tool_choice", "auto") != "none":
            call = {"name": asked["tools"][0]["function"]["name"], "arguments": "{}"}
            message |= {"content": None, "tool_calls": [{"id": "call-1", "type": "function", "function": call}]}
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if "tool_calls" in message else "stop"}
        return 200, {"object": "chat.completion", "model": self.name, "choices": [choice], "usage": {}}


def handler(app: App) -> type[BaseHTTPRequestHandler]:
    """HTTP in, ASGI out."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in self.headers.items()]
            scope = {"type": "http", "method": self.command, "path": self.path.partition("?")[0], "headers": headers}
            sent: list[dict[str, Any]] = []

            async def receive() -> dict[str, Any]:
                return {"type": "http.request", "body": body, "more_body": False}

            async def send(message: dict[str, Any]) -> None:
                sent.append(message)

            asyncio.run(app(scope, receive, send))  # type: ignore[arg-type]
            data = b"".join(message.get("body", b"") for message in sent)
            self.send_response(sent[0]["status"])
            for name, value in (*sent[0]["headers"], (b"content-length", str(len(data)).encode())):
                self.send_header(name.decode(), value.decode())
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_OPTIONS = do_HEAD = do_PUT = do_DELETE = do_PATCH = handle_any

        def log_message(self, format: str, *values: Any) -> None:
            print(format % values, file=sys.stderr)

    return Handler


def main(words: list[str]) -> None:
    """`vllm serve MODEL ...`."""
    if words[:1] != ["serve"]:
        fail(f"vllm: error: the stand-in serves only, not {words[:1]}")
    options = parsed(words[1:])
    app: App = Api(options)
    if options.middleware:
        module, _, name = options.middleware.rpartition(".")
        app = getattr(importlib.import_module(module), name)(app)
    load(options)
    address = (options.host or "0.0.0.0", int(options.port or 8000))
    ThreadingHTTPServer(address, handler(app)).serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
