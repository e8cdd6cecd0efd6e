//! `dunlin check`: whether an adapter computes what the CPU path computes, operator by operator.

use std::collections::BTreeMap;
use std::io::Write;

use clap::Args;

use super::kernel::Own;
use super::progress::Bar;
use super::{Failure, sentence};
use crate::error::{Error, Result};
use crate::generate::{Check as Found, Device, OperatorCheck};

#[derive(Args)]
pub struct Check {
    /// gpu, a backend, an index of `dunlin info`, or [BACKEND:]NAME-PART [default: each adapter in turn]
    #[arg(long, value_name = "D")]
    device: Option<String>,
    /// Only this operator; may be repeated
    #[arg(long = "operator", value_name = "NAME")]
    operators: Vec<String>,
    #[command(flatten)]
    own: Own,
    /// One JSON object for each adapter
    #[arg(long)]
    json: bool,
}

/// The number of wrong cases of an operator that are listed one by one.
const TOLD: usize = 5;

impl Check {
    pub fn run(self) -> Result<(), Failure> {
        let operators: Vec<&str> = self.operators.iter().map(String::as_str).collect();
        let own = self.own.read()?;
        let mut out = std::io::stdout().lock();
        let mut wrong = Vec::new();
        let mut uses: BTreeMap<(String, String), usize> = BTreeMap::new();
        for (device, unusable) in self.devices()? {
            if let Some(why) = unusable {
                if self.json {
                    writeln!(out, "{}", serde_json::json!({"device": device, "skipped": why}))?;
                } else {
                    writeln!(out, "{device}\nskipped: it cannot run models: {why}\n")?;
                }
                continue;
            }
            let bar = Bar::items("checking");
            let found = Device::parse(&device)?.check_with(&operators, &own, |done, all| bar.set(done, all));
            bar.clear();
            match found {
                // Other adapters may still be usable.
                Err(error) if self.device.is_none() => wrong.push(sentence(&error)),
                found => {
                    let found = found?;
                    if self.json {
                        serde_json::to_writer(&mut out, &found).map_err(std::io::Error::from)?;
                        writeln!(out)?;
                    } else {
                        out.write_all(table(&found).as_bytes())?;
                    }
                    out.flush()?;
                    wrong.extend((found.wrong() > 0).then(|| advice(&found)));
                    for own in found.own_kernels {
                        *uses.entry((own.file, own.kernel)).or_default() += own.uses;
                    }
                }
            }
        }
        wrong.extend(uses.iter().filter(|(_, uses)| **uses == 0).map(|((file, kernel), _)| unused(file, kernel)));
        if wrong.is_empty() { Ok(()) } else { Err(Error::device(wrong.join("; ")).into()) }
    }

    /// The adapters to check, each by the argument that names it, or by its name with the reason why it cannot run
    /// models.
    fn devices(&self) -> Result<Vec<(String, Option<String>)>> {
        if let Some(device) = &self.device {
            return Ok(vec![(device.clone(), None)]);
        }
        let adapters = Device::list().into_iter().map(|adapter| match adapter.unusable() {
            None => (adapter.index().to_string(), None),
            Some(why) => (format!("{}:{}", adapter.backend(), adapter.name()), Some(why.to_string())),
        });
        let devices: Vec<_> = adapters.collect();
        if devices.iter().all(|(_, unusable)| unusable.is_some()) {
            return Err(Error::device("no adapter was found that can run models, so there is nothing to check"));
        }
        Ok(devices)
    }
}

/// A summary of the faults, and how to run without the faulty kernels.
fn advice(found: &Found) -> String {
    let wrong = |precision| found.operators.iter().flat_map(|o| &o.wrong).any(|case| case.precision == precision);
    let what = format!("{} of {} cases are wrong on {}", found.wrong(), found.cases(), found.device);
    let own: Vec<&str> = found.own_kernels.iter().filter(|own| own.uses > 0).map(|own| own.file.as_str()).collect();
    if !own.is_empty() {
        return format!("{what} with {}: `dunlin kernel try` says whether such a file is right", own.join(", "));
    }
    let instead = if wrong("f32") { "--device cpu, or another adapter," } else { "--precision f32" };
    format!("{what}: {instead} avoids them")
}

/// A file that no case ran was not checked.
fn unused(file: &str, kernel: &str) -> String {
    format!(
        "{file} ran in no case, because none of them chooses {kernel}: `dunlin kernel try {kernel} --file {file}` does"
    )
}

fn table(found: &Found) -> String {
    let names = found.operators.iter().map(|operator| operator.operator.len());
    let width = names.max().unwrap_or(0).max("operator".len());
    let mut text = format!("{}\n{:width$}  cases  wrong  error in f32     in f16\n", found.device, "operator");
    for operator in &found.operators {
        let OperatorCheck { operator: name, cases, worst_f32, worst_f16, wrong } = operator;
        let (full, half, wrong) = (share(*worst_f32), worst_f16.map_or("–".into(), share), wrong.len());
        text += &format!("{name:width$}  {cases:>5}  {wrong:>5}  {full:>12}  {half:>9}\n");
    }
    text += "errors: the largest of each operator, in its tolerance\n";
    for operator in &found.operators {
        for wrong in operator.wrong.iter().take(TOLD) {
            let what = match &wrong.failure {
                Some(failure) => failure.replace('\n', " "),
                None if wrong.error.is_infinite() => "not a number, or another id".into(),
                None => format!("{} of its tolerance", share(wrong.error)),
            };
            text += &format!("wrong in {}: {}: {what}\n", wrong.precision, wrong.case);
        }
        if operator.wrong.len() > TOLD {
            text += &format!("and {} more of {}\n", operator.wrong.len() - TOLD, operator.operator);
        }
    }
    for own in &found.own_kernels {
        text += &format!("{} ran in the place of {} in {} cases\n", own.file, own.kernel, own.uses);
    }
    if let Some(why) = &found.stopped {
        text += &format!("stopped, the device does not open again: {why}\n");
    }
    if found.wrong() == 0 {
        text += &format!("all {} cases are right\n", found.cases());
    }
    text + "\n"
}

fn share(error: f64) -> String {
    match error {
        error if error.is_infinite() => "∞".into(),
        0.0 => "0".into(),
        error if error < 0.01 => "< 1 %".into(),
        error if error < 10.0 => format!("{:.0} %", 100.0 * error),
        error => format!("× {error:.0e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::WrongCase;
    use crate::kernel::OwnKernelUse;

    #[test]
    fn what_is_wrong_is_told() {
        let wrong = |error: f64, failure: Option<&str>| WrongCase {
            case: "Add (f32[3], f32[3]) at 0".into(),
            precision: "f16",
            error,
            failure: failure.map(str::to_string),
        };
        let add = OperatorCheck {
            operator: "add".into(),
            cases: 9,
            worst_f32: 0.25,
            worst_f16: Some(f64::INFINITY),
            wrong: vec![
                wrong(4.0, None),
                wrong(f64::INFINITY, None),
                wrong(f64::INFINITY, Some("the device\nis lost")),
            ],
        };
        let mut found =
            Found { device: "gl:some GPU".into(), operators: vec![add], stopped: None, own_kernels: Vec::new() };
        let expected = "gl:some GPU\n\
                        operator  cases  wrong  error in f32     in f16\n\
                        add           9      3          25 %          ∞\n\
                        errors: the largest of each operator, in its tolerance\n\
                        wrong in f16: Add (f32[3], f32[3]) at 0: 400 % of its tolerance\n\
                        wrong in f16: Add (f32[3], f32[3]) at 0: not a number, or another id\n\
                        wrong in f16: Add (f32[3], f32[3]) at 0: the device is lost\n\n";
        assert_eq!(table(&found), expected);
        assert_eq!(advice(&found), "3 of 9 cases are wrong on gl:some GPU: --precision f32 avoids them");
        found.operators[0].wrong = vec![WrongCase { precision: "f32", ..wrong(4.0, None) }; 7];
        assert!(advice(&found).ends_with("--device cpu, or another adapter, avoids them"));
        assert!(table(&found).contains("and 2 more of add\n"));
        found.own_kernels = vec![OwnKernelUse { kernel: "add".into(), file: "mine.wgsl".into(), uses: 2 }];
        assert!(advice(&found).contains("wrong on gl:some GPU with mine.wgsl: `dunlin kernel try`"));
        found.own_kernels.clear();
        found.operators[0] = OperatorCheck { operator: "add".into(), cases: 5, ..OperatorCheck::default() };
        assert!(table(&found).contains("add           5      0             0          –\n"));
        assert!(table(&found).ends_with("all 5 cases are right\n\n"));
    }
}
