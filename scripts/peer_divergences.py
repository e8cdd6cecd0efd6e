#!/usr/bin/env python3
"""How far image tokens move when a runtime does what llama.cpp does for MobileVLM instead of what the papers' code does.

    python3 -m venv .venv && .venv/bin/pip install numpy 'pillow<13'
    .venv/bin/python scripts/peer_divergences.py

Computes tower and projector of the golden cases with float32 weights in numpy, exactly and with one change at a time,
and prints the relative error of the image tokens against PyTorch's (tests/golden). README.md quotes the output.
"""

import json
import math
import struct
from pathlib import Path

import numpy as np
from PIL import Image

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "golden"
CASES = {"mobilevlm_v1_grid4": 2, "mobilevlm_v2_grid24": 2}
CHANGES = ["nothing", "one block fewer", "class token at the end", "tanh GELU", "resize before padding", "all four"]


def safetensors(path):
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    tensors = {}
    for name, info in header.items():
        if name != "__metadata__" and info["dtype"] == "F32":
            begin, end = info["data_offsets"]
            tensors[name] = np.frombuffer(data[8 + size + begin : 8 + size + end], "<f4").reshape(info["shape"])
    return tensors


def pixels(path, size, mean, std, pad_first):
    image = Image.open(path).convert("RGB")
    fill = (122, 116, 104)
    if not pad_first:
        scale = size / max(image.size)
        image = image.resize([max(1, round(side * scale)) for side in image.size], Image.BICUBIC)
    side = max(image.size)
    square = Image.new("RGB", (side, side), fill)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    values = np.asarray(square.resize((size, size), Image.BICUBIC), np.float64) / 255
    return ((values - mean) / std).astype(np.float32).transpose(2, 0, 1)


def layer_norm(x, tensors, name):
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-5) * tensors[name + ".weight"] + tensors[name + ".bias"]


def linear(x, tensors, name):
    return x @ tensors[name + ".weight"].T + tensors[name + ".bias"]


def tower(tensors, x, patch, heads, blocks, class_last):
    name = "model.vision_tower.vision_tower.vision_model."
    grid = x.shape[1] // patch
    squares = x.reshape(3, grid, patch, grid, patch).transpose(1, 3, 0, 2, 4).reshape(grid * grid, -1)
    patches = squares @ tensors[name + "embeddings.patch_embedding.weight"].reshape(-1, squares.shape[1]).T
    token = tensors[name + "embeddings.class_embedding"][None]
    x = np.concatenate([patches, token] if class_last else [token, patches])
    x = layer_norm(x + tensors[name + "embeddings.position_embedding.weight"], tensors, name + "pre_layrnorm")
    for block in range(blocks):
        at = f"{name}encoder.layers.{block}."
        n = layer_norm(x, tensors, at + "layer_norm1")
        split = lambda part: linear(n, tensors, f"{at}self_attn.{part}").reshape(len(x), heads, -1).transpose(1, 0, 2)
        q, k, v = split("q_proj"), split("k_proj"), split("v_proj")
        scores = q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1])
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (weights / weights.sum(-1, keepdims=True) @ v).transpose(1, 0, 2).reshape(len(x), -1)
        x = x + linear(mixed, tensors, at + "self_attn.out_proj")
        h = linear(layer_norm(x, tensors, at + "layer_norm2"), tensors, at + "mlp.fc1")
        x = x + linear(h / (1 + np.exp(-1.702 * h)), tensors, at + "mlp.fc2")
    return x[1:]


def gelu(x, tanh):
    if tanh:
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def depthwise(x, kernel, stride):
    """x: (h, w, c)   kernel: (c, 1, 3, 3)"""
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    taps = (padded[i : i + x.shape[0], j : j + x.shape[1]] * kernel[:, 0, i, j] for i in range(3) for j in range(3))
    return sum(taps)[::stride, ::stride]


def ldp(tensors, x, tanh):
    name = "model.mm_projector.model."
    x = linear(gelu(linear(x, tensors, name + "mlp.1"), tanh), tensors, name + "mlp.3")
    grid = math.isqrt(len(x))
    x = x.reshape(grid, grid, -1)
    for block, stride in [(1, 1), (2, 2)]:
        at = f"{name}mb_block.{block}.block."
        y = layer_norm(depthwise(x, tensors[at + "0.0.weight"], stride), tensors, at + "0.1")
        y = y * np.clip(y + 3, 0, 6) / 6
        flat = {k: v.reshape(v.shape[0], -1) if v.ndim == 4 else v for k, v in tensors.items() if k.startswith(at + "1.")}
        s = linear(np.maximum(linear(y.mean((0, 1)), flat, at + "1.fc1"), 0), flat, at + "1.fc2")
        y = y * np.clip(s + 3, 0, 6) / 6
        pointwise = tensors[at + "2.0.weight"]
        y = layer_norm(y @ pointwise.reshape(len(pointwise), -1).T, tensors, at + "2.1")
        x = x + y if stride == 1 else y
    return x.reshape(-1, x.shape[-1])


def ldpv2(tensors, x, tanh):
    name = "model.mm_projector."
    x = linear(gelu(linear(x, tensors, name + "mlp.mlp.0"), tanh), tensors, name + "mlp.mlp.2")
    grid = math.isqrt(len(x))
    x = x.reshape(12, grid // 12, 12, grid // 12, -1).mean((1, 3))
    x = x + depthwise(x, tensors[name + "peg.peg.0.weight"], 1) + tensors[name + "peg.peg.0.bias"]
    return x.reshape(144, -1)


def image_tokens(folder, image, change):
    config = json.loads((folder / "config.json").read_text())
    clip = folder / config["mm_vision_tower"]
    vision = json.loads((clip / "config.json").read_text())["vision_config"]
    norm = json.loads((clip / "preprocessor_config.json").read_text())
    tensors = safetensors(folder / "model.safetensors")
    does = lambda what: change in (what, "all four")
    x = pixels(image, vision["image_size"], norm["image_mean"], norm["image_std"], not does("resize before padding"))
    blocks = vision["num_hidden_layers"] - 1 - does("one block fewer")
    x = tower(tensors, x, vision["patch_size"], vision["num_attention_heads"], blocks, does("class token at the end"))
    projector = ldpv2 if config["mm_projector_type"].startswith("ldpnetv2") else ldp
    return projector(tensors, x, does("tanh GELU"))


def main():
    print(f"{'':<22}" + "".join(f" {case:>20}" for case in CASES))
    for change in CHANGES:
        row = f"{change:<22}"
        for case, images in CASES.items():
            expected = safetensors(GOLDEN / case / "expected.safetensors")
            error = size = 0.0
            for index in range(images):
                wanted = expected[f"img{index}.projector_out"].astype(np.float64)
                found = image_tokens(GOLDEN / case, GOLDEN / case / f"image_{index}.png", change)
                error, size = error + ((found - wanted) ** 2).sum(), size + (wanted**2).sum()
            row += f" {math.sqrt(error / size):>20.1e}"
        print(row)


main()
