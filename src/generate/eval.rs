//! Items with known answers: the model writes the answer, or chooses among given ones.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::encode::Encoded;
use super::model::Model;
use super::options::Options;
use super::prompt::Prompt;
use super::sampler::Sampling;
use super::scheduler::Scheduler;
use super::score;
use super::stream::TextStream;
use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};

/// A question with its right answer. Other keys, which data sets may have, are ignored.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Item {
    /// A picture; a relative path is relative to the file of the item.
    pub image: Option<PathBuf>,
    pub prompt: String,
    /// The whole answer. Case and surrounding space are ignored. The answer is ignored if there are choices.
    pub answer: Option<String>,
    /// Continuations of the prompt, and the index of the right one.
    pub choices: Option<Vec<String>>,
    pub label: Option<usize>,
    /// Items with the same group name share a line of the table.
    pub group: Option<String>,
}

/// The result of an item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Outcome {
    Answer {
        /// The generated text, and its ids without the end token.
        found: String,
        ids: Vec<u32>,
        correct: bool,
    },
    Choice {
        /// Natural logarithm of the probability of each choice after the prompt.
        logprobs: Vec<f64>,
        /// Whether the right choice has the largest.
        correct: bool,
        /// The same for logarithms divided by the choices' lengths in characters.
        correct_norm: bool,
    },
}

impl Outcome {
    pub fn correct(&self) -> bool {
        match self {
            Outcome::Answer { correct, .. } | Outcome::Choice { correct, .. } => *correct,
        }
    }

    /// For items with choices only.
    pub fn correct_norm(&self) -> Option<bool> {
        match self {
            Outcome::Answer { .. } => None,
            Outcome::Choice { correct_norm, .. } => Some(*correct_norm),
        }
    }
}

impl Item {
    /// Reads a line; the error message says what is wrong with it.
    pub fn parse(line: &str) -> Result<Self, String> {
        // The message names no line, because the caller knows the line in the file.
        let item: Item = serde_json::from_str(line)
            .map_err(|error| error.to_string().replace(" at line 1 column ", " at column "))?;
        match (&item.answer, &item.choices, item.label) {
            (_, Some(choices), Some(label)) if label >= choices.len() => {
                Err(format!("label is {label}, and there are {} choices, counted from 0", choices.len()))
            }
            (_, Some(_), Some(_)) | (Some(_), None, None) => Ok(item),
            _ => Err("expected either answer, or choices and label".into()),
        }
    }

    /// The result of a written answer.
    fn answered(&self, found: String, ids: Vec<u32>) -> Outcome {
        let correct = folded(&found) == folded(self.answer.as_deref().unwrap_or_default());
        Outcome::Answer { found, ids, correct }
    }

    /// The prompt as a question, with its picture.
    fn question(&self) -> Prompt {
        let prompt = Prompt::user(self.prompt.as_str());
        match &self.image {
            Some(path) => prompt.image(path.as_path()),
            None => prompt,
        }
    }
}

/// Asks the model several items at a time. The common beginning of prompts is computed once, and a picture is read once
/// for neighbouring questions about it. (Items with choices share nothing.)
pub struct Evaluator<'a> {
    model: &'a Model,
    options: Options,
    /// Called before each item, and after each token and choice; true stops the evaluation.
    stop: &'a dyn Fn() -> bool,
    scheduler: Scheduler,
    running: Vec<Asked<'a>>,
}

/// An item that is being answered.
struct Asked<'a> {
    index: usize,
    item: &'a Item,
    key: usize,
    /// Ids of the prompt.
    prompt: usize,
    stream: TextStream,
    ids: Vec<u32>,
}

impl<'a> Evaluator<'a> {
    /// Answers have `max_tokens` tokens at most.
    pub fn new(model: &'a Model, max_tokens: usize, parallel: usize, stop: &'a dyn Fn() -> bool) -> Self {
        let scheduler = Scheduler::new(model.0.clone(), parallel);
        let options = Options { max_tokens, ..Options::default() };
        Self { model, options, stop, scheduler, running: Vec::new() }
    }

    /// Calls `each` with the index and the outcome of every item, in the order in which they finish. Returns false if
    /// `stop` was true; an error comes with the index of its item.
    pub fn evaluate(
        &mut self,
        items: &mut dyn Iterator<Item = (usize, &'a Item)>,
        each: &mut dyn FnMut(usize, Outcome) -> Result<()>,
    ) -> Result<bool, (usize, Error)> {
        loop {
            while self.scheduler.has_room() {
                if (self.stop)() {
                    return Ok(false);
                }
                let Some((index, item)) = items.next() else { break };
                let begun = match (&item.choices, item.label) {
                    (Some(choices), Some(label)) => self.choose(item, choices, label).map(|outcome| outcome.map(Some)),
                    _ => self.ask(index, item).map(Some),
                };
                match begun.map_err(|error| (index, error))? {
                    None => return Ok(false),
                    Some(None) => {}
                    Some(Some(outcome)) => each(index, outcome).map_err(|error| (index, error))?,
                }
            }
            let first = self.running.iter().map(|asked| asked.index).min();
            let Some(first) = first else { return Ok(true) };
            let next = self.scheduler.next().map_err(|error| (first, error))?;
            let (key, sampled) = next.expect("what runs has a next token");
            let at = self.running.iter().position(|asked| asked.key == key).expect("its token came");
            let Asked { index, prompt, stream, ids, .. } = &mut self.running[at];
            stream.push(self.model, *prompt, sampled).map_err(|error| (*index, error))?;
            ids.extend(std::iter::from_fn(|| stream.next()).map(|piece| piece.id));
            if stream.stop.is_some() {
                self.scheduler.end(key);
                let Asked { index, item, stream, ids, .. } = self.running.swap_remove(at);
                each(index, item.answered(stream.text, ids)).map_err(|error| (index, error))?;
            }
            if (self.stop)() {
                return Ok(false);
            }
        }
    }

    /// Begins an answer. Returns the outcome if the answer may have no token.
    fn ask(&mut self, index: usize, item: &'a Item) -> Result<Option<Outcome>> {
        let model = &self.model.0;
        let prompt = model.encode(&item.question())?;
        model.check(&prompt.ids, prompt.pictures.pixels.len())?;
        let (request, stream) = self.options.begin(self.model, &prompt, Sampling::GREEDY, false);
        if stream.stop.is_some() {
            return Ok(Some(item.answered(String::new(), Vec::new())));
        }
        let key = self.scheduler.add(request);
        self.running.push(Asked { index, item, key, prompt: prompt.ids.len(), stream, ids: Vec::new() });
        Ok(None)
    }

    /// Log-likelihoods of the choices, as the common-sense sets of the MobileLLM paper are scored
    /// (lm-evaluation-harness).
    fn choose(&self, item: &Item, choices: &[String], label: usize) -> Result<Option<Outcome>> {
        let question = item.image.as_ref().map(|_| self.model.0.encode(&item.question())).transpose()?;
        let texts = choices.iter().map(|choice| match &question {
            Some(question) => replied(self.model, question, choice),
            None => continued(self.model, &item.prompt, choice),
        });
        let texts = texts.collect::<Result<Vec<_>>>()?;
        let images = question.map_or_else(Vec::new, |question| question.pictures.pixels);
        let Some(logprobs) = score::endings(&self.model.0, &images, &texts, self.stop)? else { return Ok(None) };
        let each = choices.iter().zip(&logprobs);
        let per_character = each.map(|(choice, logprob)| logprob / choice.trim_start().chars().count() as f64);
        let correct_norm = largest(&per_character.collect::<Vec<_>>()) == label;
        Ok(Some(Outcome::Choice { correct: largest(&logprobs) == label, logprobs, correct_norm }))
    }
}

/// Removes surrounding space and case: `ß` is `SS`.
fn folded(text: &str) -> String {
    text.trim().to_uppercase().to_lowercase()
}

/// The ids of a question about a picture with a choice as the reply, and how many of them are the choice's.
fn replied(model: &Model, question: &Encoded, choice: &str) -> Result<(Vec<u32>, usize)> {
    let ids = model.tokenizer()?.encode_without_special(words(choice)?)?;
    Ok((question.ids.iter().chain(&ids).copied().collect(), ids.len()))
}

/// The ids of prompt and choice together, and how many of them are the choice's: all ids after those of the prompt.
///
/// A space separates them, unless the prompt ends with one or the choice begins with one.
fn continued(model: &Model, prompt: &str, choice: &str) -> Result<(Vec<u32>, usize)> {
    let (tokenizer, words) = (model.tokenizer()?, words(choice)?);
    let context = prompt.trim_end();
    let space = match (&prompt[context.len()..], &choice[..choice.len() - words.len()]) {
        _ if context.is_empty() => "",
        ("", "") => " ",
        ("", before) => before,
        (behind, _) => behind,
    };
    let mut whole = unended(tokenizer, &format!("{context}{space}{words}"))?;
    let before = match context {
        "" => whole.len().saturating_sub(tokenizer.encode_without_special(words)?.len()),
        _ => unended(tokenizer, context)?.len(),
    };
    if before == 0 {
        // The model needs one token before it can predict the next.
        let first = tokenizer.bos().or(tokenizer.eos());
        whole.insert(0, first.ok_or_else(|| Error::prompt("the prompt is empty, and no token begins a text"))?);
    }
    let count = whole.len().saturating_sub(before.max(1));
    if count == 0 {
        return Err(Error::prompt(format!("the choice `{choice}` adds no token to its prompt")));
    }
    Ok((whole, count))
}

/// A choice without the space in front of it.
fn words(choice: &str) -> Result<&str> {
    match choice.trim_start() {
        "" => Err(Error::prompt("a choice is empty: there is nothing to score")),
        words => Ok(words),
    }
}

/// The ids of a text that continues, which must not be empty: without the end token that some tokenizers add to every
/// text.
fn unended(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
    let (mut ids, plain) = (tokenizer.encode(text)?, tokenizer.encode_without_special(text)?);
    if !ids.ends_with(&plain) {
        ids.pop();
    }
    Ok(ids)
}

/// The index of the first of the largest values.
fn largest(values: &[f64]) -> usize {
    (0..values.len()).rev().max_by(|&a, &b| values[a].total_cmp(&values[b])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_what_is_wrong_with_them() {
        let refused = |line: &str| Item::parse(line).unwrap_err();
        assert!(Item::parse(r#"{"image":"a.png","prompt":"q","answer":"red"}"#).is_ok());
        assert!(Item::parse(r#"{"prompt":"q","choices":["a","b"],"label":1,"group":"x"}"#).is_ok());
        assert!(refused(r#"{"prompt":"q","choices":["a","b"],"label":2}"#).contains("label is 2"));
        assert!(refused(r#"{"prompt":"q"}"#).contains("either answer"));
        assert!(refused(r#"{"prompt":"q","answer":"a","choices":[],"label":0}"#).contains("there are 0 choices"));
        assert!(refused(r#"{"prompt":"q","answers":"a"}"#).contains("either answer"));
        assert!(Item::parse(r#"{"id":7,"prompt":"q","choices":["a"],"label":0,"answer":"a"}"#).is_ok());
        assert!(refused("{").contains("EOF"));
    }

    #[test]
    fn case_is_folded() {
        assert_eq!(folded(" Straße\n"), folded("STRASSE"));
        assert_eq!(folded("ὈΔΥΣΣΕΎΣ"), folded("Ὀδυσσεύς"));
        assert_ne!(folded("red"), folded("re d"));
    }

    #[test]
    fn ties_go_to_the_first() {
        assert_eq!((largest(&[1.0, 3.0, 3.0]), largest(&[-2.0, -1.0]), largest(&[])), (1, 1, 0));
    }
}
