"""Stand-in for ComfyUI-Login: its files, its routes, its answers and its holes, in our own words."""

from .password import *  # noqa: F403

WEB_DIRECTORY = "js"
NODE_CLASS_MAPPINGS: dict[str, type] = {}
