//! The golden cases: folders of `tests/golden` with the results of the authors' PyTorch code.

use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};

/// A case: its folder and its expected tensors.
pub struct Golden {
    pub name: String,
    pub folder: PathBuf,
    expected: Vec<u8>,
}

/// What the names of cases begin with that have tests of their own. Others are text cases.
const OWN_TESTS: [&str; 3] = ["mobilevlm", "qwenvl", "prune_"];

/// The text cases.
pub fn text_cases() -> Vec<Golden> {
    cases(|name| OWN_TESTS.iter().all(|own| !name.starts_with(own)), 15)
}

/// The cases of MobileVLM.
pub fn vision_cases() -> Vec<Golden> {
    cases(|name| name.starts_with("mobilevlm"), 4)
}

/// The cases of Qwen-VL.
pub fn qwen_cases() -> Vec<Golden> {
    cases(|name| name.starts_with("qwenvl"), 2)
}

/// The cases of pruning.
pub fn prune_cases() -> Vec<Golden> {
    cases(|name| name.starts_with("prune_"), 2)
}

/// The folders with such a name, at least so many, in order.
fn cases(wanted: impl Fn(&str) -> bool, least: usize) -> Vec<Golden> {
    let root = root();
    let mut names: Vec<String> = std::fs::read_dir(&root)
        .expect("tests/golden")
        .map(|entry| entry.expect("entry").file_name().into_string().expect("utf-8"))
        .filter(|name| wanted(name) && root.join(name).join("expected.safetensors").exists())
        .collect();
    names.sort();
    assert!(names.len() >= least, "cases in {}: {names:?}, expected {least}", root.display());
    names.iter().map(|name| Golden::open(name)).collect()
}

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// A json file of the golden folder.
pub fn json(name: &str) -> serde_json::Value {
    let text = std::fs::read_to_string(root().join(name)).expect(name);
    serde_json::from_str(&text).expect(name)
}

/// A list of numbers in one of the json files.
pub fn numbers(value: &serde_json::Value) -> Vec<f32> {
    value.as_array().expect("a list").iter().map(|number| number.as_f64().expect("a number") as f32).collect()
}

impl Golden {
    pub fn open(name: &str) -> Self {
        let folder = root().join(name);
        let expected = std::fs::read(folder.join("expected.safetensors")).expect(name);
        Golden { name: name.into(), folder, expected }
    }

    pub fn has(&self, tensor: &str) -> bool {
        self.tensors().tensor(tensor).is_ok()
    }

    pub fn f32(&self, tensor: &str) -> Vec<f32> {
        let tensors = self.tensors();
        let view = tensors.tensor(tensor).unwrap_or_else(|_| panic!("{} has no {tensor}", self.name));
        assert_eq!(view.dtype(), Dtype::F32);
        view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("4 bytes"))).collect()
    }

    /// A tensor of bytes: its shape and content.
    pub fn u8(&self, tensor: &str) -> (Vec<usize>, Vec<u8>) {
        let tensors = self.tensors();
        let view = tensors.tensor(tensor).unwrap_or_else(|_| panic!("{} has no {tensor}", self.name));
        assert_eq!(view.dtype(), Dtype::U8);
        (view.shape().to_vec(), view.data().to_vec())
    }

    pub fn ids(&self, tensor: &str) -> Vec<u32> {
        let tensors = self.tensors();
        let view = tensors.tensor(tensor).unwrap_or_else(|_| panic!("{} has no {tensor}", self.name));
        assert_eq!(view.dtype(), Dtype::I64);
        let ids = view.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().expect("8 bytes")));
        ids.map(|id| u32::try_from(id).expect("an id")).collect()
    }

    /// Like [`Golden::ids`], for tensors in which −200 stands for a picture.
    pub fn ids_with_images(&self, tensor: &str) -> Vec<u32> {
        let tensors = self.tensors();
        let view = tensors.tensor(tensor).unwrap_or_else(|_| panic!("{} has no {tensor}", self.name));
        assert_eq!(view.dtype(), Dtype::I64);
        let ids = view.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().expect("8 bytes")));
        ids.map(|id| if id == -200 { dunlin::Prompt::IMAGE } else { u32::try_from(id).expect("an id") }).collect()
    }

    /// `expected.json`.
    pub fn expected(&self) -> serde_json::Value {
        json(&format!("{}/expected.json", self.name))
    }

    /// Names of the prompts that have a greedy continuation.
    pub fn prompts(&self) -> Vec<String> {
        let names = self
            .tensors()
            .names()
            .into_iter()
            .filter_map(|n| n.strip_suffix(".greedy_ids").map(str::to_string))
            .collect::<Vec<_>>();
        let mut names = names;
        names.sort();
        names
    }

    /// The logit margin of each id of a prompt's greedy continuation over the second best id.
    pub fn margins(&self, prompt: &str) -> Vec<f32> {
        numbers(&self.expected()["prompts"][prompt]["greedy_gap_per_step"])
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.expected).expect("expected.safetensors")
    }
}
