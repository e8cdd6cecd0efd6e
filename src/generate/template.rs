//! Chat templates: messages → the text that a model was trained on.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, ErrorKind, Value, context};
use serde_json::Value as Json;

use super::tokenizer::Tokenizer;
use crate::checkpoint::text::TextFiles;
use crate::clock;
use crate::error::{Error, Result};

/// A model's chat template, in Jinja as Hugging Face runs it.
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// `bos_token`, `eos_token` and so on, which templates print.
    special: Vec<(String, String)>,
}

/// Far more steps than any template needs for a full context; they take a second at most.
const FUEL: u64 = 20_000_000;

impl ChatTemplate {
    /// The template of a model; base models have none.
    pub fn new(files: &TextFiles, tokenizer: &Tokenizer) -> Result<Option<Self>> {
        let named = files.templates.iter().find(|(name, _)| name == "default").or(files.templates.first());
        let Some((_, source)) = named else { return Ok(None) };
        let mut special = files.special.clone();
        for (key, id) in [("bos_token", tokenizer.bos()), ("eos_token", tokenizer.eos())] {
            if files.special(key).is_none() {
                special.extend(id.and_then(|id| tokenizer.token(id)).map(|text| (key.to_owned(), text)));
            }
        }
        let template = Self::compile(source, special).map_err(|error| {
            Error::checkpoint(format!("the chat template beside {} is malformed", files.source.display()))
                .caused_by(error)
        })?;
        Ok(Some(template))
    }

    fn compile(source: &str, special: Vec<(String, String)>) -> Result<Self, minijinja::Error> {
        let mut environment = Environment::new();
        environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", to_json);
        environment.add_function("raise_exception", |message: String| -> Result<String, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", |format: &str| {
            let now = clock::SystemTime::now().duration_since(clock::UNIX_EPOCH);
            strftime(format, now.map_or(0, |now| now.as_secs()))
        });
        environment.add_template_owned("chat", without_generation_tags(source))?;
        Ok(Self { environment, special })
    }

    /// The text of a chat. `generation` asks for the words after which the assistant speaks.
    pub fn render(&self, messages: &[Json], generation: bool) -> Result<String> {
        let failed = |error: minijinja::Error| {
            let reason = error.detail().map(str::to_owned).unwrap_or_else(|| error.kind().to_string());
            Error::prompt(format!("the model's chat template does not take these messages: {reason}")).caused_by(error)
        };
        let template = self.environment.get_template("chat").map_err(failed)?;
        let special = Value::from_pairs(self.special.iter().map(|(key, text)| (key.clone(), text.clone())));
        let context = context! {
            messages => Value::from(Serde(messages)),
            add_generation_prompt => generation,
            tools => (),
            documents => (),
            ..special
        };
        template.render(context).map_err(failed)
    }
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate").field("special", &self.special).finish_non_exhaustive()
    }
}

/// Templates mark the assistant's words for training with `{% generation %}`. Here it is a block that always runs.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let Some(end) = rest[at..].find("%}").map(|end| at + end) else { break };
        let inside = &rest[at + 2..end];
        let tag = match inside.trim_matches(['-', '+', ' ', '\n', '\t']) {
            "generation" => inside.replace("generation", "if true"),
            "endgeneration" => inside.replace("endgeneration", "endif"),
            _ => inside.to_owned(),
        };
        out.extend([&rest[..at + 2], &tag, "%}"]);
        rest = &rest[end + 2..];
    }
    out + rest
}

/// JSON as Python writes it, which models were trained on: spaces after separators, no HTML escapes.
fn to_json(value: &Value, options: Kwargs) -> Result<String, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    let failed = |error| {
        minijinja::Error::new(ErrorKind::InvalidOperation, "a value cannot be written as JSON").with_source(error)
    };
    let mut value = serde_json::to_value(value).map_err(failed)?;
    if options.get::<Option<bool>>("sort_keys")? == Some(true) {
        value.sort_all_objects();
    }
    let mut out = Vec::new();
    match indent {
        Some(indent) => {
            let indent = " ".repeat(indent);
            let formatter = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
            serde::Serialize::serialize(&value, &mut serde_json::Serializer::with_formatter(&mut out, formatter))
        }
        None => serde::Serialize::serialize(&value, &mut serde_json::Serializer::with_formatter(&mut out, Spaced)),
    }
    .map_err(failed)?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

/// `{"a": 1, "b": [2, 3]}`
struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W) -> std::io::Result<()> {
        out.write_all(b": ")
    }
}

/// The date and time in UTC, `seconds` after 1970. Replaces the directives that chat templates use, and leaves others.
fn strftime(format: &str, seconds: u64) -> String {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
    let days = seconds / 86400;
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let (mut year, mut day) = (1970, days);
    while day >= 365 + u64::from(leap(year)) {
        day -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while day >= lengths[month] {
        day -= lengths[month];
        month += 1;
    }
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let weekday = DAYS[(days % 7) as usize];

    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(char) = chars.next() {
        if char != '%' {
            out.push(char);
            continue;
        }
        match chars.next() {
            Some('Y') => out += &year.to_string(),
            Some('y') => out += &format!("{:02}", year % 100),
            Some('m') => out += &format!("{:02}", month + 1),
            Some('d') => out += &format!("{:02}", day + 1),
            Some('H') => out += &format!("{hour:02}"),
            Some('M') => out += &format!("{minute:02}"),
            Some('S') => out += &format!("{second:02}"),
            Some('B') => out += MONTHS[month],
            Some('b') => out += &MONTHS[month][..3],
            Some('A') => out += weekday,
            Some('a') => out += &weekday[..3],
            Some('%') => out.push('%'),
            Some(other) => out.extend(['%', other]),
            None => out.push('%'),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(template: &str, messages: Json, generation: bool) -> Result<String> {
        let special = vec![("bos_token".to_owned(), "<s>".to_owned())];
        let template =
            ChatTemplate::compile(template, special).map_err(|error| Error::checkpoint(error.to_string()))?;
        template.render(messages.as_array().unwrap(), generation)
    }

    #[test]
    fn the_golden_template_renders_the_golden_text() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/smollm2_chat.json");
        let golden: Json = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let template = golden["template"].as_str().unwrap();
        for case in golden["rendered"].as_array().unwrap() {
            let text = render(template, case["messages"].clone(), case["add_generation_prompt"].as_bool().unwrap());
            assert_eq!(text.unwrap(), case["text"].as_str().unwrap());
        }
    }

    /// The templates of the model families, with the results of `transformers`.
    #[test]
    fn templates_of_the_newer_families_give_the_reference_texts() {
        let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let mut count = 0;
        for case in ["qwen2", "qwen3", "llama3", "smollm3", "gemma3"] {
            let files = TextFiles::open(golden.join(case).as_path()).unwrap().unwrap();
            let tokenizer = Tokenizer::new(&files).unwrap();
            let template = ChatTemplate::new(&files, &tokenizer).unwrap().unwrap();
            let table = std::fs::read(golden.join(case).join("tokenizer_expected.json")).unwrap();
            let table: Json = serde_json::from_slice(&table).unwrap();
            for chat in table["chats"].as_array().unwrap() {
                let generation = chat["add_generation_prompt"].as_bool().unwrap();
                let text = template.render(chat["messages"].as_array().unwrap(), generation);
                let text = text.unwrap_or_else(|error| panic!("{case}: {error}"));
                assert_eq!(text, chat["text"].as_str().unwrap(), "{case}");
                count += 1;
            }
        }
        assert_eq!(count, 5 * 8);
    }

    #[test]
    fn templates_run_as_hugging_face_runs_them() {
        let messages = serde_json::json!([{"role": "user", "content": " <hi> ", "extra": {"b": 1, "a": [true, null]}}]);
        let check = |template: &str, expected: &str| {
            assert_eq!(render(template, messages.clone(), true).unwrap(), expected, "{template}");
        };
        check("{{ bos_token }}{{ messages[0]['content'].strip() }}{{ messages[0].content | trim }}", "<s><hi><hi>");
        check("{{ messages[0].extra | tojson }}", r#"{"b": 1, "a": [true, null]}"#);
        check("{{ messages[0].extra.b | tojson(indent=4) }}", "1");
        check("{{ messages[0].content | tojson }}", r#"" <hi> ""#);
        check("{% for m in messages %}\n  {% if loop.last %}\nx\n  {% endif %}\n{% endfor %}\n", "x\n");
        check("{% for m in messages %}{% break %}{% endfor %}{{ tools is none }}{{ nothing is defined }}", "TrueFalse");
        check(
            "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
            "1",
        );
        check("{%- generation -%} said {%- endgeneration %}", "said");
        check("{{ messages[0].role.upper() }}{{ messages[0].extra.items() | length }}", "USER2");
        let year = strftime_year();
        check("{{ strftime_now('%Y') }}", &year);
    }

    fn strftime_year() -> String {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        strftime("%Y", now.as_secs())
    }

    #[test]
    fn dates_are_right() {
        assert_eq!(
            strftime("%A %d %B %Y %H:%M:%S %b %a %y %m %% %q", 951_782_400 + 3_661),
            "Tuesday 29 February 2000 01:01:01 Feb Tue 00 02 % %q"
        );
        assert_eq!(strftime("%d %b %Y", 1_735_689_599), "31 Dec 2024");
        assert_eq!(strftime("%Y-%m-%d", 0), "1970-01-01");
    }

    #[test]
    fn refusals_and_endless_loops_are_errors() {
        let messages = serde_json::json!([]);
        let error = render("{{ raise_exception('roles must alternate') }}", messages.clone(), true).unwrap_err();
        assert!(error.to_string().contains("roles must alternate"), "{error}");
        let forever = "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}";
        assert!(render(forever, messages.clone(), true).is_err());
        assert!(render("{% if %}", messages, true).is_err());
    }
}
