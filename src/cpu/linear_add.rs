//! `linear_add` is a product.

use crate::cpu::product::{self, Product};
use crate::cpu::{Call, Scratch};
use crate::ops::linear_add::LinearAdd;
use crate::threads::Member;

pub fn run(_: &LinearAdd, call: &Call, member: &Member, scratch: &mut Scratch) {
    let [x, w, bias, residual] = call.reads else { panic!("what linear_add reads") };
    let product = Product { bias: Some(bias.f32()), residual: Some(residual.f32()), ..Product::new(x.f32(), w.weight()) };
    product::run(&product, call, &call.writes[0], member, scratch);
}
