//! `linear`: a product with an epilogue.

use crate::cpu::product::{self, Product};
use crate::cpu::{Call, Scratch};
use crate::ops::linear::Linear;
use crate::threads::Member;

pub fn run(op: &Linear, call: &Call, member: &Member, scratch: &mut Scratch) {
    let (bias, residual) = op.more(call.reads);
    let product = Product {
        bias: bias.map(|bias| bias.f32()),
        activation: op.activation,
        residual: residual.map(|residual| residual.f32()),
        ..Product::new(call.reads[0].f32(), call.reads[1].weight())
    };
    product::run(&product, call, &call.writes[0], member, scratch);
}
