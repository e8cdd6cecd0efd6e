//! Numbers and text for people and for markup.

/// Text inside markup: no character of it begins a tag, ends an attribute or names an entity.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            // XML allows no other control characters.
            c if c.is_control() && !"\n\t".contains(c) => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// 12.3 ms: nanoseconds with three digits and a unit.
pub fn time(ns: f64) -> String {
    let (value, unit) = match ns {
        ns if ns < 1e3 => (ns, "ns"),
        ns if ns < 1e6 => (ns / 1e3, "µs"),
        ns if ns < 1e9 => (ns / 1e6, "ms"),
        ns => (ns / 1e9, "s"),
    };
    format!("{} {unit}", digits(value))
}

/// 12.3 G: a number with three digits and the prefix of its unit.
pub fn scaled(value: f64) -> String {
    let (value, prefix) = match value {
        v if v < 1e3 => (v, ""),
        v if v < 1e6 => (v / 1e3, "k"),
        v if v < 1e9 => (v / 1e6, "M"),
        v if v < 1e12 => (v / 1e9, "G"),
        v => (v / 1e12, "T"),
    };
    format!("{} {prefix}", digits(value))
}

/// Three digits, or all of those before the point.
pub fn digits(value: f64) -> String {
    match value {
        0.0 => "0".into(),
        v if v < 9.995 => format!("{v:.2}"),
        v if v < 99.95 => format!("{v:.1}"),
        v => format!("{v:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            (time(12.0), time(1234.0), time(99_960_000.0)),
            ("12.0 ns".into(), "1.23 µs".into(), "100 ms".into())
        );
        assert_eq!((scaled(1.5e10), scaled(0.0), scaled(999.0)), ("15.0 G".into(), "0 ".into(), "999 ".into()));
    }

    #[test]
    fn markup_is_text() {
        assert_eq!(escaped("<a b='\"&'>\u{1}x"), "&lt;a b=&#39;&quot;&amp;&#39;&gt; x");
    }
}
