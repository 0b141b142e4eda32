"""Weights for the two workflows that are shipped, random, in the shapes of the real ones, made without a download.

Names, shapes and types of the tensors are those of ComfyUI's own model classes with the figures of FLUX.1-dev and
Qwen-Image-Edit as they are publicly known; not compared with the real files, but for their sizes. Needs a folder of
ComfyUI, and torch and safetensors.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

State = dict[str, torch.Tensor]


def make(comfyui: Path, models: Path, service: str, device: str) -> None:
    """Write the files that the service's workflow names, below the folder of models. What is there stays."""
    use(comfyui)
    for name, shapes in FILES[service].items():
        if not (models / name).exists():
            write(shapes(), models / name, device)


def use(comfyui: Path) -> None:
    """Let ComfyUI be imported, also where there is no GPU."""
    sys.path.insert(0, str(comfyui))
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()


def write(shapes: State, path: Path, device: str) -> None:
    from safetensors.torch import save_file

    torch.manual_seed(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file({name: random(name, tensor, device).cpu() for name, tensor in shapes.items()}, part)
    part.rename(path)


def random(name: str, shape: torch.Tensor, device: str) -> torch.Tensor:
    """As torch's own layers begin: what a layer makes is about as large as what it gets. Norms do nothing."""
    if name.endswith("bias") and "relative" not in name:
        made = torch.zeros(shape.shape, device=device)
    elif shape.ndim <= 1 or name.endswith("gamma"):
        made = torch.ones(shape.shape, device=device)
    else:
        made = torch.randn(shape.shape, device=device) / math.sqrt(3 * shape[0].numel())
    return made.to(shape.dtype)


# -- the shapes: each a state dict on torch's meta device, which holds no numbers --------------------------------------


def on_meta(build: Callable[[Any], torch.nn.Module], dtype: torch.dtype | None = None) -> State:
    """`build` gets the operations that leave weights as they are. `dtype`: of all tensors; None: as they were built."""
    import comfy.ops

    with torch.device("meta"):
        state = build(comfy.ops.disable_weight_init).state_dict()
    return {name: tensor.to(dtype) if dtype else tensor for name, tensor in state.items()}


def flux_transformer() -> State:
    from comfy.ldm.flux.model import Flux

    figures: dict[str, Any] = {
        **{"in_channels": 16, "out_channels": 16, "patch_size": 2, "vec_in_dim": 768, "context_in_dim": 4096},
        **{"hidden_size": 3072, "mlp_ratio": 4.0, "num_heads": 24, "depth": 19, "depth_single_blocks": 38},
        **{"axes_dim": [16, 56, 56], "theta": 10000, "qkv_bias": True, "guidance_embed": True},
    }
    return on_meta(lambda ops: Flux(**figures, dtype=torch.bfloat16, device="meta", operations=ops))


def flux_vae() -> State:
    from comfy.ldm.models.autoencoder import AutoencodingEngine

    figures = {
        **{"double_z": True, "z_channels": 16, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128},
        **{"ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0},
    }
    parts = {
        f"{part.lower()}_config": {"target": f"comfy.ldm.modules.diffusionmodules.model.{part}", "params": figures}
        for part in ("Encoder", "Decoder")
    }
    regularizer = {"target": "comfy.ldm.models.autoencoder.DiagonalGaussianRegularizer"}
    return on_meta(lambda _: AutoencodingEngine(regularizer_config=regularizer, **parts), torch.float32)


def clip_l() -> State:
    from comfy import sd1_clip
    from comfy.clip_model import CLIPTextModel

    figures = json.loads(Path(sd1_clip.__file__).with_name("sd1_clip_config.json").read_text())
    return on_meta(lambda ops: CLIPTextModel(figures, torch.float16, "meta", ops))


def t5xxl() -> State:
    from comfy.text_encoders import t5

    figures = json.loads(Path(t5.__file__).with_name("t5_config_xxl.json").read_text())
    return on_meta(lambda ops: t5.T5(figures, torch.float16, "meta", ops))


def qwen_transformer() -> State:
    from comfy.ldm.qwen_image.model import QwenImageTransformer2DModel

    dtype = torch.float8_e4m3fn
    return on_meta(lambda ops: QwenImageTransformer2DModel(dtype=dtype, device="meta", operations=ops))


def qwen_text_encoder() -> State:
    """Its linear layers in 8 bits, each with a scale; the rest in 16. The last layer lies there unread."""
    import comfy.ops
    from comfy.text_encoders.llama import Qwen25_7BVLI

    scaled = comfy.ops.scaled_fp8_ops(override_dtype=torch.float8_e4m3fn)
    state = on_meta(lambda _: Qwen25_7BVLI({}, torch.bfloat16, "meta", scaled))
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    state["scaled_fp8"] = torch.empty(0, dtype=torch.float8_e4m3fn, device="meta")
    return state


def qwen_vae() -> State:
    from comfy.ldm.wan.vae import WanVAE

    figures = {
        **{"dim": 96, "z_dim": 16, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_scales": []},
        **{"temperal_downsample": [False, True, True], "dropout": 0.0},
    }
    return on_meta(lambda _: WanVAE(**figures), torch.bfloat16)


FILES: dict[str, dict[str, Callable[[], State]]] = {
    "flux-1-dev": {
        "diffusion_models/flux1-dev.safetensors": flux_transformer,
        "text_encoders/clip_l.safetensors": clip_l,
        "text_encoders/t5xxl_fp16.safetensors": t5xxl,
        "vae/ae.safetensors": flux_vae,
    },
    "comfyui-qwen": {
        "diffusion_models/qwen_image_edit_2509_fp8_e4m3fn.safetensors": qwen_transformer,
        "text_encoders/qwen_2.5_vl_7b_fp8_scaled.safetensors": qwen_text_encoder,
        "vae/qwen_image_vae.safetensors": qwen_vae,
    },
}


if __name__ == "__main__":
    folder, models_folder, service_name, torch_device = sys.argv[1:]
    make(Path(folder), Path(models_folder), service_name, torch_device)
