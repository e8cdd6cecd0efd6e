//! A loaded model: weights on a device, tokenizer and chat template.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use super::device::{self, Device};
use super::encode::{Encoded, not_in_vocabulary};
use super::prompt::Prompt;
use super::text::Text;
use super::tokenizer::Tokenizer;
use crate::backend::{Engine, EngineOptions};
use crate::checkpoint::{Checkpoint, Config, Files, VisionFiles};
use crate::clock::Instant;
use crate::error::{Error, Result};
use crate::models::PictureIds;
use crate::tensor::DType;
use crate::work::{KernelFile, OwnKernelUse};

/// A loaded model. Cheap to clone, and shared between threads; every [`Generation`](crate::Generation) has its own KV
/// cache.
#[derive(Clone)]
pub struct Model(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub engine: Arc<dyn Engine>,
    pub config: Config,
    pub context: usize,
    pub text: Text,
    pub load_s: f64,
}

/// The options for loading a model.
#[derive(Clone, Default)]
pub struct LoadOptions {
    weights: Option<Weights>,
    precision: Precision,
    context: Option<usize>,
    refused: BTreeSet<String>,
    own: Vec<KernelFile>,
    vision: VisionFiles,
    tight_pictures: bool,
    progress: Option<Arc<dyn Fn(usize, usize) + Send + Sync>>,
}

/// A format that weights can be converted to while loading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    F16,
    /// 8 bits and a scale for every 32 weights.
    Q8_0,
    /// 4 bits and a scale for every 32 weights.
    Q4_0,
}

/// The precision of activations, tiles and KV cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// On a GPU f16 if it supports it and results stay within their tolerance, else f32. On the CPU f32, but rows that a
    /// matrix of 2 to 8 bits a weight is multiplied with while decoding are rounded to 8 bits, in blocks of 32.
    #[default]
    Auto,
    F32,
}

impl LoadOptions {
    pub fn new() -> Self {
        Self::default()
    }

    /// Converts matrices of floats while loading. Weights that are quantised already stay as they are.
    pub fn weights(mut self, weights: Weights) -> Self {
        self.weights = Some(weights);
        self
    }

    pub fn precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// The largest number of tokens of a prompt and its continuation together. The default is the context that the
    /// model was trained for.
    pub fn context(mut self, tokens: usize) -> Self {
        self.context = Some(tokens);
        self
    }

    /// Keeps a kernel from running on a GPU; the next best kernel replaces it. A name is one or more parts of the
    /// kernel's name, joined by `+`, as `dunlin inspect MODEL --plan` prints it; every kernel whose name has all parts
    /// is refused.
    pub fn refuse(mut self, kernel: impl Into<String>) -> Self {
        self.refused.insert(kernel.into());
        self
    }

    /// Runs a kernel of your own on a GPU in the place of one of dunlin's. Its results are yours: `dunlin kernel try`
    /// compares it with the reference.
    pub fn kernel(mut self, file: KernelFile) -> Self {
        self.own.push(file);
        self
    }

    /// The vision half of a model whose own file has none: llama.cpp's `mmproj` file.
    pub fn mmproj(mut self, file: impl Into<PathBuf>) -> Self {
        self.vision.mmproj = Some(file.into());
        self
    }

    /// The folder of the vision tower, instead of the one that the model names.
    pub fn vision_tower(mut self, folder: impl Into<PathBuf>) -> Self {
        self.vision.tower = Some(folder.into());
        self
    }

    /// Numbers the pictures of a Qwen-VL as `Picture 1:<img>…`, without a space before the tag, as its helper
    /// `from_list_format` and Xiaomi's evaluation do. The default has the space, which training used.
    pub fn tight_pictures(mut self) -> Self {
        self.tight_pictures = true;
        self
    }

    /// Called repeatedly while weights go to the device, with the number of finished steps and of all steps.
    pub fn progress(mut self, progress: impl Fn(usize, usize) + Send + Sync + 'static) -> Self {
        self.progress = Some(Arc::new(progress));
        self
    }
}

impl Model {
    /// Loads a Hugging Face folder or a `.gguf` file: a path, or [`Files`] in memory.
    pub fn load(files: impl Into<Files>, device: &Device) -> Result<Self> {
        Self::load_with(files, device, &LoadOptions::new())
    }

    /// Loads a Hugging Face folder or a `.gguf` file, with options.
    pub fn load_with(files: impl Into<Files>, device: &Device, options: &LoadOptions) -> Result<Self> {
        let start = Instant::now();
        let mut checkpoint = Checkpoint::open_with(files, &options.vision)?;
        if let Some(weights) = options.weights {
            checkpoint.convert(match weights {
                Weights::F16 => DType::F16,
                Weights::Q8_0 => DType::Q8_0,
                Weights::Q4_0 => DType::Q4_0,
            })?;
        }
        let context = options.context.unwrap_or(checkpoint.config.context);
        if context == 0 {
            return Err(Error::prompt("the context is 0 tokens: give at least 1 with --context"));
        }
        if let Some(most) = checkpoint.config.rope.most_positions.filter(|&most| context > most) {
            return Err(Error::unsupported(format!(
                "{}: the context of {context} tokens is longer than max_position_embeddings, {most}, beyond which \
                 dynamic rope scaling is not supported; give at most {most} with --context",
                checkpoint.path.display(),
            )));
        }
        let mut text = Text::of(&checkpoint)?;
        text.tight_pictures = options.tight_pictures;
        let engine_options = EngineOptions {
            full_precision: options.precision == Precision::F32,
            context: Some(context),
            refused: options.refused.clone(),
            own: options.own.clone(),
            ..EngineOptions::default()
        };
        let progress = |done, all| {
            if let Some(progress) = &options.progress {
                progress(done, all);
            }
        };
        let engine = device::load(&checkpoint, device, &engine_options, &progress)?;
        let load_s = start.elapsed().as_secs_f64();
        Ok(Self(Arc::new(Inner { engine, config: checkpoint.config, context, text, load_s })))
    }

    /// The ids of a prompt. Each row of a picture is an id; these ids begin at the size of the vocabulary and count up
    /// through all pictures.
    pub fn encode(&self, prompt: &Prompt) -> Result<Vec<u32>> {
        Ok(self.0.encode(prompt)?.ids)
    }

    /// Whether the model reads pictures.
    pub fn reads_images(&self) -> bool {
        self.0.config.vision.is_some()
    }

    /// Drops the weights that read pictures, for all clones of the model. Pictures that were read stay in their
    /// generations; reading another one is an error.
    pub fn release_vision(&self) {
        self.0.engine.release_vision();
    }

    /// The model's tokenizer; an error if its folder has none.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        self.0.text.tokenizer()
    }

    /// The name of the device that the model runs on.
    pub fn device(&self) -> &str {
        &self.0.engine.device().name
    }

    /// `vulkan`, `metal`, `dx12`, `gl` or `cpu`.
    pub fn backend(&self) -> &str {
        &self.0.engine.device().backend
    }

    /// What runs the model.
    pub(crate) fn engine(&self) -> &Arc<dyn Engine> {
        &self.0.engine
    }

    pub(crate) fn config(&self) -> &Config {
        &self.0.config
    }

    /// The kernels of [`LoadOptions::kernel`], each with the number of dispatches of a decoding step, a prompt and a
    /// picture that run it.
    pub fn own_kernels(&self) -> &[OwnKernelUse] {
        self.0.engine.own_kernels()
    }

    /// The most tokens of a prompt and its continuation together.
    pub fn context(&self) -> usize {
        self.0.context
    }
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model").field("config", &self.0.config).field("device", self.0.engine.device()).finish()
    }
}

impl Inner {
    /// The prompt in the form that the model reads.
    pub fn encode(&self, prompt: &Prompt) -> Result<Encoded> {
        self.text.encode(prompt, &self.config)
    }

    /// The meaning of ids that are not in the vocabulary.
    pub fn picture_ids(&self) -> PictureIds {
        PictureIds { vocab: self.config.vocab }
    }

    /// The number of tokens of a picture.
    pub fn image_tokens(&self) -> usize {
        self.config.vision.as_ref().map_or(0, |vision| vision.tokens())
    }

    /// Checks ids against the vocabulary, the rows of `images` pictures, and the context; and whether the device holds
    /// as many pictures.
    pub fn check(&self, ids: &[u32], images: usize) -> Result<()> {
        if ids.is_empty() {
            return Err(Error::prompt("the prompt is empty: the model needs at least one token to continue"));
        }
        let known = self.config.vocab + images * self.image_tokens();
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= known) {
            return Err(not_in_vocabulary(id, self.config.vocab));
        }
        let (most, device) = (self.engine.pictures(), &self.engine.device().name);
        if images > most {
            return Err(Error::out_of_memory(format!(
                "the prompt has {images} pictures, and a binding of {device} holds the rows of {most}; take fewer \
                 pictures, or --device cpu"
            )));
        }
        if ids.len() > self.context {
            return Err(Error::prompt(format!(
                "the prompt has {} tokens{}, more than the context of {}: shorten it or give a larger --context \
                 (the model was made for {})",
                ids.len(),
                if images > 0 {
                    format!(", {} of them of images", images * self.image_tokens())
                } else {
                    String::new()
                },
                self.context,
                self.config.context,
            )));
        }
        Ok(())
    }
}
