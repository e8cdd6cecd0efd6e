//! Adapt-Pruner (Pan et al., 2025, arXiv 2502.03460): removes a model's heads and feed-forward channels, layer by
//! layer.
//!
//! Layers differ in importance: a layer whose output is similar to its input is less important and gets a higher
//! sparsity (the paper's layer-wise importance, and S = S_base − A · I). Inside a layer, coupled structures are scored
//! (a key/value head with its query heads, or a feed-forward channel), and those with the lowest scores are removed
//! (its group importance). Pruning takes many small steps (its incremental pruning), and each step measures the model
//! again. Hidden size, embeddings, head, norms, head width and number of layers do not change.
//!
//! ```text
//! S_ℓ = 0
//! for step = 1 … T, until fewer parameters than the target are left:
//!     X = windows of ids
//!     z = importance of the layers on X, normalised                        streams.rs, select.rs
//!     S_ℓ = clamp(S_ℓ + ρ / T − A z_ℓ, 0, 0.99)                            select.rs
//!     g = Σ over batches of the loss's gradients, for |w·g|                gradient/
//!     of each layer remove the heads and channels with the lowest scores,  scores.rs, checkpoint/cut.rs
//!         so that a share S_ℓ of its original elements is removed
//! ```
//!
//! The paper trains between such runs; other programs can do that. Formulas, reductions, signs and the order of
//! operations are those of the authors' program (research4pan/AdaptPruner, `utils/hf_prune.py` and LLMPruner's
//! `MetaPruner`), and the choices are the same: `tests/golden/prune_taylor` and `tests/golden/prune_l2` test this.

mod calibration;
mod gradient;
mod options;
mod progress;
mod prunable;
mod report;
mod run;
mod scores;
mod select;
mod streams;

pub use calibration::Calibration;
pub use options::{Importance, LayerImportance, PruneOptions, QueryHeads};
pub use report::{Activations, GroupImportance, PruneProgress, PruneReport, PruneStep};
pub use run::{Pruned, prune};
