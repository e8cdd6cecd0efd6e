//! `matmul` is a product.

use crate::cpu::product::{self, Product};
use crate::cpu::{Call, Scratch};
use crate::ops::matmul::Matmul;
use crate::threads::Member;

pub fn run(_: &Matmul, call: &Call, member: &Member, scratch: &mut Scratch) {
    let [x, w] = call.reads else { panic!("what matmul reads") };
    let product = Product::new(x.f32(), w.weight());
    product::run(&product, call, &call.writes[0], member, scratch);
}
