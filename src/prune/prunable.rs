//! Which models can be pruned, and by which options.

use super::options::PruneOptions;
use crate::checkpoint::{Checkpoint, Kept, Source};
use crate::error::{Error, Result};

/// The architectures whose configurations can give each layer its own heads and channels.
const PRUNED: [&str; 4] = ["mobilellm", "llama", "llama4_text", "qwen2"];

/// Refuses models that cannot be pruned, before any work.
pub fn check(checkpoint: &Checkpoint, options: &PruneOptions) -> Result<()> {
    let (path, config) = (checkpoint.path.display(), &checkpoint.config);
    if let Source::Gguf(_) = checkpoint.source() {
        return Err(Error::unsupported(format!(
            "{path} is a GGUF file, whose weights lie in blocks that cannot be cut; give a Hugging Face folder of floats"
        )));
    }
    if config.vision.is_some() {
        return Err(Error::unsupported(format!("{path} has a vision half; language models alone are pruned")));
    }
    if !PRUNED.contains(&&*config.architecture) {
        return Err(Error::unsupported(format!(
            "{path}: models of the architecture {} are not pruned; those of {} are",
            config.architecture,
            PRUNED.join(", ")
        )));
    }
    let PruneOptions { target, steps, ratio, amplitude, batch, .. } = *options;
    if steps == 0 || batch == 0 {
        return Err(Error::prompt("a run needs at least one step, and batches of at least one window"));
    }
    if !(ratio > 0.0 && ratio <= 1.0 && amplitude >= 0.0 && amplitude.is_finite()) {
        return Err(Error::prompt(format!(
            "a ratio of {ratio} and an amplitude of {amplitude} are no rule: the ratio is above 0 and at most 1, the amplitude \
             at least 0"
        )));
    }
    let parameters = checkpoint.parameters();
    if target >= parameters {
        return Err(Error::prompt(format!(
            "{path} has {parameters} parameters already, which are not more than the target of {target}"
        )));
    }
    let least = |_| Kept { kv_heads: vec![0], channels: vec![0] };
    let least = checkpoint.cut(&(0..config.layers).map(least).collect::<Vec<_>>())?.parameters();
    if target <= least {
        return Err(Error::prompt(format!(
            "{path} cannot be pruned to {target} parameters: one head and one channel a layer leave {least}, since \
             embeddings, head and norms stay"
        )));
    }
    Ok(())
}
