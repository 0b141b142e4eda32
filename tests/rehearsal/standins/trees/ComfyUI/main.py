# ruff: noqa: PTH103, PTH111, PTH118, PTH120, PTH123
# Paths are str here, as in the real one.
"""Stand-in for ComfyUI: the same start, flags, files and HTTP protocol, and no models."""

import asyncio
import logging
import os
import sqlite3
import sys
import time

import folder_paths
import yaml
from comfy.cli_args import args
from comfyui_version import __version__

START_DELAY_S = 0.0


def load_extra_path_config(yaml_path: str) -> None:
    """Add the search paths of one extra_model_paths.yaml."""
    with open(yaml_path, encoding="utf-8") as file:
        config = yaml.safe_load(file)
    for section in config.values():
        if section is None:
            continue
        base = os.path.expandvars(os.path.expanduser(section.pop("base_path", os.path.dirname(yaml_path))))
        is_default = section.pop("is_default", False)
        for kind, paths in section.items():
            for path in filter(None, paths.split("\n")):
                full = os.path.normpath(os.path.join(base, path))
                logging.info("Adding extra search path %s %s", kind, full)
                folder_paths.add_model_folder_path(kind, full, is_default)


def setup_database() -> None:
    """A failing database is only logged, as in the real one."""
    try:
        with sqlite3.connect(args.database_url.split("///")[1]) as database:
            database.execute("CREATE TABLE IF NOT EXISTS alembic_version (version_num TEXT)")
    except Exception as error:
        logging.error("Failed to initialize database: %s", error)


def main() -> None:
    """Load everything in ComfyUI's order, then serve."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout if args.log_stdout else sys.stderr)
    for path in (path for group in args.extra_model_paths_config or [] for path in group):
        load_extra_path_config(path)
    logging.info("ComfyUI version: %s", __version__)
    import nodes
    import server
    import torch

    if not args.cpu and not torch.cuda.is_available():
        raise RuntimeError("Found no NVIDIA driver on your system.")
    time.sleep(START_DELAY_S)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    prompt_server = server.PromptServer(loop)
    if not args.disable_all_custom_nodes:
        nodes.init_external_custom_nodes()
    setup_database()
    prompt_server.add_routes()
    if args.quick_test_for_ci:
        sys.exit(0)
    os.makedirs(folder_paths.temp_directory, exist_ok=True)
    loop.run_until_complete(prompt_server.start(args.listen, args.port))


if __name__ == "__main__":
    main()
