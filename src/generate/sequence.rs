//! Sequences, and their positions in the memory of a session.

use std::sync::Arc;

use super::clock::{Clock, Times};
use super::sampler::Sampling;
use crate::error::{Error, Result};

/// A caller's function that changes the logits of the next token, given the ids before it.
pub(super) type Mask = Box<dyn FnMut(&[u32], &mut [f32]) + Send>;

/// A request to a scheduler: a prompt to continue.
pub(super) struct Request {
    /// Ids. An id past the vocabulary is a row of `images`: `vocab + i` is row i of all of them.
    pub ids: Vec<u32>,
    /// Pixels (3, S, S) of each picture.
    pub images: Vec<Arc<Vec<f32>>>,
    pub sampling: Sampling,
    /// The number of tokens that may be generated: at least one.
    pub limit: usize,
    /// Whether logits come with each token.
    pub logits: bool,
    /// Changes the logits before each token is chosen. A token is then requested only when all tokens before it are
    /// known.
    pub mask: Option<Mask>,
    /// Whether it continues an ended sequence of the scheduler. Then it may also reuse decoded positions, whose sums
    /// have another order than those of a prompt. Other sequences reuse only positions that were computed as a prompt,
    /// so that they compute the same bits as alone.
    pub continues: bool,
}

/// The content of a position. Sequences with the same tokens at their beginning share these positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Id(u32),
    /// A row of one of the scheduler's pictures.
    Picture {
        serial: usize,
        row: usize,
    },
}

/// A sequence that a scheduler runs.
pub(super) struct Sequence {
    pub key: usize,
    pub request: Request,
    /// The angles of its keys and queries, which depend on the length of its prompt.
    pub stretch: usize,
    /// The scheduler's serial numbers of its pictures, in order.
    pub pictures: Vec<usize>,
    /// Its first position in the session, once it has one.
    pub slot: Option<usize>,
    /// Positions of the prompt that were submitted to the device or reused.
    pub held: usize,
    /// The number of tokens that were requested, and of those that were read.
    pub enqueued: usize,
    pub taken: Vec<u32>,
    pub clock: Clock,
}

impl Sequence {
    pub fn new(key: usize, request: Request, stretch: usize) -> Self {
        let (pictures, taken) = (Vec::new(), Vec::new());
        Sequence { key, request, stretch, pictures, slot: None, held: 0, enqueued: 0, taken, clock: Clock::default() }
    }

    /// The number of positions that it may need.
    pub fn length(&self) -> usize {
        self.request.ids.len() + self.request.limit
    }

    /// Whether its whole prompt was submitted.
    pub fn is_prefilled(&self) -> bool {
        self.enqueued > 0
    }

    /// Whether another token may be requested. The host reads the first token before it requests a second, so that its
    /// time counts as the prompt's. With a mask it reads every token before it requests the next.
    pub fn decodes(&self) -> bool {
        let known = !self.taken.is_empty() && (self.request.mask.is_none() || self.taken.len() == self.enqueued);
        known && self.enqueued < self.request.limit
    }

    /// Lets the mask, if there is one, change the logits of the next token.
    ///
    /// # Errors
    ///
    /// The mask forbids every token, or writes NaN.
    pub fn mask(&mut self, logits: &mut [f32]) -> Result<()> {
        let Some(mask) = &mut self.request.mask else { return Ok(()) };
        // The model is damaged. The text stream reports the error when it takes the token.
        if logits.iter().any(|logit| logit.is_nan()) {
            return Ok(());
        }
        mask(&[&self.request.ids[..], &self.taken].concat(), logits);
        if let Some(id) = logits.iter().position(|logit| logit.is_nan()) {
            return Err(Error::prompt(format!("the mask made the logit of token {id} NaN; to forbid it, write −∞")));
        }
        logits.iter_mut().for_each(|logit| *logit = logit.clamp(-MOST_LOGIT, MOST_LOGIT));
        if logits.iter().all(|&logit| logit == -MOST_LOGIT) {
            return Err(Error::prompt("the mask forbids every token: it must leave one logit above −∞"));
        }
        Ok(())
    }

    pub fn times(&self) -> Times {
        self.clock.times()
    }
}

/// A mask's logits are clamped to ± this, because WGSL does not guarantee infinities. exp(−1e30 / T) is zero at every
/// temperature, and the repeat penalty leaves the value finite.
const MOST_LOGIT: f32 = 1e30;

/// The ranges of a session's positions that sequences use or have used. A new sequence may reuse the beginning of such
/// a range.
#[derive(Default)]
pub(super) struct Places {
    /// The number of positions of the session.
    pub capacity: usize,
    /// In order of their starts.
    places: Vec<Place>,
    /// The number of releases: the place that was released first is dropped first.
    releases: usize,
}

struct Place {
    start: usize,
    length: usize,
    /// The angles of its keys: keys of another stretch are different.
    stretch: usize,
    /// Its tokens: the prompt, and after the release also the generated tokens.
    tokens: Vec<Token>,
    /// How many of `tokens` were computed.
    held: usize,
    /// How many of `tokens` were computed as a prompt.
    prompt: usize,
    owner: Option<usize>,
    released: usize,
}

/// A place for a sequence.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub start: usize,
    /// The number of positions that need not be computed.
    pub held: usize,
    /// The place to copy those positions from, if it is another one.
    pub copy_from: Option<usize>,
}

impl Places {
    /// Takes a place of `length` positions for a prompt. Prefers the place that has the longest common beginning.
    pub fn take(&mut self, owner: usize, length: usize, tokens: Vec<Token>, continues: bool, stretch: usize) -> Taken {
        // The last position of a prompt is always computed: its row gives the first logits.
        let common = |place: &Place| {
            let held = match continues {
                _ if place.stretch != stretch => 0,
                true => place.held,
                false => place.held.min(place.prompt),
            };
            let alike = place.tokens[..held].iter().zip(&tokens).take_while(|(a, b)| a == b).count();
            alike.min(tokens.len() - 1)
        };
        let best = (0..self.places.len()).max_by_key(|&i| (common(&self.places[i]), self.places[i].owner.is_none()));
        let best = best.map(|i| (i, common(&self.places[i]))).filter(|&(_, held)| held > 0);
        let prompt = tokens.len();
        if let Some((i, held)) = best
            && self.places[i].owner.is_none()
            && self.places.get(i + 1).is_none_or(|next| next.start - self.places[i].start >= length)
        {
            let place = &mut self.places[i];
            let prompt = if continues { place.prompt.min(held) } else { prompt };
            let start = place.start;
            *place = Place { start, length, stretch, tokens, held, prompt, owner: Some(owner), released: 0 };
            return Taken { start, held, copy_from: None };
        }
        let source = best.map(|(i, held)| (self.places[i].start, self.places[i].prompt.min(held)));
        let start = self.room(length, source.map(|(start, _)| start));
        let at = self.places.partition_point(|place| place.start < start);
        let held = best.map_or(0, |(_, held)| held);
        // Positions that another sequence decoded still count as decoded.
        let prompt = if continues { source.map_or(prompt, |(_, prompt)| prompt) } else { prompt };
        self.places.insert(at, Place { start, length, stretch, tokens, held, prompt, owner: Some(owner), released: 0 });
        Taken { start, held, copy_from: source.map(|(start, _)| start) }
    }

    /// Marks the first `held` positions of a sequence as submitted to the device.
    pub fn hold(&mut self, owner: usize, held: usize) {
        if let Some(place) = self.place(owner) {
            place.held = held;
        }
    }

    /// Undoes [`Places::take`] of a sequence for which there is no memory.
    pub fn give_back(&mut self, owner: usize, taken: &Taken) {
        if taken.held > 0 && taken.copy_from.is_none() {
            // The place of an earlier sequence, which it may be for a later one too.
            return self.release(owner, &[], taken.held);
        }
        self.places.retain(|place| place.owner != Some(owner));
    }

    /// Ends a sequence that generated the tokens `generated`. Of its prompt and these tokens, the first `held`
    /// positions are computed; other sequences may reuse them until the place is needed.
    pub fn release(&mut self, owner: usize, generated: &[u32], held: usize) {
        self.releases += 1;
        let released = self.releases;
        if let Some(place) = self.place(owner) {
            place.tokens.extend(generated.iter().map(|&id| Token::Id(id)));
            place.held = held.min(place.tokens.len());
            place.owner = None;
            place.released = released;
        }
    }

    /// Drops the places that hold rows of a picture that was dropped.
    pub fn forget(&mut self, gone: usize) {
        let has = |place: &Place| {
            place.tokens.iter().any(|token| matches!(token, Token::Picture { serial, .. } if *serial == gone))
        };
        self.places.retain(|place| place.owner.is_some() || !has(place));
    }

    /// Drops all places. No sequence may use one.
    pub fn clear(&mut self) {
        self.places.clear();
    }

    /// The end of the last place.
    pub fn end(&self) -> usize {
        self.places.last().map_or(0, |place| place.start + place.length)
    }

    fn place(&mut self, owner: usize) -> Option<&mut Place> {
        self.places.iter_mut().find(|place| place.owner == Some(owner))
    }

    /// The start of the first gap of `length` positions. While there is none, not even after the last place, drops the
    /// place that was released first, except the one at `keep`. If none is left to drop, the memory must grow.
    fn room(&mut self, length: usize, keep: Option<usize>) -> usize {
        loop {
            let mut start = 0;
            for place in &self.places {
                if place.start - start >= length {
                    return start;
                }
                start = place.start + place.length;
            }
            if start + length <= self.capacity {
                return start;
            }
            let spare = |place: &Place| place.owner.is_none() && Some(place.start) != keep;
            let oldest =
                (0..self.places.len()).filter(|&i| spare(&self.places[i])).min_by_key(|&i| self.places[i].released);
            match oldest {
                Some(i) => drop(self.places.remove(i)),
                None => return start,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[u32]) -> Vec<Token> {
        ids.iter().map(|&id| Token::Id(id)).collect()
    }

    #[test]
    fn what_sequences_begin_with_is_found_and_taken_over_or_copied() {
        let mut places = Places::default();
        assert_eq!(places.take(0, 10, ids(&[1, 2, 3, 4]), false, 0), Taken { start: 0, held: 0, copy_from: None });
        // No position of the first sequence is computed yet.
        assert_eq!(places.take(1, 10, ids(&[1, 2, 3, 9]), false, 0), Taken { start: 10, held: 0, copy_from: None });
        places.hold(0, 3);
        // The last position is never reused, because its row gives the logits.
        assert_eq!(places.take(2, 5, ids(&[1, 2, 3]), false, 0), Taken { start: 20, held: 2, copy_from: Some(0) });
        assert_eq!(places.end(), 25);

        // Only a sequence that continues may reuse generated tokens.
        places.hold(0, 4);
        places.release(0, &[5, 6], 6);
        assert_eq!(
            places.take(3, 8, ids(&[1, 2, 3, 4, 5, 6, 7]), false, 0),
            Taken { start: 0, held: 4, copy_from: None }
        );
        places.hold(3, 7);
        places.release(3, &[8], 7);
        assert_eq!(
            places.take(4, 9, ids(&[1, 2, 3, 4, 5, 6, 7, 8, 9]), true, 0),
            Taken { start: 0, held: 7, copy_from: None }
        );
        assert_eq!(places.end(), 25);
    }

    #[test]
    fn the_memory_grows_when_no_place_is_left() {
        let mut places = Places::default();
        for (owner, start) in [(0, 0), (1, 4), (2, 8)] {
            assert_eq!(places.take(owner, 4, ids(&[owner as u32, 7]), false, 0).start, start);
            places.hold(owner, 2);
        }
        places.release(1, &[], 2);
        // Too long for the place in the middle, which is dropped nevertheless, because no sequence shares its
        // beginning.
        assert_eq!(places.take(3, 6, ids(&[9, 9]), false, 0), Taken { start: 12, held: 0, copy_from: None });
        assert_eq!(places.take(4, 4, ids(&[1, 7, 7]), false, 0), Taken { start: 4, held: 0, copy_from: None });
        // The last place may grow without a move.
        places.release(3, &[], 0);
        places.release(0, &[], 2);
        assert_eq!(places.take(5, 9, ids(&[0, 7, 1]), false, 0), Taken { start: 12, held: 2, copy_from: Some(0) });
    }

    #[test]
    fn memory_that_is_free_is_taken_before_what_is_held() {
        let mut places = Places { capacity: 10, ..Places::default() };
        for (owner, start) in [(0, 0), (1, 4)] {
            assert_eq!(places.take(owner, 4, ids(&[owner as u32, 7]), false, 0).start, start);
            places.hold(owner, 2);
            places.release(owner, &[], 2);
        }
        // Two positions are left, too few: the older place goes.
        assert_eq!(places.take(2, 4, ids(&[2, 7]), false, 0).start, 0);
        places.release(2, &[], 0);
        assert_eq!(places.take(3, 3, ids(&[1, 7]), false, 0), Taken { start: 4, held: 1, copy_from: None });
        // A place for which there was no memory is as if it had not been taken.
        places.release(3, &[], 2);
        let taken = places.take(4, 5, ids(&[1, 7, 8]), false, 0);
        assert_eq!(taken, Taken { start: 4, held: 2, copy_from: None });
        places.give_back(4, &taken);
        assert_eq!(places.take(5, 5, ids(&[1, 7, 8]), false, 0), taken);
        let copied = places.take(6, 5, ids(&[1, 7, 8]), false, 0);
        assert_eq!(copied, Taken { start: 9, held: 2, copy_from: Some(4) });
        places.give_back(6, &copied);
        assert_eq!(places.end(), 9);
    }

    #[test]
    fn keys_turned_by_other_angles_are_computed_again() {
        let mut places = Places::default();
        places.take(0, 10, ids(&[1, 2, 3, 4]), false, 0);
        places.hold(0, 4);
        places.release(0, &[5], 5);
        assert_eq!(places.take(1, 9, ids(&[1, 2, 3, 4, 5, 6]), true, 1).held, 0);
        places.hold(1, 6);
        places.release(1, &[], 6);
        assert_eq!(places.take(2, 9, ids(&[1, 2, 3, 4, 5, 6, 7]), true, 1).held, 6);
    }

    #[test]
    fn rows_of_pictures_are_alike_if_the_pictures_are() {
        let picture = |serial| vec![Token::Id(1), Token::Picture { serial, row: 0 }, Token::Id(2)];
        let mut places = Places::default();
        places.take(0, 4, picture(5), false, 0);
        places.hold(0, 3);
        places.release(0, &[], 3);
        assert_eq!(places.take(1, 4, picture(6), false, 0).held, 1);
        places.hold(1, 3);
        places.release(1, &[], 3);
        assert_eq!(places.take(2, 4, picture(6), false, 0).held, 2);
        places.release(2, &[], 3);
        places.forget(6);
        assert_eq!(places.take(3, 4, picture(6), false, 0).held, 0);
    }
}
