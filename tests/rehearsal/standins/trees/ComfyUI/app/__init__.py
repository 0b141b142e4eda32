"""Stand-in for ComfyUI's package `app`."""
