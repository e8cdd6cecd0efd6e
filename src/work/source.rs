//! Kernel file + shared modules → one WGSL text.
//!
//! Assembly is concatenation, the shared files after the kernel, so that error lines are those of the file on disk.
//! WGSL declarations may stand in any order; directives (`enable f16;`) go in front, on line 1.

use super::Kernel;
use crate::formats::{DType, formats};

/// A file of `shaders/shared/`. A `variant` is one of several that define the same names.
#[derive(Debug)]
pub struct Module {
    pub name: &'static str,
    pub source: &'static str,
    pub variant: bool,
}

macro_rules! module {
    ($name:expr, $variant:literal) => {
        Module {
            name: $name,
            source: include_str!(concat!("../../shaders/shared/", $name, ".wgsl")),
            variant: $variant,
        }
    };
}

macro_rules! modules {
    ([$($id:ident $name:literal $variant:literal)*] $($format:ident $format_name:ident)*) => {
        $(pub static $id: Module = module!($name, $variant);)*

        /// How each weight format is read, in the order of [`DType::ALL`].
        pub static WEIGHTS: [Module; DType::ALL.len()] =
            [$(module!(concat!("weight_", stringify!($format_name)), true)),*];

        /// Every shared file.
        pub static KERNEL_MODULES: &[&Module] = &[$(&$id,)* $(&WEIGHTS[DType::$format as usize]),*];
    };
}

formats!([modules]
    ACTIVATION "activation" false
    GATE "gate" false
    GEMV "gemv" false
    GEMM "gemm" true
    GEMM_SUBGROUP "gemm_subgroup" true
    QUADS_SHARED "quads_shared" true
    QUADS_SUBGROUP "quads_subgroup" true
    GEMM_COOPERATIVE "gemm_cooperative" true
    COOPERATIVE_8 "cooperative_8" true
    COOPERATIVE_16 "cooperative_16" true
    GEMM_EDGES "gemm_edges" false
    EPILOGUE_PLAIN "epilogue_plain" true
    EPILOGUE_BIAS "epilogue_bias" true
    EPILOGUE_RESIDUAL "epilogue_residual" true
    EPILOGUE_BIAS_RESIDUAL "epilogue_bias_residual" true
    X_ROWS "x_rows" false
    NORM "norm" false
    PLAIN "plain" false
    ROWS "rows" false
    REDUCE "reduce" false
    RMS "rms" false
    WINDOW "window" false
    KV_F32 "kv_f32" true
    KV_F16 "kv_f16" true
    TILE_F32 "tile_f32" true
    TILE_F16 "tile_f16" true
    WEIGHT "weight" false
);

/// The complete WGSL of a kernel.
pub fn assemble(kernel: &Kernel) -> String {
    if kernel.replaces.is_some() {
        return kernel.source.to_string();
    }
    let mut text = String::new();
    if kernel.requires.f16 {
        text += "enable f16; ";
    }
    if kernel.requires.cooperative.is_some() {
        text += "enable wgpu_cooperative_matrix; ";
    }
    text += kernel.source;
    for module in kernel.modules {
        text += &format!("\n// shared/{}.wgsl\n", module.name);
        text += module.source;
    }
    text
}

/// Whether every loop of a text is a `for` that counts a variable of its own to a bound, as our shaders' loops do:
/// `for (var i = …; i < bound; i += …)`, and nothing else in the loop writes `i`. Other texts may not end, or do.
pub fn loops_count(text: &str) -> bool {
    if text.contains("/*") {
        return false;
    }
    let code: String = text.lines().flat_map(|line| [line.split("//").next().unwrap_or_default(), "\n"]).collect();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let word_at = |at: usize, word: &str| {
        code[at..].starts_with(word) && !code[..at].ends_with(is_word) && !code[at + word.len()..].starts_with(is_word)
    };
    let starts = |word: &'static str| code.match_indices(word).map(|(at, _)| at).filter(move |&at| word_at(at, word));
    starts("while").next().is_none()
        && starts("loop").next().is_none()
        && starts("for").all(|at| counts(&code[at + "for".len()..]))
}

/// Whether the loop counts whose text after `for` this is.
fn counts(text: &str) -> bool {
    let Some((header, rest)) = enclosed(text, '(', ')') else { return false };
    let Some((body, _)) = enclosed(rest, '{', '}') else { return false };
    let [init, test, step] = header.split(';').map(str::trim).collect::<Vec<_>>()[..] else { return false };
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let Some(init) = init.strip_prefix("var ") else { return false };
    let name = init.split(|c| !is_word(c)).next().unwrap_or_default();
    let after = |text: &str| text.strip_prefix(name).map(|rest| rest.trim_start().to_string());
    let bounded = after(test).is_some_and(|rest| rest.starts_with('<') || rest.starts_with('>'));
    let steps = ["+=", "-=", "++", "--", "/=", "*=", "<<=", ">>="];
    let counted = after(step).is_some_and(|rest| steps.iter().any(|step| rest.starts_with(step)));
    let written = body.match_indices(name).any(|(at, _)| {
        let (before, after) = (&body[..at], body[at + name.len()..].trim_start());
        let whole = !before.ends_with(is_word) && !body[at + name.len()..].starts_with(is_word);
        let assigned = after.starts_with('=') && !after.starts_with("==")
            || after.find('=').is_some_and(|to| to <= 2 && after[..to].chars().all(|c| "+-*/%&|^<>".contains(c)))
                && !["<=", ">=", "=="].iter().any(|test| after.starts_with(test))
            || after.starts_with("++")
            || after.starts_with("--");
        whole && (assigned || before.trim_end().ends_with('&'))
    });
    !name.is_empty() && bounded && counted && !written
}

/// What stands between the first bracket and its partner, and what follows.
fn enclosed(text: &str, open: char, close: char) -> Option<(&str, &str)> {
    let inside = text.trim_start().strip_prefix(open)?;
    let mut depth = 1;
    for (at, c) in inside.char_indices() {
        depth += i32::from(c == open) - i32::from(c == close);
        if depth == 0 {
            return Some((&inside[..at], &inside[at + 1..]));
        }
    }
    None
}

#[test]
fn loops_that_count_are_told_from_others() {
    let counted = |text: &str| loops_count(&format!("fn f() {{ {text} }}"));
    for text in [
        "",
        "for (var i = 0u; i < n; i++) { a[i] = 1.0; }",
        "for(var i = t; i<n; i += 64u) { if i == 3u { b = i; } } // while (true) {}",
        "for (var half = 32u; half > 0u; half /= 2u) { for (var i = 0; i <= half; i++) { x += i; } }",
    ] {
        assert!(counted(text), "{text}");
    }
    for text in [
        "while x { }",
        "loop { break; }",
        "for (;;) { }",
        "for (var i = 0u; i < n; ) { i++; }",
        "for (var i = 0u; true; i++) { }",
        "for (var i = 0u; i < n; i++) { i = 0u; }",
        "for (var i = 0u; i < n; i++) { i -= 1u; }",
        "for (var i = 0u; i < n; i++) { g(&i); }",
        "for (var i = 0u; i < n; j++) { }",
        "/* for */",
    ] {
        assert!(!counted(text), "{text}");
    }
}
