//! Qwen's conversations → ids. Role, line break and content are tokenized separately, and the oldest turns are left out
//! if the conversation is too long:
//!
//! ```text
//! <|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nPicture 1: <img>…</img>\nWhat is it?<|im_end|>
//! <|im_start|>assistant\n
//! ```
//!
//! The 256 rows of a picture are between `<img>` and `</img>`.

use std::ops::Range;

use super::prompt::{Message, PLACEHOLDER, Prompt};
use super::tokenizer::{Allowed, SPAN, Tiktoken};
use crate::error::{Error, Result};

/// The format of a model's conversations.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChatMl {
    /// The number of tokens that system part and history together must stay below. The question is never cut.
    pub window: usize,
}

/// The ids of a conversation.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Turns {
    /// [`Prompt::IMAGE`] stands for each picture.
    pub ids: Vec<u32>,
    /// The pictures of the turns that were left out, by their numbers from 0 in the whole conversation.
    pub skipped: Range<usize>,
}

const SYSTEM: &str = "You are a helpful assistant.";

impl ChatMl {
    /// The ids of a conversation. `generation` adds the words after which the assistant speaks.
    pub fn ids(&self, encoder: &Tiktoken, messages: &[Message], generation: bool) -> Result<Turns> {
        let (system, turns) = parts(messages)?;
        let start = encoder.end_of_text() + 1;
        let part = |role: &str, content: &str| -> Result<Vec<u32>> {
            let mut ids = vec![start];
            for text in [role, "\n", content] {
                ids.extend(encoder.encode(text, Allowed::Tags)?);
            }
            ids.push(start + 1);
            Ok(ids)
        };
        let line = encoder.encode("\n", Allowed::Tags)?;
        let system = part("system", system)?;

        // A question and its answer are kept or left out together.
        let mut pairs = Vec::new();
        for pair in turns.chunks(2) {
            let mut ids = Vec::new();
            for message in pair {
                ids.extend(&line);
                ids.extend(part(&message.role, &message.content)?);
            }
            pairs.push(ids);
        }
        let asks = turns.len() % 2 == 1;
        if generation && !asks {
            return Err(Error::prompt("the chat is empty or ends with the assistant: give it a question to answer"));
        }
        let history = pairs.len() - usize::from(asks);
        let (mut first, mut size) = (history, system.len());
        while first > 0 && size + pairs[first - 1].len() < self.window {
            first -= 1;
            size += pairs[first].len();
        }
        let images = |ids: &[u32]| ids.iter().filter(|&&id| Some(id) == encoder.image()).count();
        let skipped = images(&system);
        let skipped = skipped..skipped + pairs[..first].iter().map(|ids| images(ids)).sum::<usize>();
        let mut ids = system;
        ids.extend(pairs[first..].iter().flatten());
        if generation {
            ids.extend(&line);
            ids.push(start);
            ids.extend(encoder.encode("assistant", Allowed::Tags)?);
            ids.extend(&line);
        }
        Ok(Turns { ids: with_places(encoder.image(), &ids)?, skipped })
    }

    /// The conversation as text, with every turn.
    pub fn text(messages: &[Message], generation: bool) -> Result<String> {
        let (system, turns) = parts(messages)?;
        let mut text = format!("<|im_start|>system\n{system}<|im_end|>");
        for message in turns {
            text += &format!("\n<|im_start|>{}\n{}<|im_end|>", message.role, message.content);
        }
        Ok(if generation { text + "\n<|im_start|>assistant\n" } else { text })
    }
}

/// The system message, and the turns after it: questions and answers in turn.
fn parts(messages: &[Message]) -> Result<(&str, &[Message])> {
    let (system, turns) = match messages {
        [first, rest @ ..] if first.role == "system" => (first.content.as_str(), rest),
        _ => (SYSTEM, messages),
    };
    for (turn, message) in turns.iter().enumerate() {
        let role = ["user", "assistant"][turn % 2];
        if message.role != role {
            return Err(Error::prompt(format!(
                "turn {} of the chat is the {}'s, expected the {role}'s: the model was made for questions and answers in turns",
                turn + 1,
                message.role
            )));
        }
    }
    Ok((system, turns))
}

/// Writes pictures into text in the model's form, `Picture 1: <img></img>` and a line break, numbered from `next` on.
/// Pictures that the text has between tags of its own count too. `tight` omits the space.
pub(super) fn with_labels(text: &str, tight: bool, next: &mut usize) -> String {
    let space = if tight { "" } else { " " };
    let mut out = String::new();
    for (index, piece) in text.split(PLACEHOLDER).enumerate() {
        let mut piece = piece;
        if index > 0 {
            out += &format!("Picture {next}:{space}<img></img>\n");
            *next += 1;
            piece = piece.strip_prefix('\n').unwrap_or(piece);
        }
        out += piece;
        *next += piece.matches("<img>").count();
    }
    out
}

/// [`Prompt::IMAGE`] in place of the ids between `<img>`, whose id is `image`, and `</img>`.
pub(super) fn with_places(image: Option<u32>, ids: &[u32]) -> Result<Vec<u32>> {
    let Some(image) = image else { return Ok(ids.to_vec()) };
    let count = |wanted: u32| ids.iter().filter(|&&id| id == wanted).count();
    let (opened, closed) = (count(image), count(image + 1));
    if opened != closed {
        return Err(Error::prompt(format!("the prompt has {opened} <img> and {closed} </img>: they must be as many")));
    }
    let mut out = Vec::with_capacity(ids.len());
    let mut rest = ids;
    while let Some(at) = rest.iter().position(|&id| id == image) {
        let (before, inside) = rest.split_at(at + 1);
        let length = inside.iter().position(|&id| id == image + 1).unwrap_or(inside.len());
        if length != SPAN && inside[..length] != [Prompt::IMAGE] {
            return Err(Error::prompt(format!(
                "the prompt has {length} ids between <img> and </img>, where a picture has {SPAN}"
            )));
        }
        out.extend_from_slice(before);
        out.push(Prompt::IMAGE);
        rest = &inside[length..];
    }
    out.extend_from_slice(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::tokenizer::Tokenizer;

    fn tokenizer() -> Tokenizer {
        Tokenizer::load(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/qwenvl_a")).unwrap()
    }

    fn chat(turns: &[(&str, &str)]) -> Vec<Message> {
        turns.iter().map(|(role, content)| Message::new(*role, *content)).collect()
    }

    #[test]
    fn pictures_are_numbered_in_both_spellings() {
        let mut next = 1;
        assert_eq!(with_labels("<image>\nWhat?", false, &mut next), "Picture 1: <img></img>\nWhat?");
        assert_eq!(with_labels("a <image>b", true, &mut next), "a Picture 2:<img></img>\nb");
        assert_eq!((with_labels("no picture", false, &mut next), next), ("no picture".into(), 3));
        let mut next = 1;
        let own = "Picture 1: <img>a.png</img>\n<image>c";
        assert_eq!(with_labels(own, false, &mut next), "Picture 1: <img>a.png</img>\nPicture 2: <img></img>\nc");
        assert_eq!(next, 3);
    }

    #[test]
    fn parts_are_tokenized_apart_and_markers_in_messages_are_text() {
        let tokenizer = tokenizer();
        let encoder = tokenizer.tiktoken().unwrap();
        let chatml = ChatMl { window: 6144 };
        let ids = |content: &str| chatml.ids(encoder, &chat(&[("user", content)]), true).unwrap().ids;
        // Tokenized as one text, the two line breaks would become one token.
        let broken = ids("\nx");
        let line = tokenizer.encode("\n").unwrap();
        assert!(broken.windows(2).any(|pair| pair == [line[0], line[0]]), "{broken:?}");
        let start = encoder.end_of_text() + 1;
        let marks = ids("<|im_end|>").iter().filter(|&&id| id >= start).count();
        assert_eq!(marks, 5, "a marker in a message is one of the conversation's");
        assert_eq!(
            ChatMl::text(&chat(&[("user", "a")]), true).unwrap(),
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
        );
        let error = chatml.ids(encoder, &chat(&[("user", "a"), ("assistant", "b")]), true).unwrap_err();
        assert!(error.to_string().contains("ends with the assistant"), "{error}");
        assert!(chatml.ids(encoder, &chat(&[("assistant", "b")]), true).unwrap_err().to_string().contains("turn 1"));
    }

    #[test]
    fn the_oldest_turns_are_left_out() {
        let tokenizer = tokenizer();
        let encoder = tokenizer.tiktoken().unwrap();
        let turns = chat(&[
            ("user", "Picture 1: <img></img>\na"),
            ("assistant", "b"),
            ("user", "c"),
            ("assistant", "d"),
            ("user", "e"),
        ]);
        let of = |window: usize| ChatMl { window }.ids(encoder, &turns, true).unwrap();
        let without = |first: usize| ChatMl { window: 6144 }.ids(encoder, &turns[first..], true).unwrap().ids;
        let whole = of(6144);
        assert_eq!((whole.skipped.clone(), whole.ids.iter().filter(|&&id| id == Prompt::IMAGE).count()), (0..0, 1));
        // The history is counted with the ids of its pictures, and must be below the window.
        let question = without(4).len();
        let system = ChatMl { window: 6144 }.ids(encoder, &[], false).unwrap().ids.len();
        let history = system + whole.ids.len() - 1 + SPAN - question;
        assert_eq!(of(history + 1), whole);
        assert_eq!(of(history), Turns { ids: without(2), skipped: 0..1 });
        // The system part stays, with its picture.
        let system = chat(&[("system", "Picture 1: <img></img>\nlook")]);
        let turns = [&system[..], &turns[..]].concat();
        let found = ChatMl { window: 0 }.ids(encoder, &turns, true).unwrap();
        assert_eq!((found.skipped, found.ids.iter().filter(|&&id| id == Prompt::IMAGE).count()), (1..2, 1));
        assert_eq!(of(0), Turns { ids: without(4), skipped: 0..1 });
    }

    #[test]
    fn spans_become_places_and_broken_ones_are_errors() {
        let tokenizer = tokenizer();
        let encoder = tokenizer.tiktoken().unwrap();
        let image = encoder.image().unwrap();
        let ids = tokenizer.encode("a<img>x.png</img>b").unwrap();
        let placed = with_places(Some(image), &ids).unwrap();
        assert_eq!(placed[1..4], [image, Prompt::IMAGE, image + 1]);
        assert_eq!(with_places(Some(image), &placed).unwrap(), placed);
        assert!(with_places(Some(image), &[image, 1, 2]).unwrap_err().to_string().contains("1 <img> and 0 </img>"));
        assert!(with_places(Some(image), &[image, 7, image + 1]).unwrap_err().to_string().contains("1 ids between"));
        assert!(with_places(Some(image), &[image + 1, 7, image]).is_err());
    }
}
