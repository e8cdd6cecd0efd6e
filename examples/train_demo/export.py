"""Writes a folder in the layout of MobileVLM V2, and reads the weights of such a folder again."""

import hashlib
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from data import MEAN, STD
from model import Config, MobileVlm

TOWER = "openai/clip-vit-demo-patch8-96"


def load(folder: Path, config: Config) -> MobileVlm:
    """The model of a folder: float16 weights, float32 arithmetic."""
    model = MobileVlm(config)
    model.load_state_dict({name: weight.float() for name, weight in load_file(folder / "model.safetensors").items()})
    return model.eval()


def checkpoint_sha256(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def export(model: MobileVlm, config: Config, tokenizer: Path, folder: Path):
    tower = folder / TOWER
    tower.mkdir(parents=True, exist_ok=True)
    weights = {
        name: weight.detach().cpu().to(torch.float16).contiguous() for name, weight in model.state_dict().items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    shutil.copyfile(tokenizer, folder / "tokenizer.model")
    mean, std = ([round(float(value), 8) for value in values] for values in (MEAN, STD))

    def write(path: Path, value: dict):
        path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")

    write(
        folder / "config.json",
        {
            "architectures": ["MobileLlamaForCausalLM"],
            "bos_token_id": 1,
            "eos_token_id": 2,
            "freeze_mm_mlp_adapter": False,
            "hidden_act": "silu",
            "hidden_size": config.hidden,
            "image_aspect_ratio": "pad",
            "image_grid_pinpoints": None,
            "initializer_range": 0.02,
            "intermediate_size": config.ffn,
            "layer_sharing": True,
            "max_position_embeddings": config.context,
            "max_sequence_length": config.context,
            "mm_hidden_size": config.width,
            "mm_projector_lr": None,
            "mm_projector_type": "ldpnetv2",
            "mm_use_im_patch_token": False,
            "mm_use_im_start_end": False,
            "mm_vision_select_feature": "patch",
            "mm_vision_select_layer": -1,
            "mm_vision_tower": TOWER,
            "model_type": "mobilevlm",
            "num_attention_heads": config.heads,
            "num_hidden_layers": config.layers,
            "num_key_value_heads": config.kv_heads,
            "pad_token_id": 0,
            "pretraining_tp": 1,
            "rms_norm_eps": config.norm_eps,
            "rope_scaling": None,
            "rope_theta": config.rope_theta,
            "tie_word_embeddings": True,
            "torch_dtype": "float16",
            "tune_mm_mlp_adapter": False,
            "use_cache": True,
            "use_mm_proj": True,
            "vision_tower_type": "clip",
            "vocab_size": config.vocab,
        },
    )
    write(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0})
    tokens = {
        name: {"content": text, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
        for name, text in (("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>"))
    }
    write(folder / "special_tokens_map.json", tokens | {"pad_token": "<unk>"})
    write(
        folder / "tokenizer_config.json",
        {name: {"__type": "AddedToken"} | token for name, token in tokens.items()}
        | {
            "add_bos_token": True,
            "add_eos_token": False,
            "clean_up_tokenization_spaces": False,
            "legacy": True,
            "model_max_length": config.context,
            "pad_token": None,
            "padding_side": "right",
            "sp_model_kwargs": {},
            "spaces_between_special_tokens": False,
            "tokenizer_class": "LlamaTokenizer",
            "use_default_system_prompt": True,
        },
    )
    write(
        tower / "config.json",
        {
            "architectures": ["CLIPVisionModel"],
            "attention_dropout": 0.0,
            "hidden_act": "quick_gelu",
            "hidden_size": config.width,
            "image_size": config.image,
            "initializer_factor": 1.0,
            "initializer_range": 0.02,
            "intermediate_size": config.tower_ffn,
            "layer_norm_eps": 1e-5,
            "model_type": "clip_vision_model",
            "num_attention_heads": config.tower_heads,
            "num_channels": 3,
            "num_hidden_layers": config.blocks,
            "patch_size": config.patch,
            "projection_dim": config.width,
        },
    )
    write(
        tower / "preprocessor_config.json",
        {
            "crop_size": config.image,
            "do_center_crop": True,
            "do_normalize": True,
            "do_resize": True,
            "feature_extractor_type": "CLIPFeatureExtractor",
            "image_mean": mean,
            "image_std": std,
            "resample": 3,
            "size": config.image,
        },
    )
