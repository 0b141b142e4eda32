"""The cache that the fetch program fills from a hub, read offline by what the services read it with: diffusers,
transformers, and what vLLM asks huggingface_hub for.

`make sd35-check`: not part of the suite, for torch and what it needs are large.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from bench.sd35_model import TINY, write
from hostside.protocol.models import ModelRef, ModelsRequest
from hostside.wire import to_json
from tests.rehearsal.standins.local import LocalHub
from tests.unit.hostside.model_host import Host

PROGRAMS = Path(__file__).parents[2] / "files" / "host"
PICTURES, WORDS = "owner/pictures", "owner/words"

# Whoever asks anybody ends at once, whatever would be made of an exception.
ALONE = """
import os, sys
def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        print(f"it asked somebody: {event} {arguments}", file=sys.stderr, flush=True)
        os._exit(9)
sys.addaudithook(refuse)
repo, commit, made, cache = sys.argv[1:]
"""


@dataclass(frozen=True)
class Fetched:
    """A host whose cache was filled, and where the repositories were made."""

    host: Host
    made: Path
    commits: dict[str, str]

    def read(self, repo: str, program: str, **environ: str) -> None:
        """By a process that has the cache and nobody to ask. `program`: knows `repo`, `commit`, `made`, `cache`."""
        asked = len(self.host.hub.requests)
        known = {**os.environ, "HF_HOME": str(self.host.cache.parent), "HF_HUB_OFFLINE": "1"}
        arguments = [repo, self.commits[repo], str(self.made / repo), str(self.host.cache)]
        done = subprocess.run(
            [sys.executable, "-c", ALONE + program, *arguments],
            env={**known, "HF_ENDPOINT": self.host.hub.url, **environ},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert len(self.host.hub.requests) == asked


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fetched]:
    root = tmp_path_factory.mktemp("cache")
    made, hub = root / "made", LocalHub(root / "hub-data")
    write(made / PICTURES, TINY, torch.float32, "cpu")
    write_words(made / WORDS)
    host, commits = Host(root, hub), {}
    for repo in (PICTURES, WORDS):
        paths = [path for path in (made / repo).rglob("*") if path.is_file()]
        files = {str(path.relative_to(made / repo)): path for path in paths}
        commits[repo] = hub.store.add(repo, dict(files), gated=False, commit=None)
        request = host.request(host.files(repo), refs=[ModelRef(repo, "main", commits[repo])])
        fetch(host, request)
    yield Fetched(host, made, commits)
    hub.close()


def write_words(folder: Path) -> None:
    """A language model in the layout of its repository, its weights in several files."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="40KB")
    words = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "cat": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(folder)
    assert len(list(folder.glob("*.safetensors"))) > 1


def fetch(host: Host, request: ModelsRequest) -> None:
    """By the program itself."""
    environ = {**os.environ, "HF_ENDPOINT": host.hub.url, "PYTHONPATH": str(PROGRAMS)}
    program = [sys.executable, "-B", "-m", "hostside.models"]
    done = subprocess.run(program, input=to_json(request), env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


DIFFUSERS = """
import torch
from diffusers import DiffusionPipeline
read, right = DiffusionPipeline.from_pretrained(repo, {how}), DiffusionPipeline.from_pretrained(made)
assert type(read) is type(right)
parts = [name for name, part in right.components.items() if isinstance(part, torch.nn.Module)]
assert len(parts) == 5, parts
for name in parts:
    ours, theirs = getattr(read, name).state_dict(), getattr(right, name).state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in theirs), name
assert read.tokenizer("a cat").input_ids == right.tokenizer("a cat").input_ids
"""


@pytest.mark.parametrize("how", ["", "revision=commit", "revision='main', cache_dir=cache"])
def test_diffusers_reads_it(fetched: Fetched, how: str) -> None:
    environ = {"HF_HOME": "/nonexistent"} if "cache_dir" in how else {}
    fetched.read(PICTURES, DIFFUSERS.replace("{how}", how), **environ)


@pytest.mark.parametrize("how", ["", "revision=commit"])
def test_transformers_reads_it(fetched: Fetched, how: str) -> None:
    program = """
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
assert AutoConfig.from_pretrained(repo, {how}).vocab_size == 64
assert AutoTokenizer.from_pretrained(repo, {how})("a cat").input_ids == [1, 2]
read = AutoModelForCausalLM.from_pretrained(repo, {how}).state_dict()
right = AutoModelForCausalLM.from_pretrained(made).state_dict()
assert read.keys() == right.keys() and all(torch.equal(read[key], right[key]) for key in right)
"""
    fetched.read(WORDS, program.replace("{how}", how))


def test_what_vllm_asks_for_is_there(fetched: Fetched) -> None:
    """As its loader and its config do where HF_HUB_OFFLINE is set: the folder of the snapshot first, then single files,
    weights by pattern and by their index."""
    fetched.read(
        WORDS,
        """
import json
from pathlib import Path
from huggingface_hub import hf_hub_download, scan_cache_dir, snapshot_download, try_to_load_from_cache
from safetensors import safe_open
folder = Path(snapshot_download(repo, local_files_only=True))
assert folder == Path(snapshot_download(repo, revision=commit, allow_patterns=["*.safetensors"], local_files_only=True))
assert folder.name == commit and not scan_cache_dir().warnings
for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
    assert try_to_load_from_cache(repo, name) == str(folder / name), name
index = json.loads(Path(hf_hub_download(repo, "model.safetensors.index.json")).read_text())["weight_map"]
found = {}
for path in folder.glob("*.safetensors"):
    with safe_open(path, framework="pt") as weights:
        found |= {key: path.name for key in weights.keys()}
assert found == index and len(set(index.values())) > 1
""",
    )


def test_who_asks_somebody_is_noticed(fetched: Fetched) -> None:
    with pytest.raises(AssertionError, match="it asked somebody: "):
        fetched.read(
            WORDS,
            "from huggingface_hub import hf_hub_download; hf_hub_download(repo, 'none.json')",
            HF_HUB_OFFLINE="0",
        )
