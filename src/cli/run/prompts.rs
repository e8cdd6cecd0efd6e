//! `dunlin run --prompts`: several prompts of a file, continued together.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::super::{Failure, interrupted};
use super::{Run, last_line};
use crate::error::{Error, Result};
use crate::generate::{Ended, Piece, Prompt};

/// A line of the file. Other keys are ignored.
#[derive(Deserialize)]
struct Line {
    prompt: String,
    /// A relative path is relative to the file.
    image: Option<PathBuf>,
}

/// The prompts of a file, one a line.
pub fn read(file: &Path, raw: bool) -> Result<Vec<Prompt>> {
    let shown = file.display();
    let text = std::fs::read_to_string(file)
        .map_err(|error| Error::prompt(format!("{shown} cannot be read")).caused_by(error))?;
    let folder = file.parent().unwrap_or(Path::new("."));
    let mut prompts = Vec::new();
    for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let Line { prompt, image } = serde_json::from_str(line).map_err(|error| {
            let what = error.to_string().replace(" at line 1 column ", " at column ");
            Error::prompt(format!("{shown}, line {}: {what}", index + 1))
        })?;
        let prompt = if raw { Prompt::raw(prompt) } else { Prompt::user(prompt) };
        prompts.push(match image {
            Some(path) => prompt.image(folder.join(path)),
            None => prompt,
        });
    }
    if prompts.is_empty() {
        return Err(Error::prompt(format!("{shown} has no prompts")));
    }
    Ok(prompts)
}

/// Continues all prompts. As text, each answer is printed when it is complete, in the order of the prompts; as JSON,
/// tokens are printed as they come, with the index of their prompt, and statistics and boxes at the end of each answer.
pub fn run(command: &Run, prompts: &[Prompt]) -> Result<(), Failure> {
    let model = command.load.load()?;
    let mut generations = model
        .generate_all(prompts.to_vec(), &command.sampler())?
        .parallel(command.parallel)
        .max_tokens(command.max_tokens)
        .logprobs(command.logprobs);
    if command.special {
        generations = generations.special();
    }
    let ids = model.tokenizer().is_err();
    let mut report = Report { json: command.json, answers: vec![Answer::default(); prompts.len()], printed: 0 };
    let mut failed = None;
    loop {
        let next = generations.next();
        let over = next.is_none();
        if let Some((index, piece)) = next {
            match piece {
                Ok(piece) => report.piece(index, piece, ids)?,
                Err(error) => {
                    report.answers[index].ended = true;
                    failed = failed.or(Some(error.at(&format!("prompt {}", index + 1))));
                }
            }
        }
        while let Some(ended) = generations.ended() {
            report.end(&ended)?;
        }
        if interrupted() {
            return Err(Failure::Interrupted);
        }
        if over {
            break;
        }
    }
    failed.map_or(Ok(()), |error| Err(error.into()))
}

/// The answers that were printed, and those that wait for earlier ones.
struct Report {
    json: bool,
    answers: Vec<Answer>,
    /// The number of answers that were printed.
    printed: usize,
}

#[derive(Clone, Default)]
struct Answer {
    text: String,
    ended: bool,
}

impl Report {
    fn piece(&mut self, index: usize, piece: Piece, ids: bool) -> Result<(), Failure> {
        if self.json {
            let mut object = serde_json::json!({"index": index});
            let piece = serde_json::to_value(&piece).map_err(std::io::Error::from)?;
            if let (Some(object), serde_json::Value::Object(piece)) = (object.as_object_mut(), piece) {
                object.extend(piece);
            }
            return self.line(&object.to_string());
        }
        self.answers[index].text += &if ids { format!("{} ", piece.id) } else { piece.text };
        Ok(())
    }

    fn end(&mut self, ended: &Ended) -> Result<(), Failure> {
        self.answers[ended.index].ended = true;
        if self.json {
            let mut line = last_line(&ended.stats, &ended.boxes);
            line["index"] = ended.index.into();
            return self.line(&line.to_string());
        }
        while self.answers.get(self.printed).is_some_and(|answer| answer.ended) {
            let text = std::mem::take(&mut self.answers[self.printed].text);
            self.printed += 1;
            self.line(&format!("{}: {}", self.printed, text.trim()))?;
        }
        Ok(())
    }

    fn line(&self, text: &str) -> Result<(), Failure> {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{text}")?;
        Ok(out.flush()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_prompts_and_bad_ones_are_named() {
        let file = std::env::temp_dir().join(format!("dunlin-prompts-{}.jsonl", std::process::id()));
        let with = |text: &str| {
            std::fs::write(&file, text).unwrap();
            read(&file, false)
        };
        let image = file.parent().unwrap().join("a.png");
        let read = with("{\"prompt\":\"a\"}\n\n{\"prompt\":\"b\",\"image\":\"a.png\",\"id\":7}\n").unwrap();
        assert_eq!(read, [Prompt::user("a"), Prompt::user("b").image(image)]);
        let error = with("{\"prompt\":\"a\"}\n{\"text\":\"b\"}\n").unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("prompt"), "{error}");
        assert!(with("\n").unwrap_err().to_string().contains("no prompts"));
        std::fs::remove_file(&file).unwrap();
    }
}
