"""Stand-in for transformers: it can be told to show no progress."""

from types import SimpleNamespace

utils = SimpleNamespace(logging=SimpleNamespace(disable_progress_bar=lambda: None))
