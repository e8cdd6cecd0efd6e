//! Drivers that fail, each with a reduced shader in `tests/driver_cases`: whether they still fail in that way.

use std::path::Path;

use crate::compile::{Outcome, Shader, compile};
use crate::devices::{DEVICES, Features};

/// A file of `tests/driver_cases`. Its first lines say `// device: NAME`, `// result: refused|crashed|hung`, and where
/// it takes many pipelines of one process, `// pipelines: COUNT`. Group 0 has storage buffers only.
struct Case {
    name: String,
    device: String,
    result: String,
    pipelines: usize,
    wgsl: String,
}

impl Case {
    fn read(path: &Path) -> Result<Self, String> {
        let at = |what: String| format!("{}: {what}", path.display());
        let wgsl = std::fs::read_to_string(path).map_err(|error| at(error.to_string()))?;
        let find = |key: &str| {
            let prefix = format!("// {key}: ");
            wgsl.lines().find_map(|line| line.strip_prefix(&prefix)).map(str::to_string)
        };
        let need = |key: &str| find(key).ok_or_else(|| at(format!("no line `// {key}: …` says it")));
        let pipelines = find("pipelines").map_or(Ok(1), |count| count.parse());
        Ok(Case {
            name: path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            device: need("device")?,
            result: need("result")?,
            pipelines: pipelines.map_err(|error| at(format!("`// pipelines: …`: {error}")))?,
            wgsl,
        })
    }

    /// How the driver fails now, or `compiled`.
    fn result_now(&self, folder: &Path) -> Result<&'static str, String> {
        let device = DEVICES.iter().find(|device| device.name == self.device);
        let device = device.ok_or_else(|| format!("{}: there is no device {}", self.name, self.device))?;
        let shader = Shader {
            label: self.name.clone(),
            wgsl: self.wgsl.clone(),
            entry: "main".into(),
            constants: Vec::new(),
            buffers: self.wgsl.matches("@group(0)").count(),
        };
        let features = Features::of(device, folder)?;
        let outcomes = compile(device, &features, &vec![&shader; self.pipelines], folder, true)?;
        let failed = outcomes.iter().find(|outcome| !matches!(outcome, Outcome::Compiled { .. }));
        Ok(match failed {
            None => "compiled",
            Some(Outcome::Refused(_)) => "refused",
            Some(Outcome::Crashed(_)) => "crashed",
            Some(Outcome::Hung | Outcome::Compiled { .. }) => "hung",
        })
    }
}

/// The cases whose drivers do something else now, a sentence each.
pub fn replay(cases: &Path, folder: &Path) -> Result<Vec<String>, String> {
    let entries = std::fs::read_dir(cases).map_err(|error| format!("{}: {error}", cases.display()))?;
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "wgsl"));
    paths.sort();
    let mut complaints = Vec::new();
    for path in &paths {
        let case = Case::read(path)?;
        let now = case.result_now(folder)?;
        println!("driver case {} on {}: {now}", case.name, case.device);
        if now != case.result {
            complaints.push(format!(
                "{}: the driver of {} did this: {}, and does that now: {now}; correct tests/driver_cases",
                path.display(),
                case.device,
                case.result
            ));
        }
    }
    Ok(complaints)
}
