//! MobileVLM's projectors: the tower's patches → tokens of the language model.
//!
//! LDP (Chu et al., 2023, arXiv 2312.16886, figure 3) and LDPv2 (Chu et al., 2024, arXiv 2402.03766, §3.2). Pictures
//! are channels-last, (height · width, h), so that tokens need no transposition.

use crate::checkpoint::VisionConfig;
use crate::checkpoint::vision::Projector;
use crate::graph::GraphBuilder;
use crate::models::clip::linear;
use crate::ops::activation::Kind;
use crate::ops::avg_pool2d::AvgPool2d;
use crate::ops::depthwise_conv2d::DepthwiseConv2d;
use crate::work::ValueId;

/// The eps of timm's `LayerNormAct2d`.
const NORM_EPS: f32 = 1e-5;

const NAME: &str = "model.mm_projector";

/// Image tokens: (M, h). `x` is (N, width).
pub fn tokens(b: &mut GraphBuilder, config: &VisionConfig, x: ValueId, h: usize) -> ValueId {
    match config.projector {
        Projector::Ldp { squeeze } => ldp(b, config, x, h, squeeze),
        Projector::Ldpv2 => ldpv2(b, config, x, h),
        Projector::Resampler { .. } => panic!("a resampler is Qwen-VL's"),
    }
}

/// Two linear layers, then two inverted residuals of MobileNetV3 whose expansion is 1; the second halves the grid.
fn ldp(b: &mut GraphBuilder, config: &VisionConfig, x: ValueId, h: usize, squeeze: usize) -> ValueId {
    let x = linear(b, x, &format!("{NAME}.model.mlp.1"), h, config.width);
    let x = b.activation(x, Kind::Gelu);
    let x = linear(b, x, &format!("{NAME}.model.mlp.3"), h, h);

    let block = Block { grid: config.grid(), h, squeeze };
    let y = block.residual(b, x, &format!("{NAME}.model.mb_block.1.block"), 1);
    let x = b.add(x, y);
    block.residual(b, x, &format!("{NAME}.model.mb_block.2.block"), 2)
}

struct Block {
    /// Pixels on a side of the grid.
    grid: usize,
    h: usize,
    squeeze: usize,
}

impl Block {
    /// LN(W · SE(hard_swish(LN(depthwise(x)))))
    fn residual(&self, b: &mut GraphBuilder, x: ValueId, name: &str, stride: usize) -> ValueId {
        let h = self.h;
        let kernel = b.vector(format!("{name}.0.0.weight"), 9 * h);
        let y = b.depthwise_conv2d(
            x,
            kernel,
            None,
            DepthwiseConv2d { height: self.grid, width: self.grid, stride, bias: false },
        );
        let y = self.norm(b, y, &format!("{name}.0.1"));
        let y = b.activation(y, Kind::HardSwish);
        let y = self.squeeze_excite(b, y, &format!("{name}.1"), self.grid.div_ceil(stride));
        let pointwise = b.weight(format!("{name}.2.0.weight"), h, h);
        let y = b.linear(y, pointwise, None);
        self.norm(b, y, &format!("{name}.2.1"))
    }

    /// x · hard_sigmoid(W₂ · relu(W₁ · mean(x)))
    fn squeeze_excite(&self, b: &mut GraphBuilder, x: ValueId, name: &str, grid: usize) -> ValueId {
        let mean = b.avg_pool2d(x, AvgPool2d { height: grid, width: grid, out_height: 1, out_width: 1 });
        let s = linear(b, mean, &format!("{name}.fc1"), self.squeeze, self.h);
        let s = b.activation(s, Kind::Relu);
        let s = linear(b, s, &format!("{name}.fc2"), self.h, self.squeeze);
        let s = b.activation(s, Kind::HardSigmoid);
        b.scale(x, s)
    }

    fn norm(&self, b: &mut GraphBuilder, x: ValueId, name: &str) -> ValueId {
        let gain = b.vector(format!("{name}.weight"), self.h);
        let bias = b.vector(format!("{name}.bias"), self.h);
        b.layer_norm(x, gain, bias, NORM_EPS)
    }
}

/// Two linear layers, the averages of the grid's cells, and a positional convolution (PEG): x + depthwise(x) + bias.
fn ldpv2(b: &mut GraphBuilder, config: &VisionConfig, x: ValueId, h: usize) -> ValueId {
    let x = linear(b, x, &format!("{NAME}.mlp.mlp.0"), h, config.width);
    let x = b.activation(x, Kind::Gelu);
    let x = linear(b, x, &format!("{NAME}.mlp.mlp.2"), h, h);

    let (from, to) = (config.grid(), config.token_grid());
    let x = b.avg_pool2d(x, AvgPool2d { height: from, width: from, out_height: to, out_width: to });
    let kernel = b.vector(format!("{NAME}.peg.peg.0.weight"), 9 * h);
    let bias = b.vector(format!("{NAME}.peg.peg.0.bias"), h);
    let y = b.depthwise_conv2d(x, kernel, Some(bias), DepthwiseConv2d { height: to, width: to, stride: 1, bias: true });
    b.add(x, y)
}
