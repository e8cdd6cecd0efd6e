//! The figures of every kernel on every device, as `benches/phones.json` and `benches/PHONES.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use crate::devices::{DEVICES, Device, Features, Maker};
use crate::figures;

/// What a driver says of a kernel, under our names.
pub type Figures = Map<String, Value>;

/// What a run found.
pub struct Report {
    /// The version of Mesa's packages.
    pub mesa: String,
    /// In the order of [`DEVICES`].
    pub devices: Vec<(&'static Device, Features)>,
    /// By the kernel's label.
    pub kernels: BTreeMap<String, Row>,
}

/// A kernel with its constants, on every device where a plan chooses it.
#[derive(Default)]
pub struct Row {
    pub operator: String,
    pub models: BTreeSet<String>,
    pub passes: BTreeSet<&'static str>,
    /// By the device's name.
    pub figures: BTreeMap<&'static str, Figures>,
}

impl Report {
    /// One line a device, and one a kernel on a device, so that a change is a line of a diff.
    pub fn json(&self) -> String {
        let list = |lines: Vec<String>| lines.join(",\n");
        let devices = self.devices.iter().map(|(device, features)| {
            let profile = features.profile();
            json!({
                "device": device.name,
                "maker": format!("{:?}", device.maker),
                "id": device.id,
                "driver": profile.driver,
                "gpu": profile.name,
                "f16": profile.f16,
                "subgroups": profile.subgroups,
                "cooperative": profile.cooperative,
                "robust_buffer_access2": features.robust(),
                "max_binding_bytes": profile.max_binding,
                "max_invocations": profile.max_invocations,
                "workgroup_memory_bytes": profile.workgroup_memory,
            })
            .to_string()
        });
        let kernels = self.kernels.iter().map(|(label, row)| {
            json!({ "kernel": label, "operator": row.operator, "passes": row.passes, "models": row.models }).to_string()
        });
        let makers = [Maker::Adreno, Maker::Mali, Maker::Amd, Maker::Nvidia, Maker::Apple].map(|maker| {
            let meanings: Map<String, Value> =
                figures::of(maker).iter().map(|figure| (figure.name.into(), figure.meaning.into())).collect();
            json!({ "maker": format!("{maker:?}"), "figures": meanings }).to_string()
        });
        format!(
            "{{\n\"mesa\": {},\n\"naga\": {},\n\"meanings\": [\n{}\n],\n\"devices\": [\n{}\n],\n\"kernels\": [\n{}\n],\n\"figures\": [\n{}\n]\n}}\n",
            json!(self.mesa),
            json!(naga()),
            list(makers.into()),
            list(devices.collect()),
            list(kernels.collect()),
            list(self.figures().map(|(label, device, figures)| line(label, device, figures)).collect()),
        )
    }

    /// Kernel, device and figures: by kernel, then in the order of the devices.
    pub fn figures(&self) -> impl Iterator<Item = (&str, &'static str, &Figures)> {
        self.kernels.iter().flat_map(|(label, row)| {
            let of = |device: &Device| row.figures.get_key_value(device.name);
            DEVICES.iter().filter_map(of).map(move |(device, figures)| (label.as_str(), *device, figures))
        })
    }

    pub fn markdown(&self) -> String {
        let mut text = String::from(HEAD);
        let _ = writeln!(text, "\nMesa {}, naga {}.\n", self.mesa, naga());
        text += figures::LEGEND;
        text += "\n## The GPUs, as wgpu offers them\n\n";
        text += "A GPU without robustBufferAccess2 gets shaders that keep indices inside buffers themselves.\n\n";
        text += "| GPU | driver says | f16 | subgroups | matrices | robustBufferAccess2 | largest binding | pipelines | that spill | that fail |\n";
        text += "|---|---|---|---|---|---|---|---|---|---|\n";
        for (device, features) in &self.devices {
            let profile = features.profile();
            let own: Vec<&Figures> = self.kernels.values().filter_map(|row| row.figures.get(device.name)).collect();
            let yes = |yes| if yes { "yes" } else { "no" };
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} MiB | {} | {} | {} |",
                device.name,
                profile.name,
                yes(profile.f16),
                profile.subgroups.map_or("no".into(), |(least, most)| format!("{least} to {most}")),
                profile.cooperative.map_or("no".into(), |size| format!("{size}×{size}")),
                yes(features.robust()),
                profile.max_binding >> 20,
                own.len(),
                own.iter().filter(|figures| figures::spills(figures).is_some()).count(),
                own.iter().filter(|figures| figures::failure(figures).is_some()).count(),
            );
        }
        let operators: BTreeSet<&str> = self.kernels.values().map(|row| row.operator.as_str()).collect();
        for operator in operators {
            let names: Vec<&str> = self.devices.iter().map(|(device, _)| device.name).collect();
            let _ = write!(text, "\n## {operator}\n\n| kernel | passes | {} |\n", names.join(" | "));
            let _ = writeln!(text, "|---|---|{}", "---|".repeat(names.len()));
            for (label, row) in self.kernels.iter().filter(|(_, row)| row.operator == operator) {
                let passes: Vec<&str> = row.passes.iter().copied().collect();
                let cells = self.devices.iter().map(|(device, _)| {
                    row.figures.get(device.name).map_or("–".into(), |figures| figures::cell(device.maker, figures))
                });
                let cells: Vec<String> = cells.collect();
                let _ = writeln!(text, "| {label} | {} | {} |", passes.join(", "), cells.join(" | "));
            }
        }
        text
    }
}

const HEAD: &str = "\
# What the kernels become on phones

Every pipeline that a plan chooses, as Mesa's compilers make it: instructions, registers, occupancy, cycles, spills. The
models are the golden ones in their own formats, and MobileLLM-125M, SmolLM2-135M and MobileVLM V2-1.7B in every weight
format; the passes are a token of one sequence (decode), of two and of eight (few), a prompt and a picture (vision).

**These are Mesa's compilers, not Qualcomm's, Arm's, NVIDIA's or Apple's: a proxy, and the best that can be had without
the GPUs.** No kernel runs here, so no time is measured. Cycles and stalls are the compilers' estimates for one pass through
the code, in which a loop counts once: they compare two versions of one kernel, not two kernels.

`scripts/phones.sh` sets the compilers up, and `cargo bench --bench phones` writes this file and `phones.json`, which has
the same figures and more, one line a pipeline and device. `.ci/run` compares a part of them, and
`cargo bench --bench phones -- --check` all. “–”: no plan chooses the kernel on that GPU.
";

/// A line of `figures` in the JSON.
pub fn line(label: &str, device: &str, figures: &Figures) -> String {
    let mut line = Map::new();
    line.insert("kernel".into(), label.into());
    line.insert("device".into(), device.into());
    line.extend(figures.clone());
    Value::Object(line).to_string()
}

/// The version in Cargo.lock.
fn naga() -> &'static str {
    let lock = include_str!("../../Cargo.lock");
    let mut lines = lock.lines().skip_while(|line| *line != "name = \"naga\"");
    let version = lines.nth(1).and_then(|line| line.strip_prefix("version = \""));
    version.and_then(|version| version.strip_suffix('"')).expect("Cargo.lock has naga with its version")
}
