"""What runs on a host. The programs are `python -m hostside.verify`, and likewise `secret_audit`, `models`, `trees`,
`broker` and `binds`.

Runs on Python 3.10 and later with docker, httpx, huggingface_hub and pycurl. The control side imports `protocol`,
`wire` and the other modules that need the standard library only.
"""
