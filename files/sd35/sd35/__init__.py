"""Stable Diffusion 3.5 over HTTP: a queue, one picture at a time, made by a process of its own that holds the model."""
