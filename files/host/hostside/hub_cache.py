"""Where the Hugging Face hub's cache keeps a file. Standard library."""

from __future__ import annotations


def snapshots(cache_dir: str, repo: str) -> str:
    """The folder with a folder for each commit of a model repository; `cache_dir` ends in `/hub`."""
    return f"{cache_dir}/{folder_name(repo)}/snapshots"


def snapshot(cache_dir: str, repo: str, commit: str, file: str) -> str:
    """Where the cache shows a file as it is in a commit: a link to its bytes in `blobs/`."""
    return f"{snapshots(cache_dir, repo)}/{commit}/{file}"


def folder_name(repo: str) -> str:
    """huggingface_hub's name for a model repository's folder (`repo_folder_name`; a test compares the two)."""
    return "models--" + repo.replace("/", "--")
