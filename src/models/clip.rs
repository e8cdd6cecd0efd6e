//! CLIP's vision tower (Radford et al., 2021, arXiv 2103.00020; ViT-L/14-336 in MobileVLM), without its last block:
//! patches, a class token, positions, a norm, then blocks with two-way attention.

use crate::checkpoint::VisionConfig;
use crate::checkpoint::vision::Activation;
use crate::graph::GraphBuilder;
use crate::ops::TensorType;
use crate::ops::activation::Kind;
use crate::ops::attention::Attention;
use crate::ops::conv2d::Conv2d;
use crate::work::ValueId;

/// The prefix of the tower's tensors in a MobileVLM checkpoint.
const TOWER: &str = "model.vision_tower.vision_tower.vision_model";

/// Features of the patches: (N, width). `pixels` is (3, S, S).
pub fn features(b: &mut GraphBuilder, config: &VisionConfig, pixels: ValueId) -> ValueId {
    let (n, width) = (config.patches(), config.width);
    let kernel = 3 * config.patch * config.patch;
    let w = b.weight(format!("{TOWER}.embeddings.patch_embedding.weight"), width, kernel);
    let class = b.vector(format!("{TOWER}.embeddings.class_embedding"), width);
    let positions = b.vector(format!("{TOWER}.embeddings.position_embedding.weight"), (n + 1) * width);

    let patches = b.conv2d(pixels, w, Conv2d { size: config.image_size, patch: config.patch });
    let x = b.class_token(patches, class, positions);
    let mut x = norm(b, config, x, &format!("{TOWER}.pre_layrnorm"));
    for index in 0..config.blocks {
        x = block(b, config, x, &format!("{TOWER}.encoder.layers.{index}"));
    }
    b.skip_rows(x, 1)
}

/// x = x + Attn(LN(x));  x = x + W₂ · f(W₁ · LN(x))
pub fn block(b: &mut GraphBuilder, config: &VisionConfig, x: ValueId, name: &str) -> ValueId {
    let (heads, width, ffn) = (config.heads, config.width, config.ffn);
    let head_dim = width / heads;
    // Every block overwrites the keys and values.
    let (rows, _) = b.ty(x).matrix();
    let cache = TensorType::kv(rows, heads, head_dim);
    let keys = b.state("vision.keys", cache.clone());
    let values = b.state("vision.values", cache);

    let n = norm(b, config, x, &format!("{name}.layer_norm1"));
    let q = linear(b, n, &format!("{name}.self_attn.q_proj"), width, width);
    let k = linear(b, n, &format!("{name}.self_attn.k_proj"), width, width);
    let v = linear(b, n, &format!("{name}.self_attn.v_proj"), width, width);
    b.cache_write(k, keys);
    b.cache_write(v, values);
    let attention = Attention { causal: false, ..Attention::new(heads, heads, head_dim) };
    let a = b.attention(q, keys, values, attention);
    let o = linear(b, a, &format!("{name}.self_attn.out_proj"), width, width);
    let x = b.add(x, o);

    let n = norm(b, config, x, &format!("{name}.layer_norm2"));
    let h = linear(b, n, &format!("{name}.mlp.fc1"), ffn, width);
    let h = b.activation(
        h,
        match config.activation {
            Activation::Gelu => Kind::Gelu,
            Activation::QuickGelu => Kind::QuickGelu,
        },
    );
    let down = linear(b, h, &format!("{name}.mlp.fc2"), width, ffn);
    b.add(x, down)
}

/// LayerNorm with a gain and a bias.
pub fn norm(b: &mut GraphBuilder, config: &VisionConfig, x: ValueId, name: &str) -> ValueId {
    let (_, cols) = b.ty(x).matrix();
    let gain = b.vector(format!("{name}.weight"), cols);
    let bias = b.vector(format!("{name}.bias"), cols);
    b.layer_norm(x, gain, bias, config.norm_eps)
}

/// x · Wᵀ + bias; W: (rows, cols).
pub fn linear(b: &mut GraphBuilder, x: ValueId, name: &str, rows: usize, cols: usize) -> ValueId {
    let w = b.weight(format!("{name}.weight"), rows, cols);
    let bias = b.vector(format!("{name}.bias"), rows);
    b.linear(x, w, Some(bias))
}
