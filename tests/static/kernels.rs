//! Every kernel with its constants as naga parses it, and helpers for tests of kernels.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use crate::constants;
use dunlin::ops;
use dunlin::work::{Kernel, Requires, source};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{ShaderStage, back};

/// A kernel with constants, as naga parses it.
pub struct Translated {
    pub kernel: &'static Kernel,
    pub label: String,
    /// The module as written: every declaration, with `override` constants not yet replaced.
    pub module: naga::Module,
    /// The module as compiled: `override` constants replaced, declarations that the entry point does not use removed.
    pub compiled: naga::Module,
    pub info: ModuleInfo,
}

/// The faults of a kernel; empty if there are none.
pub type Complaints = Vec<String>;

/// Every kernel with every value of each constant while the others have their defaults, and with the last value of all:
/// some thousands of modules. Every combination would be ten times as many.
pub static KERNELS: LazyLock<Vec<Result<Translated, String>>> = LazyLock::new(|| {
    let mut all = Vec::new();
    for kernel in kernels() {
        let defaults = kernel.constants.to_vec();
        let last = |(name, _): &(&'static str, f64)| (*name, *constants::values(name).last().expect("a value"));
        let mut choices = vec![defaults.clone(), defaults.iter().map(last).collect()];
        for (i, (name, _)) in defaults.iter().enumerate() {
            for &value in constants::values(name) {
                let mut choice = defaults.clone();
                choice[i].1 = value;
                choices.push(choice);
            }
        }
        // A workgroup has LANES · SPLIT threads, 256 at most.
        for choice in &mut choices {
            let lanes = choice.iter().find(|(name, _)| *name == "LANES").map_or(32.0, |(_, lanes)| *lanes);
            if let Some((_, split)) = choice.iter_mut().find(|(name, _)| *name == "SPLIT") {
                *split = split.min(256.0 / lanes);
            }
        }
        let key = |choice: &Vec<(&str, f64)>| choice.iter().map(|(_, value)| value.to_bits()).collect::<Vec<u64>>();
        let choices: BTreeMap<Vec<u64>, Vec<(&str, f64)>> = choices.into_iter().map(|c| (key(&c), c)).collect();
        all.extend(choices.values().map(|constants| translate(kernel, constants)));
    }
    all
});

/// The valid kernels; one test of its own reports the others.
pub fn all() -> impl Iterator<Item = &'static Translated> {
    KERNELS.iter().flatten()
}

pub fn kernels() -> impl Iterator<Item = &'static Kernel> {
    ops::kernels().into_iter().flat_map(|(_, kernels)| kernels)
}

/// The first kernel with this entry point that requires no feature.
pub fn kernel(entry: &str) -> &'static Kernel {
    kernels().find(|kernel| kernel.entry == entry && kernel.requires == Requires::NOTHING).expect(entry)
}

pub fn translate(kernel: &'static Kernel, constants: &[(&str, f64)]) -> Result<Translated, String> {
    let values: String = constants.iter().map(|(name, value)| format!(" {name}={value}")).collect();
    let label = format!("{}{values}", kernel.name());
    let (module, compiled, info) =
        compile(kernel, constants, capabilities(kernel.requires)).map_err(|error| format!("{label}: {error}"))?;
    Ok(Translated { kernel, label, module, compiled, info })
}

/// The capabilities that a kernel may use. Halves inside 32-bit words (`unpack2x16float`) need no WGSL extension.
pub fn capabilities(requires: Requires) -> Capabilities {
    let mut capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    capabilities.set(Capabilities::SHADER_FLOAT16, requires.f16);
    capabilities.set(Capabilities::SUBGROUP, requires.subgroups);
    capabilities.set(Capabilities::COOPERATIVE_MATRIX, requires.cooperative.is_some());
    capabilities
}

/// The module as written, the module as compiled, and naga's information about the latter.
pub fn compile(
    kernel: &Kernel,
    constants: &[(&str, f64)],
    capabilities: Capabilities,
) -> Result<(naga::Module, naga::Module, ModuleInfo), String> {
    let text = source::assemble(kernel);
    let path = format!("{} with what completes it", kernel.file);
    let at = |location: Option<naga::SourceLocation>, message: String| match location {
        Some(location) => format!("{}: {message}", place(kernel, &text, location.line_number as usize)),
        None => message,
    };
    let module = naga::front::wgsl::parse_str(&text)
        .map_err(|error| at(error.location(&text), error.emit_to_string_with_path(&text, &path)))?;
    let mut validator = Validator::new(ValidationFlags::all(), capabilities);
    if requires_subgroups(capabilities) {
        validator.subgroup_stages(naga::valid::ShaderStages::COMPUTE);
        validator.subgroup_operations(naga::valid::SubgroupOperationSet::all());
    }
    let info = validator
        .validate(&module)
        .map_err(|error| at(error.location(&text), error.emit_to_string_with_path(&text, &path)))?;
    let constants = constants.iter().map(|(name, value)| (name.to_string(), *value)).collect();
    let entry = Some((ShaderStage::Compute, kernel.entry));
    let (compiled, info) = back::pipeline_constants::process_overrides(&module, &info, entry, &constants)
        .map_err(|error| error.to_string())?;
    let (compiled, info) = (compiled.into_owned(), info.into_owned());
    Ok((module, compiled, info))
}

fn requires_subgroups(capabilities: Capabilities) -> bool {
    capabilities.contains(Capabilities::SUBGROUP)
}

/// The place on disk, `file:line`, of a line of the assembled text.
fn place(kernel: &Kernel, text: &str, line: usize) -> String {
    let (mut file, mut before) = (kernel.file.to_string(), 0);
    for (index, heading) in text.lines().take(line).enumerate() {
        let shared = kernel.modules.iter().map(|module| format!("shared/{}.wgsl", module.name));
        if let Some(shared) = shared.into_iter().find(|shared| heading == format!("// {shared}")) {
            (file, before) = (shared, index + 1);
        }
    }
    format!("shaders/{file}:{}", line - before)
}

/// A kernel with one change to its text.
pub fn edited(kernel: &Kernel, from: &str, to: &str) -> &'static Kernel {
    assert!(kernel.source.contains(from), "{} has no `{from}`", kernel.file);
    leak(Kernel { source: kernel.source.replacen(from, to, 1).leak(), ..copy(kernel) })
}

pub fn copy(kernel: &Kernel) -> Kernel {
    let Kernel { file, source, entry, modules, bindings, params, constants, requires, replaces } = *kernel;
    Kernel { file, source, entry, modules, bindings, params, constants, requires, replaces }
}

/// Gives a value a static lifetime, which kernels have.
pub fn leak<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

pub fn labelled(t: &Translated, complaints: Complaints) -> Complaints {
    complaints.into_iter().map(|complaint| format!("shaders/{} ({}): {complaint}", t.kernel.file, t.label)).collect()
}

/// Fails with all complaints at once.
#[track_caller]
pub fn none(complaints: Complaints) {
    assert!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n"));
}
