"""A Stable Diffusion 3.5 with random weights, in the layout of its repository, made by diffusers' and transformers' own
classes without a download.

LARGE has the shapes of stabilityai/stable-diffusion-3.5-large as they are publicly known, written down by hand: not
compared with that repository's own configuration files. The tokenizers know single letters only, so a prompt has more
tokens than with the real ones; the encoders are given as many as always (77 and 256), so the work is the same.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

START, END, PAD = "<|startoftext|>", "<|endoftext|>", "!"


@dataclass(frozen=True)
class Shapes:
    """Arguments of the classes that make the parts."""

    transformer: dict[str, Any]
    vae: dict[str, Any]
    clip_l: dict[str, Any]
    clip_g: dict[str, Any]
    t5: dict[str, Any]


LARGE = Shapes(
    transformer={
        "sample_size": 128,
        "num_layers": 38,
        "attention_head_dim": 64,
        "num_attention_heads": 38,
        "joint_attention_dim": 4096,
        "caption_projection_dim": 2432,
        "pooled_projection_dim": 2048,
        "pos_embed_max_size": 192,
        "qk_norm": "rms_norm",
    },
    vae={"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "norm_num_groups": 32},
    clip_l={
        "vocab_size": 49408,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "projection_dim": 768,
        "hidden_act": "quick_gelu",
    },
    clip_g={
        "vocab_size": 49408,
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 20,
        "projection_dim": 1280,
        "hidden_act": "gelu",
    },
    t5={"vocab_size": 32128, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64},
)
TINY = Shapes(
    transformer={
        "sample_size": 32,
        "num_layers": 1,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": 32,
        "caption_projection_dim": 16,
        "pooled_projection_dim": 32,
        "pos_embed_max_size": 192,
        "qk_norm": "rms_norm",
    },
    vae={"block_out_channels": (4, 4, 4, 4), "layers_per_block": 1, "norm_num_groups": 1},
    clip_l={
        "vocab_size": 516,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "projection_dim": 16,
    },
    clip_g={
        "vocab_size": 516,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "projection_dim": 16,
    },
    t5={"vocab_size": 260, "d_model": 32, "d_kv": 8, "d_ff": 16, "num_layers": 2, "num_heads": 2},
)


def put_in_cache(hub: Path, repo: str, commit: str, shapes: Shapes, dtype: torch.dtype, device: str) -> Path:
    """The folder of the model in a Hugging Face cache, where `main` is that commit."""
    folder = hub / f"models--{repo.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    snapshot = folder / "snapshots" / commit
    write(snapshot, shapes, dtype, device)
    return snapshot


def write(folder: Path, shapes: Shapes, dtype: torch.dtype, device: str) -> None:
    """The model, always with the same weights on one kind of device."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device), torch.no_grad():
            pipe = _pipeline(folder, shapes)
    finally:
        torch.set_default_dtype(before)
    pipe.save_pretrained(folder)
    # As the repository names it; newer transformers have one class for both names.
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace('"T5Tokenizer"', '"T5TokenizerFast"'))


def _pipeline(folder: Path, shapes: Shapes) -> StableDiffusion3Pipeline:
    clips = [
        CLIPTextModelWithProjection(
            CLIPTextConfig(max_position_embeddings=77, bos_token_id=0, eos_token_id=2, pad_token_id=1, **shape)
        )
        for shape in (shapes.clip_l, shapes.clip_g)
    ]
    tokenizers = [
        _clip_tokenizer(folder / name, shape["vocab_size"], pad)
        for name, shape, pad in (("tokenizer", shapes.clip_l, END), ("tokenizer_2", shapes.clip_g, PAD))
    ]
    transformer = SD3Transformer2DModel(patch_size=2, in_channels=16, out_channels=16, **shapes.transformer)
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=16,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.5305,
        shift_factor=0.0609,
        sample_size=1024,
        **shapes.vae,
    )
    t5 = T5EncoderModel(T5Config(feed_forward_proj="gated-gelu", **shapes.t5))
    with torch.device("cpu"):
        scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0)
    return StableDiffusion3Pipeline(
        transformer=transformer.eval(),
        scheduler=scheduler,
        vae=vae.eval(),
        text_encoder=clips[0].eval(),
        tokenizer=tokenizers[0],
        text_encoder_2=clips[1].eval(),
        tokenizer_2=tokenizers[1],
        text_encoder_3=t5.eval(),
        tokenizer_3=_t5_tokenizer(),
    )


def _clip_tokenizer(folder: Path, size: int, pad: str) -> CLIPTokenizer:
    """From files as the repository has them. The end has the highest number: the encoder finds it by that."""
    letters = [chr(number) for number in (*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324))]
    vocabulary = {letter: number for number, letter in enumerate([*letters, *(f"{each}</w>" for each in letters)])}
    vocabulary |= {START: size - 2, END: size - 1}
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "bos_token": START, "eos_token": END}
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "unk_token": END, "pad_token": pad}))
    return CLIPTokenizer.from_pretrained(folder)


def _t5_tokenizer() -> T5TokenizerFast:
    letters = [chr(number) for number in (*range(33, 127), *range(161, 255))]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0), *((each, -3.0) for each in letters)]
    return T5TokenizerFast(vocab=vocabulary, extra_ids=0, model_max_length=512)
