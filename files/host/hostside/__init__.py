"""What runs on a host. `python -m hostside.verify`, `hostside.secret_audit`, `hostside.models` and `hostside.trees` are
the programs.

Runs on Python 3.10 and later with docker, httpx and huggingface_hub. The control side imports `protocol`, `wire` and
the other modules that need the standard library only.
"""
