//! A driver's statistics under one name each, and as a cell of a table.

use serde_json::{Map, Value};

use crate::compile::Outcome;
use crate::devices::Maker;

/// Our name of a figure, the driver's names whose numbers are added, and what it is.
pub struct Figure {
    pub name: &'static str,
    from: &'static [&'static str],
    pub meaning: &'static str,
}

const fn figure(name: &'static str, from: &'static [&'static str], meaning: &'static str) -> Figure {
    Figure { name, from, meaning }
}

pub const ADRENO: &[Figure] = &[
    figure("instructions", &["Instruction Count"], "instructions"),
    figure("nops", &["NOPs Count"], "of them those that only wait"),
    figure("registers_vec4", &["Registers used"], "registers of four 32-bit words a thread"),
    figure("waves", &["Max Waves Per Core"], "waves that a core can hold"),
    figure(
        "stalls_ss_cycles",
        &["Estimated cycles stalled on SS"],
        "estimated cycles that wait for shared memory and special functions",
    ),
    figure("stalls_sy_cycles", &["Estimated cycles stalled on SY"], "estimated cycles that wait for memory"),
    figure("spills", &["STP Count"], "stores to private memory"),
    figure("fills", &["LDP Count"], "loads from private memory"),
];

pub const MALI: &[Figure] = &[
    figure("instructions", &["Instructions"], "instructions"),
    figure("cycles", &["Cycles"], "cycles of the busiest unit, each instruction counted once"),
    figure("load_store_cycles", &["Load/store"], "cycles of the load/store unit"),
    figure("registers", &["Registers used"], "32-bit registers a thread, 64 at most"),
    figure(
        "occupancy",
        &["Threads"],
        "2 where a core is full of threads, 1 where it is half full: more than 32 registers",
    ),
    figure("spills", &["Spills"], "stores of registers"),
    figure("fills", &["Fills"], "loads of registers"),
];

pub const AMD: &[Figure] = &[
    figure("instructions", &["Instructions"], "instructions"),
    figure("registers", &["VGPRs"], "vector registers a thread"),
    figure("waves", &["Subgroups per SIMD"], "waves that a SIMD can hold"),
    figure("latency_cycles", &["Latency"], "estimated cycles of one wave"),
    figure("throughput_cycles", &["Inverse Throughput"], "estimated cycles of one wave among many"),
    figure("spills", &["Spilled VGPRs", "Spilled SGPRs"], "registers that are kept elsewhere"),
    figure("scratch_bytes", &["Scratch size"], "private memory of a wave"),
];

pub const NVIDIA: &[Figure] = &[
    figure("instructions", &["Instruction count"], "instructions"),
    figure("registers", &["Number of GPRs"], "registers a thread"),
    figure("waves", &["Max warps/SM"], "warps that a multiprocessor can hold"),
    figure("cycles", &["Static cycle count"], "estimated cycles of one warp"),
    figure("spills", &["Spills to memory"], "stores of registers"),
    figure("fills", &["Fills from memory"], "loads of registers"),
];

pub const APPLE: &[Figure] = &[
    figure("instructions", &["Instructions"], "instructions"),
    figure("cycles", &["ALU"], "cycles of the arithmetic unit"),
    figure("registers_16bit", &["GPRs"], "16-bit registers a thread"),
    figure("threads", &["Threads"], "threads that a core can hold"),
    figure("spills", &["Spills"], "stores of registers"),
    figure("fills", &["Fills"], "loads of registers"),
    figure("scratch_bytes", &["Scratch"], "private memory of a thread"),
];

/// The figures of a maker's driver.
pub fn of(maker: Maker) -> &'static [Figure] {
    match maker {
        Maker::Adreno => ADRENO,
        Maker::Mali => MALI,
        Maker::Amd => AMD,
        Maker::Nvidia => NVIDIA,
        Maker::Apple => APPLE,
    }
}

/// What a shader became, under our names.
///
/// # Errors
///
/// The driver does not tell a figure any more.
pub fn figures(maker: Maker, outcome: &Outcome) -> Result<Map<String, Value>, String> {
    let mut figures = Map::new();
    match outcome {
        Outcome::Compiled { subgroup, statistics } => {
            figures.insert("subgroup".into(), (*subgroup).into());
            for figure in of(maker) {
                let mut sum = 0.0;
                for name in figure.from {
                    let number = statistics.get(*name).and_then(Value::as_f64);
                    sum += number.ok_or_else(|| {
                        let known: Vec<&str> = statistics.keys().map(String::as_str).collect();
                        format!("the driver tells no `{name}`, but {}", known.join(", "))
                    })?;
                }
                let whole = sum.fract() == 0.0;
                figures.insert(figure.name.into(), if whole { (sum as u64).into() } else { sum.into() });
            }
        }
        Outcome::Refused(why) => _ = figures.insert("refused".into(), why.as_str().into()),
        Outcome::Crashed(why) => _ = figures.insert("crashed".into(), why.as_str().into()),
        Outcome::Hung => _ = figures.insert("hung".into(), true.into()),
    }
    Ok(figures)
}

/// The failure of a driver, if it failed.
pub fn failure(figures: &Map<String, Value>) -> Option<&'static str> {
    ["refused", "crashed", "hung"].into_iter().find(|name| figures.contains_key(*name))
}

/// Spills and fills, or `None` if all registers suffice.
pub fn spills(figures: &Map<String, Value>) -> Option<(u64, u64)> {
    let number = |name| figures.get(name).and_then(Value::as_u64).unwrap_or_default();
    let spilled = (number("spills"), number("fills"));
    (spilled != (0, 0)).then_some(spilled)
}

/// A cell of the tables: its parts are those of [`legend`].
pub fn cell(maker: Maker, figures: &Map<String, Value>) -> String {
    if let Some(failure) = failure(figures) {
        return format!("**{failure}**");
    }
    let number = |name: &str| figures.get(name).map_or(String::from("?"), Value::to_string);
    let mut cell = match maker {
        Maker::Adreno => format!(
            "{}/{} r{} w{} s{}+{}",
            number("instructions"),
            number("nops"),
            number("registers_vec4"),
            number("waves"),
            number("stalls_ss_cycles"),
            number("stalls_sy_cycles")
        ),
        Maker::Mali => format!(
            "{} c{} r{} T{}",
            number("instructions"),
            number("cycles"),
            number("registers"),
            number("occupancy")
        ),
        Maker::Amd => format!(
            "{} c{} r{} w{}",
            number("instructions"),
            number("throughput_cycles"),
            number("registers"),
            number("waves")
        ),
        Maker::Nvidia => {
            format!("{} c{} r{} w{}", number("instructions"), number("cycles"), number("registers"), number("waves"))
        }
        Maker::Apple => format!(
            "{} c{} r{} t{}",
            number("instructions"),
            number("cycles"),
            number("registers_16bit"),
            number("threads")
        ),
    };
    if let Some((spills, fills)) = spills(figures) {
        cell += &format!(" **{spills}/{fills}**");
    }
    cell
}

/// What the parts of a maker's cells are, for the head of the tables.
pub const LEGEND: &str = "\
| GPU | a cell |
|---|---|
| Adreno | instructions/nops · r: registers of four words · w: waves that a core holds · s: estimated cycles that wait for \
shared memory + for memory |
| Mali | instructions · c: cycles of the busiest unit · r: registers, 64 at most · T2: full of threads, T1: half full |
| RDNA | instructions · c: estimated cycles of a wave among many · r: vector registers · w: waves that a SIMD holds |
| NVIDIA | instructions · c: estimated cycles of a warp · r: registers · w: warps that a multiprocessor holds |
| Apple | instructions · c: cycles of the arithmetic unit · r: 16-bit registers · t: threads that a core holds |

**51/75** at the end of a cell: 51 spills and 75 fills of registers (Adreno: stores to and loads from private memory).
";
