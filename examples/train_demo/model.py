"""MobileVLM V2 at toy size. Modules are named so that the state dict has the names of the authors' checkpoints.

B: pictures, N: patches (12 x 12), w: features of a patch, T: positions, h: hidden size.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Config:
    vocab: int = 576
    # Decoder: each stored layer runs twice in a row, as in MobileLLM-LS.
    hidden: int = 144
    heads: int = 9
    kv_heads: int = 3
    ffn: int = 384
    layers: int = 4
    norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    context: int = 512
    # Tower.
    image: int = 96
    patch: int = 8
    width: int = 128
    tower_heads: int = 4
    tower_ffn: int = 512
    blocks: int = 4

    @property
    def head(self) -> int:
        return self.hidden // self.heads

    @property
    def grid(self) -> int:
        return self.image // self.patch

    @property
    def tokens(self) -> int:
        return self.grid * self.grid


# ---------------------------------------------------------------------------------------------------------------------
# Vision tower: CLIP's


class TowerEmbeddings(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.class_embedding = nn.Parameter(torch.randn(config.width) * 0.02)
        self.patch_embedding = nn.Conv2d(3, config.width, config.patch, config.patch, bias=False)
        self.position_embedding = nn.Embedding(config.tokens + 1, config.width)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(pixels), 1, -1)
        return torch.cat([first, patches], 1) + self.position_embedding.weight


class TowerAttention(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.heads = config.tower_heads
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            setattr(self, name, nn.Linear(config.width, config.width))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class TowerMlp(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.tower_ffn)
        self.fc2 = nn.Linear(config.tower_ffn, config.width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        return self.fc2(x * torch.sigmoid(1.702 * x))


class TowerBlock(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.self_attn = TowerAttention(config)
        self.layer_norm1 = nn.LayerNorm(config.width, eps=1e-5)
        self.mlp = TowerMlp(config)
        self.layer_norm2 = nn.LayerNorm(config.width, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class Tower(nn.Module):
    """(B, 3, S, S) → (B, N, w): what comes out of the last block, without the class token."""

    def __init__(self, config: Config):
        super().__init__()
        self.embeddings = TowerEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.width, eps=1e-5)
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList(TowerBlock(config) for _ in range(config.blocks))
        # CLIP has this layer; the features are taken before it.
        self.post_layernorm = nn.LayerNorm(config.width, eps=1e-5)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.pre_layrnorm(self.embeddings(pixels))
        for block in self.encoder.layers:
            x = block(x)
        return x[:, 1:]


# ---------------------------------------------------------------------------------------------------------------------
# Projector: LDPv2


class Ldpv2(nn.Module):
    """(B, N, w) → (B, 144, h)."""

    def __init__(self, config: Config):
        super().__init__()
        self.mlp = nn.Module()
        self.mlp.mlp = nn.Sequential(
            nn.Linear(config.width, config.hidden), nn.GELU(), nn.Linear(config.hidden, config.hidden)
        )
        self.dwn = nn.AdaptiveAvgPool2d(12)
        self.peg = nn.Module()
        self.peg.peg = nn.Sequential(nn.Conv2d(config.hidden, config.hidden, 3, padding=1, groups=config.hidden))

    def forward(self, x: Tensor) -> Tensor:
        side = int(x.shape[1] ** 0.5)
        x = self.dwn(self.mlp.mlp(x).transpose(1, 2).unflatten(2, (side, side)))
        x = self.peg.peg(x) + x
        return x.flatten(2).transpose(1, 2)


# ---------------------------------------------------------------------------------------------------------------------
# Decoder: Llama's


class RmsNorm(nn.Module):
    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


def rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Half-split rotation of (B, H, T, D)."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class Attention(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        size = config.kv_heads * config.head
        self.q_proj = nn.Linear(config.hidden, config.hidden, bias=False)
        self.k_proj = nn.Linear(config.hidden, size, bias=False)
        self.v_proj = nn.Linear(config.hidden, size, bias=False)
        self.o_proj = nn.Linear(config.hidden, config.hidden, bias=False)

    def forward(self, x: Tensor, angles: tuple[Tensor, Tensor], mask: Tensor, past):
        """`past`: keys and values of positions in front of `x`, which may be one row for all of the batch."""
        q, k, v = (
            project(x).unflatten(-1, (-1, self.config.head)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rope(q, *angles).to(v.dtype), rope(k, *angles).to(v.dtype)
        if past is not None:
            k, v = (torch.cat([old.expand(len(x), -1, -1, -1), new], 2) for old, new in zip(past, (k, v)))
        groups = self.config.heads // self.config.kv_heads
        wide = (part.repeat_interleave(groups, 1) for part in (k, v))
        out = F.scaled_dot_product_attention(q, *wide, attn_mask=mask)
        return self.o_proj(out.transpose(1, 2).flatten(2)), (k, v)


class Mlp(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden, config.ffn, bias=False)
        self.up_proj = nn.Linear(config.hidden, config.ffn, bias=False)
        self.down_proj = nn.Linear(config.ffn, config.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = Mlp(config)
        self.input_layernorm = RmsNorm(config.hidden, config.norm_eps)
        self.post_attention_layernorm = RmsNorm(config.hidden, config.norm_eps)

    def forward(self, x: Tensor, angles, mask: Tensor, past):
        out, cache = self.self_attn(self.input_layernorm(x), angles, mask, past)
        x = x + out
        return x + self.mlp(self.post_attention_layernorm(x)), cache


class MobileVlm(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(config.vocab, config.hidden)
        self.model.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.model.norm = RmsNorm(config.hidden, config.norm_eps)
        self.model.vision_tower = nn.Module()
        self.model.vision_tower.vision_tower = nn.Module()
        self.model.vision_tower.vision_tower.vision_model = Tower(config)
        self.model.mm_projector = Ldpv2(config)
        self.start()

    def start(self):
        """First values: small, and smaller where branches join the residual stream."""
        for name, weight in self.named_parameters():
            if weight.dim() < 2:
                continue
            std = 0.02 if "embed" in name and "patch" not in name else weight[0].numel() ** -0.5
            if name.endswith(("o_proj.weight", "down_proj.weight", "out_proj.weight", "fc2.weight")):
                std *= 0.3
            nn.init.normal_(weight, std=std)
        for name, bias in self.named_parameters():
            if name.endswith(".bias"):
                nn.init.zeros_(bias)

    def see(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) → (B, 144, h): rows that take the place of `<image>`."""
        return self.model.mm_projector(self.model.vision_tower.vision_tower.vision_model(pixels))

    def embed(self, ids: Tensor) -> Tensor:
        return self.model.embed_tokens(ids)

    def decode(self, x: Tensor, positions: Tensor, mask: Tensor, past=None):
        """(B, T, h) → the same behind the last layer and its norm, and the keys and values of each execution.

        `positions`: (B, T). `mask`: (B or 1, T, past + T), true where a position may look.
        """
        half = torch.arange(self.config.head // 2, device=x.device)
        speed = self.config.rope_theta ** (-2 * half / self.config.head)
        turn = positions[:, None, :, None] * speed
        angles = turn.cos(), turn.sin()
        caches = []
        for layer in self.model.layers:
            for _ in range(2):
                before = past[len(caches)] if past is not None else None
                x, cache = layer(x, angles, mask[:, None], before)
                caches.append(cache)
        return self.model.norm(x), caches

    def logits(self, x: Tensor) -> Tensor:
        return F.linear(x, self.model.embed_tokens.weight)
