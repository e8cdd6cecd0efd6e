//! `linear` is a product.

use crate::cpu::product::{self, Product};
use crate::cpu::{Call, Scratch};
use crate::ops::linear::Linear;
use crate::threads::Member;

pub fn run(op: &Linear, call: &Call, member: &Member, scratch: &mut Scratch) {
    let [x, w, bias] = call.reads else { panic!("what linear reads") };
    let product = Product { bias: Some(bias.f32()), activation: op.activation, ..Product::new(x.f32(), w.weight()) };
    product::run(&product, call, &call.writes[0], member, scratch);
}
