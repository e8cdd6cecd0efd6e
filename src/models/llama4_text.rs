//! MobileLLM-R1: the dense text model of Llama 4. Rope rotates neighbouring elements as pairs; then q and k are
//! normalised to unit mean square, without a weight (`Llama4TextL2Norm`). The configuration holds both settings, so the
//! block is the same.

pub use crate::models::mobilellm::hidden;
