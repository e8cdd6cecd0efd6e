//! A user's WGSL, read with naga: is it valid, does it fit the kernel that it replaces, and what does it need?

use std::collections::{BTreeMap, HashMap};
use std::sync::{LazyLock, Mutex, PoisonError};

use wgpu::naga;

use naga::valid::{Capabilities, ModuleInfo, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};
use naga::{AddressSpace, GlobalVariable, Handle, Module, ShaderStage, SourceLocation, StorageAccess, TypeInner};

use crate::backend::wgpu::pipelines::{PARAMS_BYTES, TABLE_BYTES};
use crate::error::{Error, Result};
use crate::ops;
use crate::work::{Access, Kernel, KernelFile, KernelRef, OwnKernel, Requires};

/// A user's kernel that fits the kernel which it replaces.
pub struct Read {
    pub own: OwnKernel,
    module: Module,
    info: ModuleInfo,
}

/// What a workgroup takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workgroup {
    pub threads: u32,
    /// Bytes of workgroup memory.
    pub memory: u32,
}

/// The `override`s that stretch the grid, by dimension.
const GRID: [&str; 3] = ["GRID_X", "GRID_Y", "GRID_Z"];

/// The kernels that were read, by their text. A kernel lives as long as the program, so the same text is kept once.
static KEPT: LazyLock<Mutex<HashMap<Key, &'static Kernel>>> = LazyLock::new(Mutex::default);

/// A kernel of ours, the name of the user's file, and its text.
type Key = (KernelRef, String, String);

/// Reads several files, each for the kernel that it names.
pub fn read_all(files: &[KernelFile]) -> Result<Vec<OwnKernel>> {
    let mut all: Vec<OwnKernel> = Vec::new();
    for file in files {
        let ours = ops::kernel_named(&file.name)?.1;
        if let Some(other) = all.iter().find(|own| own.replaces(KernelRef(ours))) {
            let (name, other) = (ours.name(), other.kernel.0.file);
            return Err(Error::prompt(format!("{name} is to be both {other} and {}; give one file", file.file)));
        }
        all.push(read(ours, file)?.own);
    }
    Ok(all)
}

/// Reads the user's file for `ours`.
///
/// # Errors
///
/// The file is not valid WGSL, or does not fit: the message says where and why.
pub fn read(ours: &'static Kernel, file: &KernelFile) -> Result<Read> {
    let text = &*file.text;
    let module = naga::front::wgsl::parse_str(text)
        .map_err(|error| fault(file, error.location(text), error.message().to_string()))?;
    let info = validate(&module, capabilities())
        .map_err(|error| fault(file, error.location(text), sources(error.as_inner())))?;
    fits(ours, file, &module)?;

    if let Some((handle, constant)) = module.overrides.iter().find(|(_, constant)| constant.id.is_some()) {
        let (name, id) = (constant.name.as_deref().unwrap_or_default(), constant.id.unwrap_or_default());
        let span = module.overrides.get_span(handle);
        let message = format!("the override `{name}` gets its value by name, so take away its @id({id})");
        return Err(fault(file, span.is_defined().then(|| span.location(text)), message));
    }
    let declared: BTreeMap<&str, Option<f64>> = (module.overrides.iter())
        .filter_map(|(_, o)| Some((o.name.as_deref()?, o.init.and_then(|init| literal(&module, init)))))
        .collect();
    if let Some((unknown, _)) = file.set.iter().find(|(name, _)| !declared.contains_key(name.as_str())) {
        let there = declared.keys().copied().collect::<Vec<_>>().join(", ");
        let there = if there.is_empty() { "it has none".into() } else { format!("it has {there}") };
        return Err(Error::prompt(format!("{} has no override `{unknown}`; {there}", file.file)));
    }
    let value = |name: &str| file.set.iter().rev().find(|(own, _)| own == name).map(|(_, value)| *value);
    for (_, constant) in module.overrides.iter().filter(|(_, constant)| constant.init.is_none()) {
        let name = constant.name.as_deref().unwrap_or_default();
        if value(name).is_none() && !ours.constants.iter().any(|(own, _)| *own == name) {
            return Err(Error::prompt(format!(
                "{}: the override `{name}` has no value: give it a default, or set it (--set {name}=VALUE)",
                file.file
            )));
        }
    }
    let mut grid = [1.0; 3];
    for (ratio, name) in grid.iter_mut().zip(GRID).filter(|(_, name)| declared.contains_key(name)) {
        *ratio = value(name).or(declared[name]).filter(|ratio| *ratio > 0.0 && ratio.is_finite()).ok_or_else(|| {
            let wanted = "the number of workgroups relative to ours, above 0: a literal, or --set";
            Error::prompt(format!("{}: the override `{name}` is {wanted}", file.file))
        })?;
    }

    let needs = |capability| validate(&module, capabilities() - capability).is_err();
    let matrices = module.types.iter().find_map(|(_, ty)| match ty.inner {
        TypeInner::CooperativeMatrix { columns, .. } => Some(columns as u32),
        _ => None,
    });
    let requires = match matrices {
        Some(size) => Requires::cooperative(size),
        None => Requires {
            f16: needs(Capabilities::SHADER_FLOAT16),
            subgroups: needs(Capabilities::SUBGROUP),
            cooperative: None,
        },
    };
    let kernel = keep(ours, file, requires, &declared);
    let named = |(name, value): &(String, f64)| {
        let own = kernel.constants.iter().find(|(own, _)| own == name)?;
        Some((own.0, *value))
    };
    let set: BTreeMap<&'static str, f64> = file.set.iter().filter_map(named).collect();
    let own = OwnKernel { kernel: KernelRef(kernel), set: set.into_iter().collect(), grid };
    Ok(Read { own, module, info })
}

/// The kernel that a user's file is.
fn keep(
    ours: &'static Kernel,
    file: &KernelFile,
    requires: Requires,
    declared: &BTreeMap<&str, Option<f64>>,
) -> &'static Kernel {
    let key = (KernelRef(ours), file.file.clone(), file.text.to_string());
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    kept.entry(key).or_insert_with(|| {
        let text = |text: &str| -> &'static str { text.to_string().leak() };
        let constants: Vec<(&'static str, f64)> =
            declared.iter().map(|(name, value)| (text(name), value.unwrap_or_default())).collect();
        Box::leak(Box::new(Kernel {
            file: text(&file.file),
            source: text(&file.text),
            entry: ours.entry,
            modules: &[],
            bindings: ours.bindings,
            params: ours.params,
            constants: constants.leak(),
            requires,
            replaces: Some(ours),
        }))
    })
}

impl Read {
    /// What a workgroup takes with these constants.
    ///
    /// # Errors
    ///
    /// The constants do not fit the file.
    pub fn workgroup(&self, constants: &[(&'static str, f64)]) -> Result<Workgroup> {
        let kernel = self.own.kernel.0;
        let failed = |why: String| {
            let values: Vec<String> = constants.iter().map(|(name, value)| format!("{name}={value}")).collect();
            Error::prompt(format!("{} with {}: {why}", kernel.file, values.join(" ")))
        };
        let values = constants.iter().map(|(name, value)| (name.to_string(), *value)).collect();
        let entry = Some((ShaderStage::Compute, kernel.entry));
        let (module, _) = naga::back::pipeline_constants::process_overrides(&self.module, &self.info, entry, &values)
            .map_err(|error| failed(sources(&error)))?;
        let entry = module.entry_points.iter().find(|entry| entry.name == kernel.entry);
        // More than any device has is refused, so no number has to be exact there.
        let size = entry.map_or([1; 3], |entry| entry.workgroup_size);
        let threads = size.into_iter().fold(1, u32::saturating_mul);
        let mut layouter = naga::proc::Layouter::default();
        layouter.update(module.to_ctx()).map_err(|error| failed(error.to_string()))?;
        let workgroup = module.global_variables.iter().filter(|(_, v)| v.space == AddressSpace::WorkGroup);
        let padded = |size: u32| size.checked_next_multiple_of(16).unwrap_or(u32::MAX);
        let memory = workgroup.map(|(_, v)| padded(layouter[v.ty].size)).fold(0, u32::saturating_add);
        Ok(Workgroup { threads, memory })
    }
}

/// What a kernel may use on some device.
fn capabilities() -> Capabilities {
    Capabilities::SHADER_FLOAT16_IN_FLOAT32
        | Capabilities::SHADER_FLOAT16
        | Capabilities::SUBGROUP
        | Capabilities::COOPERATIVE_MATRIX
}

fn validate(
    module: &Module,
    capabilities: Capabilities,
) -> Result<ModuleInfo, Box<naga::WithSpan<naga::valid::ValidationError>>> {
    let mut validator = Validator::new(ValidationFlags::all(), capabilities);
    if capabilities.contains(Capabilities::SUBGROUP) {
        validator.subgroup_stages(ShaderStages::COMPUTE);
        validator.subgroup_operations(SubgroupOperationSet::all());
    }
    validator.validate(module).map_err(Box::new)
}

/// Whether a module has the entry point, the bindings and the `Params` of `ours`.
fn fits(ours: &Kernel, file: &KernelFile, module: &Module) -> Result<()> {
    let name = ours.name();
    let compute = || module.entry_points.iter().filter(|entry| entry.stage == ShaderStage::Compute);
    if !compute().any(|entry| entry.name == ours.entry) {
        let found: Vec<String> = compute().map(|entry| format!("`{}`", entry.name)).collect();
        let found = if found.is_empty() { "none".into() } else { found.join(", ") };
        return Err(Error::prompt(format!(
            "{}: the entry point of {name} is `{}`; the file has {found}",
            file.file, ours.entry
        )));
    }
    let mut layouter = naga::proc::Layouter::default();
    layouter.update(module.to_ctx()).map_err(|error| fault(file, None, error.to_string()))?;
    let mut found: BTreeMap<(u32, u32), (Handle<GlobalVariable>, &GlobalVariable)> = BTreeMap::new();
    for (handle, variable) in module.global_variables.iter() {
        let Some(binding) = &variable.binding else { continue };
        found.insert((binding.group, binding.binding), (handle, variable));
    }
    let at = |handle, message| {
        let span: naga::Span = module.global_variables.get_span(handle);
        fault(file, span.is_defined().then(|| span.location(&file.text)), message)
    };
    let call = |variable: &GlobalVariable| variable.name.clone().unwrap_or_default();
    for (i, access) in (0..).zip(ours.bindings) {
        let (wanted, words) = match access {
            Access::Read => (StorageAccess::LOAD, "var<storage, read>"),
            Access::ReadWrite => (StorageAccess::LOAD | StorageAccess::STORE, "var<storage, read_write>"),
        };
        match found.remove(&(0, i)) {
            None => {
                let count = ours.bindings.len();
                return Err(Error::prompt(format!(
                    "{}: @group(0) @binding({i}) is missing: {name} has {count} bindings, and this one is {words}",
                    file.file
                )));
            }
            Some((_, GlobalVariable { space: AddressSpace::Storage { access }, .. })) if *access == wanted => {}
            Some((handle, variable)) => {
                let message = format!("`{}` at @group(0) @binding({i}) must be {words}, as in {name}", call(variable));
                return Err(at(handle, message));
            }
        }
    }
    let uniforms = [(0, "params", ours.params as u64, PARAMS_BYTES), (1, "batch", TABLE_BYTES, TABLE_BYTES)];
    for (binding, what, size, most) in uniforms {
        let Some((handle, variable)) = found.remove(&(1, binding)) else { continue };
        let bytes = u64::from(layouter[variable.ty].size);
        if variable.space != AddressSpace::Uniform {
            let message = format!("`{}` at @group(1) @binding({binding}) must be var<uniform>", call(variable));
            return Err(at(handle, message));
        }
        if bytes != size || bytes > most {
            let message = format!("`{}` has {bytes} bytes, and {what} of {name} has {size}", call(variable));
            return Err(at(handle, message));
        }
    }
    match found.into_iter().next() {
        None => Ok(()),
        Some(((group, binding), (handle, variable))) => {
            let place = format!("@group({group}) @binding({binding})");
            Err(at(handle, format!("`{}` at {place} is one too many: {name} has no such binding", call(variable))))
        }
    }
}

/// The number that an `override` has by default.
fn literal(module: &Module, init: Handle<naga::Expression>) -> Option<f64> {
    let naga::Expression::Literal(literal) = module.global_expressions[init] else { return None };
    match literal {
        naga::Literal::F32(value) => Some(value.into()),
        naga::Literal::U32(value) => Some(value.into()),
        naga::Literal::I32(value) => Some(value.into()),
        naga::Literal::AbstractInt(value) => Some(value as f64),
        naga::Literal::AbstractFloat(value) => Some(value),
        naga::Literal::Bool(value) => Some(f64::from(u8::from(value))),
        _ => None,
    }
}

/// An error at a place of the user's file: `mine.wgsl:12:5: message`, then the line with a mark below.
fn fault(file: &KernelFile, location: Option<SourceLocation>, message: String) -> Error {
    let name = &file.file;
    let Some(location) = location else { return Error::prompt(format!("{name}: {message}")) };
    let (line, offset) = (location.line_number as usize, location.offset as usize);
    let before = file.text.get(..offset).unwrap_or_default();
    let column = before.len() - before.rfind('\n').map_or(0, |at| at + 1);
    let column = before[before.len() - column..].chars().count() + 1;
    let shown = file.text.lines().nth(line - 1).unwrap_or_default().replace('\t', " ");
    let marks = file
        .text
        .get(offset..offset + location.length as usize)
        .map_or(1, |marked| marked.lines().next().unwrap_or_default().chars().count().max(1));
    let (space, marks) = (" ".repeat(column - 1), "^".repeat(marks));
    Error::prompt(format!("{name}:{line}:{column}: {message}\n  {line:>5} | {shown}\n        | {space}{marks}"))
}

/// The message of an error and of its sources.
fn sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}
