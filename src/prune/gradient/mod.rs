//! Gradients of the cross entropy with respect to the matrices of a decoder's layers, from formulas derived by hand.
//!
//! The loss of a batch is the mean over B·(t − 1) positions of −log softmax(logits[i])[id[i + 1]]. The gradient of the
//! logits is (softmax − onehot) / (B·(t − 1)), and zero at the last position of a window. Gradients of embeddings, head
//! and norms are not needed. Products are those of [`crate::cpu::dense`], divided among the cores.

mod attention;
mod block;
mod decoder;
mod layer;
mod rows;
#[cfg(test)]
mod tests;

pub use decoder::Decoder;
pub use layer::Matrices;
