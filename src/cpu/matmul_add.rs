//! `matmul_add` is a product.

use crate::cpu::product::{self, Product};
use crate::cpu::{Call, Scratch};
use crate::ops::matmul_add::MatmulAdd;
use crate::threads::Member;

pub fn run(_: &MatmulAdd, call: &Call, member: &Member, scratch: &mut Scratch) {
    let [x, w, residual] = call.reads else { panic!("what matmul_add reads") };
    let product = Product { residual: Some(residual.f32()), ..Product::new(x.f32(), w.weight()) };
    product::run(&product, call, &call.writes[0], member, scratch);
}
