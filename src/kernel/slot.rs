//! The kernels that a file of the user's own can replace: what each computes, binds and is tuned by, in words.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use serde::Serialize;

use crate::error::Result;
use crate::ops::{self, Case};
use crate::work::source::assemble;
use crate::work::{DeviceProfile, Family, Kernel, KernelRef, Requires};

/// A kernel of dunlin's, in whose place a file of your own can run.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    operator: &'static str,
    kernel: &'static Kernel,
}

/// What a file for a [`Slot`] has to know.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SlotDescription {
    /// The kernel's name: the file and entry point, then the shared files that were chosen for it.
    pub name: String,
    /// The operator that it does the work of.
    pub operator: String,
    /// The entry point, which the file must have too.
    pub entry: String,
    /// Formula and shapes, and how the work is divided: the comment at the top of the kernel.
    pub formula: Vec<String>,
    /// The declarations of the bindings, which may have other names and element types, but no other group, number or
    /// access.
    pub bindings: Vec<String>,
    /// The members of `Params`.
    pub params: Vec<String>,
    /// Bytes of `Params`, which may have other members of the same size.
    pub params_bytes: usize,
    /// The `override`s, which dispatches set.
    pub overrides: Vec<String>,
    /// What one workgroup computes: the grid has as many as it takes.
    pub grid: String,
    /// The `override`s that the grid depends on.
    pub grid_overrides: Vec<String>,
    /// Whether it needs f16.
    pub f16: bool,
    /// Whether it needs subgroups.
    pub subgroups: bool,
    /// Rows and columns of cooperative matrices that it needs.
    pub cooperative: Option<u32>,
    /// When a plan chooses it.
    pub chosen: Vec<String>,
    /// The cases that list it, or that list it with another weight format.
    pub cases: usize,
}

impl Slot {
    /// Every slot, by operator.
    pub fn all() -> Vec<Self> {
        let of = |(operator, kernels): (&'static str, Vec<&'static Kernel>)| {
            kernels.into_iter().map(move |kernel| Slot { operator, kernel })
        };
        ops::kernels().into_iter().flat_map(of).collect()
    }

    /// The slot of this name, or the only one whose name has all parts of `name`, joined by `+`.
    ///
    /// # Errors
    ///
    /// There is none, or there are several: the message lists names.
    pub fn find(name: &str) -> Result<Self> {
        let (operator, kernel) = ops::kernel_named(name)?;
        Ok(Slot { operator, kernel })
    }

    /// The kernel's name, such as `linear/gemv+epilogue_plain+quads_shared+weight_q4_0`.
    pub fn name(&self) -> String {
        self.kernel.name()
    }

    /// The operator that it does the work of.
    pub fn operator(&self) -> &'static str {
        self.operator
    }

    /// The kernel as one WGSL file that compiles as it is: a header of comments, then what dunlin compiles.
    pub fn wgsl(&self) -> String {
        let d = self.describe();
        let mut lines = vec![
            format!("{}: a kernel of dunlin's operator {}.", d.name, d.operator),
            "This file is complete: change what you like, and keep entry point, bindings and size of Params.".into(),
            String::new(),
        ];
        let mut part = |title: &str, entries: &[String]| {
            for (i, entry) in entries.iter().enumerate() {
                lines.push(format!("{:<10} {entry}", if i == 0 { title } else { "" }));
            }
        };
        part("entry", &[format!("{}, a compute entry point", d.entry)]);
        part("bindings", &d.bindings);
        part("Params", &[format!("{} bytes: {}", d.params_bytes, d.params.join(" "))]);
        part("overrides", &d.overrides);
        part("grid", &grid_text(&d));
        part("needs", &[needs(&d)]);
        part("chosen", &d.chosen);
        part("try", &[format!("dunlin kernel try {} --file THIS.wgsl", d.name)]);
        part("run", &[format!("dunlin run MODEL --kernel {}=THIS.wgsl", d.name)]);
        let header: String = lines.iter().map(|line| format!("// {line}").trim_end().to_string() + "\n").collect();
        header + "\n" + &assemble(self.kernel)
    }

    /// How cases come to the kernel, or to the same one with another weight format where none has its own.
    fn way(&self) -> Option<&'static Way> {
        let plain = |name: &str| -> Vec<String> {
            name.split('+').filter(|part| !part.starts_with("weight_")).map(str::to_string).collect()
        };
        let own = plain(&self.name());
        WAYS.get(&KernelRef(self.kernel)).or_else(|| {
            let alike = WAYS.iter().filter(|(kernel, _)| plain(&kernel.0.name()) == own);
            // The one with the most cases says most.
            let most = alike.max_by_key(|(kernel, way)| (way.cases, way.places.len(), kernel.0.name()));
            most.map(|(_, way)| way)
        })
    }

    /// What a file for this slot has to know.
    pub fn describe(&self) -> SlotDescription {
        let text = assemble(self.kernel);
        let starting = |start: &str| -> Vec<String> {
            text.lines().filter(|line| line.starts_with(start)).map(squeezed).collect()
        };
        let mut bindings = [starting("@group(0)"), starting("@group(1)")].concat();
        bindings.sort();
        let params = text.lines().skip_while(|line| !line.starts_with("struct Params")).skip(1);
        let params = params.take_while(|line| !line.starts_with('}')).map(without_comment).collect();
        let formula: Vec<String> = self
            .kernel
            .source
            .lines()
            .map_while(|line| line.strip_prefix("//"))
            .collect::<Vec<_>>()
            .into_iter()
            .map(|line| line.strip_prefix(' ').unwrap_or(line).to_string())
            .collect();
        let grid = grid(&formula);
        let words: Vec<&str> = grid.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
        let names = self.kernel.constants.iter().map(|(name, _)| *name);
        let grid_overrides = names.filter(|name| words.contains(name)).map(str::to_string).collect();
        let Requires { f16, subgroups, cooperative } = self.kernel.requires;
        let way = self.way();
        SlotDescription {
            name: self.name(),
            operator: self.operator.into(),
            entry: self.kernel.entry.into(),
            bindings,
            params,
            params_bytes: self.kernel.params,
            overrides: starting("override "),
            grid_overrides,
            grid,
            formula,
            f16,
            subgroups,
            cooperative,
            chosen: way.map_or(Vec::new(), Way::sentences),
            cases: way.map_or(0, |way| way.cases),
        }
    }
}

/// The grid, and what changes it, for the header of a file.
pub(crate) fn grid_text(d: &SlotDescription) -> Vec<String> {
    let mut lines = vec![d.grid.clone()];
    if !d.grid_overrides.is_empty() {
        let names = d.grid_overrides.join(", ");
        lines.push(format!("The grid follows the values of {names} that the dispatch sets; --set does not change it."));
    }
    lines.push(
        "A file with `override GRID_X: f32 = 0.5;` gets half as many workgroups along x; GRID_Y, GRID_Z too.".into(),
    );
    lines
}

/// What a slot's kernel needs of a device, in words.
pub(crate) fn needs(d: &SlotDescription) -> String {
    let mut needs = Vec::new();
    if d.f16 {
        needs.push("f16".to_string());
    }
    if d.subgroups {
        needs.push("subgroups".into());
    }
    if let Some(size) = d.cooperative {
        needs.push(format!("cooperative matrices of {size} × {size}"));
    }
    if needs.is_empty() { "nothing beyond WebGPU's defaults".into() } else { needs.join(", ") }
}

/// The sentences of a comment that say what a workgroup or a thread computes.
fn grid(formula: &[String]) -> String {
    let text = formula.join(" ");
    let mut sentences = Vec::new();
    let mut rest = text.as_str();
    while let Some(at) =
        ["One workgroup", "One thread", "A workgroup computes"].iter().filter_map(|s| rest.find(s)).min()
    {
        let from = &rest[at..];
        let end = from.match_indices(". ").map(|(end, _)| end).find(|end| {
            let next = from[end + 2..].trim_start();
            next.starts_with(|c: char| c.is_uppercase()) || next.starts_with("shared/")
        });
        let end = end.map_or(from.len(), |end| end + 1);
        sentences.push(from[..end].trim());
        rest = &from[end..];
    }
    squeezed(&sentences.join(" "))
}

/// How cases come to each kernel.
static WAYS: LazyLock<HashMap<KernelRef, Way>> = LazyLock::new(ways);

/// Whether the rows are few, and the candidate's own words.
type Reason = (bool, &'static str);

/// On a GPU, and on a CPU that plays one.
type Places = [Option<(usize, usize)>; 2];

#[derive(Default)]
struct Way {
    cases: usize,
    /// The kernel's place among the candidates, and their number.
    places: BTreeMap<Reason, Places>,
}

fn ways() -> HashMap<KernelRef, Way> {
    let mut ways: HashMap<KernelRef, Way> = HashMap::new();
    for case in ops::cases().into_iter().flat_map(|(_, cases)| cases) {
        let mut listed = Vec::new();
        for rasteriser in [false, true] {
            for reduced_precision in [true, false] {
                let able = DeviceProfile {
                    rasteriser,
                    reduced_precision,
                    f16: true,
                    subgroups: Some((8, 32)),
                    cooperative: Some(16),
                    ..DeviceProfile::baseline()
                };
                let candidates = case.candidates(&able);
                let all = candidates.len();
                for (at, candidate) in candidates.iter().enumerate() {
                    let way = ways.entry(candidate.kernel()).or_default();
                    let places = way.places.entry((case.family == Family::Few, candidate.why)).or_default();
                    places[usize::from(rasteriser)].get_or_insert((at + 1, all));
                    if !listed.contains(&candidate.kernel()) {
                        listed.push(candidate.kernel());
                        way.cases += 1;
                    }
                }
            }
        }
    }
    ways
}

impl Way {
    fn sentences(&self) -> Vec<String> {
        let sentence = |((few, why), places): (&Reason, &Places)| {
            let family = if *few { "to decode" } else { "for prompts and pictures" };
            let place = |place: Option<(usize, usize)>| match place {
                Some((at, all)) => format!("choice {at} of {all}"),
                None => "no choice".into(),
            };
            let [gpu, soft] = *places;
            if gpu == soft && gpu == Some((1, 1)) {
                return format!("{family}: {why}");
            }
            format!("{family}: {} on a GPU, {} on a CPU rasteriser: {why}", place(gpu), place(soft))
        };
        self.places.iter().map(sentence).collect()
    }
}

/// The shapes of a case, and what else its label tells it from others by, for a table.
#[cfg_attr(any(not(feature = "gpu"), target_family = "wasm"), expect(dead_code, reason = "only a device runs cases"))]
pub(crate) fn shapes(case: &Case) -> String {
    let mut shapes: Vec<String> = case.reads.iter().map(|given| given.ty.to_string().replace(' ', "")).collect();
    if case.rows[0].position > 0 {
        shapes.push(format!("at {}", case.rows[0].position));
    }
    if case.family == Family::Few {
        shapes.push("few".into());
    }
    shapes.extend(case.settings());
    shapes.join(" ")
}

/// A line with single spaces between its words.
fn squeezed(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn without_comment(line: &str) -> String {
    squeezed(line.split("//").next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_says_what_a_file_has_to_know() {
        for d in Slot::all().iter().map(Slot::describe) {
            let name = &d.name;
            assert!(!d.formula.is_empty() && !d.bindings.is_empty() && !d.params.is_empty(), "{name}: {d:?}");
            assert!(!d.grid.is_empty(), "{name}: say at the top of the shader what one workgroup or thread computes");
            assert_eq!(d.params_bytes, 4 * d.params.len(), "{name}: {:?}", d.params);
            assert!(d.cases == 0 || !d.chosen.is_empty(), "{name}");
        }
        let gemv = Slot::find("linear/gemv+epilogue_plain+quads_shared+weight_q4_0").unwrap().describe();
        assert_eq!(gemv.grid_overrides, ["PAIRS", "LANES"]);
        assert!(gemv.chosen[0].contains("choice 1 of 2 on a GPU, choice 2 of 2 on a CPU rasteriser"), "{gemv:?}");
        let error = Slot::find("rms_nrm").unwrap_err().to_string();
        assert!(error.contains("rms_nrm") && error.contains("rms_norm"), "{error}");
    }
}
