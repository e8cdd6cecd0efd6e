//! How `--refuse`, `--kernel` and `inspect --kernel` find kernels by their names.

use crate::error::{Error, Result};
use crate::work::Kernel;

/// Names that a message lists.
const MOST_LISTED: usize = 6;

/// The kernel of this name; else those whose names have all the parts of `wanted` ([`Kernel::is_named`]), sorted by name.
/// There is at least one.
///
/// # Errors
///
/// There is none: the message lists the nearest names.
pub fn find(kernels: impl IntoIterator<Item = &'static Kernel>, wanted: &str) -> Result<Vec<&'static Kernel>> {
    let mut kernels: Vec<(String, &Kernel)> = kernels.into_iter().map(|kernel| (kernel.name(), kernel)).collect();
    kernels.sort_by(|(a, _), (b, _)| a.cmp(b));
    kernels.dedup_by(|(a, _), (b, _)| a == b);
    if let Some((_, kernel)) = kernels.iter().find(|(name, _)| name == wanted) {
        return Ok(vec![kernel]);
    }
    let found: Vec<&Kernel> =
        kernels.iter().map(|(_, kernel)| *kernel).filter(|kernel| kernel.is_named(wanted)).collect();
    if !found.is_empty() {
        return Ok(found);
    }
    kernels.sort_by_key(|(name, _)| (distance(wanted, name), name.len()));
    let nearest: Vec<String> = kernels.into_iter().map(|(name, _)| name).collect();
    Err(Error::unsupported(format!(
        "no kernel is called `{wanted}` or has these parts in its name (`+` joins parts); `dunlin inspect MODEL --plan` shows \
         those in use; the nearest names are{}",
        list(&nearest)
    )))
}

/// The only kernel that [`find`] finds.
///
/// # Errors
///
/// There is none, or there are several: the message lists them.
pub fn one(kernels: impl IntoIterator<Item = &'static Kernel>, wanted: &str) -> Result<&'static Kernel> {
    match find(kernels, wanted)?[..] {
        [kernel] => Ok(kernel),
        ref several => {
            let names: Vec<String> = several.iter().map(|kernel| kernel.name()).collect();
            let count = names.len();
            Err(Error::unsupported(format!("{count} kernels are called `{wanted}`; name one:{}", list(&names))))
        }
    }
}

/// The first names as indented lines, and how many more there are.
pub fn list(names: &[String]) -> String {
    let shown: String = names.iter().take(MOST_LISTED).map(|name| format!("\n  {name}")).collect();
    match names.len().saturating_sub(MOST_LISTED) {
        0 => shown,
        more => format!("{shown}\n  and {more} more"),
    }
}

/// The fewest letters to insert, delete or replace that turn `wanted` into some stretch of `name` (Sellers' algorithm).
fn distance(wanted: &str, name: &str) -> usize {
    let mut row = vec![0; name.len() + 1];
    for (i, letter) in wanted.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, other) in name.bytes().enumerate() {
            let replaced = diagonal + usize::from(letter != other);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row.into_iter().min().unwrap_or(0)
}

#[test]
fn letters_that_differ_are_counted() {
    assert_eq!(distance("gemv", "linear/gemv+weight_f16"), 0);
    assert_eq!(distance("gemw", "linear/gemv"), 1);
    assert_eq!(distance("gmv", "linear/gemv"), 1);
    assert_eq!(distance("gemmv", "linear/gemv"), 1);
    assert_eq!(distance("ab", ""), 2);
    assert_eq!(distance("", "name"), 0);
}
