//! Which device runs a model: what was asked for, and what is there.

use crate::error::{Error, Result};

/// What the caller asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first real GPU, else the CPU path.
    Auto,
    Cpu,
    /// The first adapter, real GPUs before software ones.
    Gpu,
    Index(usize),
    /// The first adapter whose name contains `part`, in any case, driven through `backend` if one is given.
    Name {
        backend: Option<String>,
        part: String,
    },
}

/// The names by which backends are asked for, as in `vulkan:llvmpipe`.
const BACKENDS: [&str; 4] = ["vulkan", "metal", "dx12", "gl"];

impl DeviceChoice {
    /// `auto`, `cpu`, `gpu`, an index, or `[BACKEND:]NAME-PART`.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        if text.is_empty() {
            return Err(Error::device("the device is empty: give auto, cpu, gpu, an index or a part of a name"));
        }
        Ok(match text.to_ascii_lowercase().as_str() {
            "auto" => Self::Auto,
            "cpu" => Self::Cpu,
            "gpu" => Self::Gpu,
            lower => match (text.parse(), lower.split_once(':')) {
                (Ok(index), _) => Self::Index(index),
                (_, Some((backend, part))) if BACKENDS.contains(&backend) => {
                    Self::Name { backend: Some(backend.to_owned()), part: part.to_owned() }
                }
                _ => Self::Name { backend: None, part: lower.to_owned() },
            },
        })
    }

    /// The adapter that is meant, or nothing for the CPU path.
    pub fn choose<'a>(&self, adapters: &'a [AdapterInfo]) -> Result<Option<&'a AdapterInfo>> {
        let real = adapters.iter().find(|adapter| !adapter.software);
        let found = match self {
            Self::Auto => return Ok(real),
            Self::Cpu => return Ok(None),
            Self::Gpu => {
                real.or(adapters.first()).ok_or_else(|| "there is no GPU adapter: use --device cpu".to_owned())
            }
            Self::Index(index) => adapters
                .iter()
                .find(|adapter| adapter.index == *index)
                .ok_or_else(|| format!("there is no adapter {index}; there {}", list(adapters))),
            Self::Name { backend, part } => {
                let fits = |adapter: &&AdapterInfo| {
                    adapter.name.to_lowercase().contains(part)
                        && backend.as_ref().is_none_or(|backend| *backend == adapter.backend)
                };
                let wanted = backend.as_ref().map(|backend| format!("{backend}:")).unwrap_or_default() + part;
                adapters
                    .iter()
                    .find(fits)
                    .ok_or_else(|| format!("no adapter is called `{wanted}`; there {}", list(adapters)))
            }
        };
        found.map(Some).map_err(Error::device)
    }
}

fn list(adapters: &[AdapterInfo]) -> String {
    match adapters {
        [] => "are none, only --device cpu".to_owned(),
        _ => {
            let names =
                adapters.iter().map(|adapter| format!("{} {}:{}", adapter.index, adapter.backend, adapter.name));
            format!("are {}", names.collect::<Vec<_>>().join(", "))
        }
    }
}

/// An adapter of this machine, as `dunlin info` shows it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct AdapterInfo {
    /// What `--device INDEX` calls it.
    pub index: usize,
    pub name: String,
    /// `vulkan`, `metal`, `dx12` or `gl`.
    pub backend: String,
    /// `discrete`, `integrated`, `virtual`, `cpu` or `other`.
    pub kind: String,
    /// A rasteriser that runs on the CPU.
    pub software: bool,
    pub driver: String,
    /// The limits that decide what runs, in bytes or counts.
    pub limits: Vec<(String, u64)>,
    /// The optional features that dunlin uses where they are: `f16`, `subgroups`, …
    pub features: Vec<String>,
}

/// How an engine is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// Activations, tiles and KV cache stay in f32.
    pub full_precision: bool,
    /// The most tokens of any session.
    pub context: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapter(index: usize, backend: &str, name: &str, software: bool) -> AdapterInfo {
        AdapterInfo {
            index,
            name: name.into(),
            backend: backend.into(),
            kind: String::new(),
            software,
            driver: String::new(),
            limits: Vec::new(),
            features: Vec::new(),
        }
    }

    #[test]
    fn every_form_chooses_what_it_says() {
        let software = [
            adapter(0, "vulkan", "llvmpipe (LLVM 15, 256 bits)", true),
            adapter(1, "gl", "llvmpipe (LLVM 15, 256 bits)", true),
        ];
        let mixed = [software[0].clone(), software[1].clone(), adapter(2, "vulkan", "NVIDIA H100", false)];
        let check = |text: &str, adapters: &[AdapterInfo], expected: Result<Option<usize>, &str>| {
            let chosen =
                DeviceChoice::parse(text).and_then(|choice| choice.choose(adapters).map(|found| found.cloned()));
            match (chosen, expected) {
                (Ok(found), Ok(index)) => assert_eq!(found.map(|adapter| adapter.index), index, "{text}"),
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{text}: {error}"),
                (chosen, _) => panic!("{text}: {chosen:?}"),
            }
        };
        check("auto", &mixed, Ok(Some(2)));
        check("auto", &software, Ok(None));
        check("auto", &[], Ok(None));
        check("CPU", &mixed, Ok(None));
        check("gpu", &mixed, Ok(Some(2)));
        check("gpu", &software, Ok(Some(0)));
        check("gpu", &[], Err("no GPU adapter"));
        check("1", &mixed, Ok(Some(1)));
        check("7", &mixed, Err("no adapter 7; there are 0 vulkan:llvmpipe"));
        check("0", &[], Err("there are none"));
        check("llvmpipe", &mixed, Ok(Some(0)));
        check("gl:llvmpipe", &mixed, Ok(Some(1)));
        check("vulkan:nvidia", &mixed, Ok(Some(2)));
        check("gl:", &mixed, Ok(Some(1)));
        check("metal:m1", &mixed, Err("`metal:m1`"));
        check(" ", &mixed, Err("empty"));
    }
}
