"""The flags of ComfyUI that a deployment uses; an unknown flag ends the process, as in the real one."""

import argparse
from pathlib import Path

TREE = Path(__file__).resolve().parent.parent

parser = argparse.ArgumentParser()
parser.add_argument("--listen", default="127.0.0.1", nargs="?", const="0.0.0.0")
parser.add_argument("--port", type=int, default=8188)
parser.add_argument("--enable-cors-header", default=None, metavar="ORIGIN", nargs="?", const="*")
parser.add_argument("--max-upload-size", type=float, default=100)
parser.add_argument("--base-directory", default=None)
parser.add_argument("--extra-model-paths-config", default=None, nargs="+", action="append")
parser.add_argument("--output-directory", default=None)
parser.add_argument("--input-directory", default=None)
parser.add_argument("--temp-directory", default=None)
parser.add_argument("--user-directory", default=None)
parser.add_argument("--database-url", default=f"sqlite:///{TREE}/user/comfyui.db")
parser.add_argument("--cpu", action="store_true")
parser.add_argument("--reserve-vram", type=float, default=None)
parser.add_argument("--lowvram", action="store_true")
parser.add_argument("--highvram", action="store_true")
parser.add_argument("--disable-auto-launch", action="store_true")
parser.add_argument("--disable-api-nodes", action="store_true")
parser.add_argument("--disable-all-custom-nodes", action="store_true")
parser.add_argument("--disable-metadata", action="store_true")
parser.add_argument("--quick-test-for-ci", action="store_true")
parser.add_argument("--log-stdout", action="store_true")
parser.add_argument("--verbose", default="INFO", const="DEBUG", nargs="?")
args = parser.parse_args()
