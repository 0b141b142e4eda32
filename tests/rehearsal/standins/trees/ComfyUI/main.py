# ruff: noqa: PTH103, PTH110, PTH111, PTH113, PTH118, PTH120, PTH122, PTH123, PTH208
# Paths are str here, as in the real one.
"""Stand-in for ComfyUI: the same start, flags, files and HTTP protocol, and no models."""

import asyncio
import importlib.util
import logging
import os
import sqlite3
import sys
import time

import folder_paths
import yaml
from app.logger import setup_logger
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


def execute_script(path: str) -> bool:
    """Run one prestartup_script.py; False, and an error in the log, when that fails."""
    try:
        spec = importlib.util.spec_from_file_location(os.path.splitext(path)[0], path)
        assert spec and spec.loader
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
        return True
    except Exception as error:
        logging.error("Failed to execute startup-script: %s / %s", path, error)
        return False


def execute_prestartup_scripts() -> None:
    """The scripts of the node folders in every custom_nodes folder, in the order of the directory."""
    if args.disable_all_custom_nodes:
        return
    done: list[tuple[str, bool]] = []
    for folder in folder_paths.folder_names_and_paths["custom_nodes"]:
        done = []  # so the log names those of the last folder only, as in the real one
        for path in (os.path.join(folder, name) for name in os.listdir(folder)):
            script = os.path.join(path, "prestartup_script.py")
            if not os.path.isfile(path) and not path.endswith(".disabled") and os.path.exists(script):
                done.append((path, execute_script(script)))
    if done:
        logging.info("\nPrestartup times for custom nodes:")
        for path, worked in done:
            logging.info("   0.0 seconds%s: %s", "" if worked else " (PRESTARTUP FAILED)", path)
        logging.info("")


def setup_database() -> None:
    """A failing database is only logged, as in the real one."""
    try:
        with sqlite3.connect(args.database_url.split("///")[1]) as database:
            database.execute("CREATE TABLE IF NOT EXISTS alembic_version (version_num TEXT)")
    except Exception as error:
        logging.error("Failed to initialize database: %s", error)


def main() -> None:
    """Load everything in ComfyUI's order, then serve."""
    setup_logger(args.verbose, args.log_stdout)
    for path in (path for group in args.extra_model_paths_config or [] for path in group):
        load_extra_path_config(path)
    execute_prestartup_scripts()
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
