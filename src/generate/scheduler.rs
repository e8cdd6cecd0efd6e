//! Selects the rows of the next pass: sequences that begin and end at any time share the passes of a session.
//!
//! A decoding step has a row of every sequence that decodes. Between two decoding steps the scheduler submits one piece
//! of work for the first sequence that does not decode yet: a slice of a picture, or a chunk of its prompt. Several
//! steps are in flight before the token of the first is read. A sequence computes the same bits as alone: in a kernel a
//! row does not depend on its neighbours, and a pass of a prompt has rows of that prompt only.

use std::collections::VecDeque;
use std::sync::Arc;

use super::clock::Times;
use super::model::Inner;
use super::sequence::{Places, Request, Sequence, Token};
use crate::backend::{Sampled, Session, Step, Want};
use crate::clock::Instant;
use crate::error::{ErrorKind, Result};
use crate::work::{Family, Row};

/// Runs sequences of one model, several at a time.
pub(super) struct Scheduler {
    model: Arc<Inner>,
    /// Sequences that run at a time: a decoding step has a row for each.
    parallel: usize,
    session: Option<Box<dyn Session>>,
    places: Places,
    pictures: Pictures,
    waiting: VecDeque<Sequence>,
    active: Vec<Sequence>,
    /// The fewest positions that the device had no memory for.
    refused: usize,
    /// Whether sequences wait for memory until another one ends.
    full: bool,
    /// For each step in flight, the keys of its rows.
    in_flight: VecDeque<Vec<usize>>,
    /// Tokens that were read but not yet returned, with the keys of their sequences.
    came: VecDeque<(usize, Sampled)>,
    chosen: Vec<Sampled>,
    rows: Vec<Row>,
    keys: usize,
}

impl Scheduler {
    pub fn new(model: Arc<Inner>, parallel: usize) -> Self {
        Scheduler {
            parallel: parallel.clamp(1, model.engine.most_rows()),
            model,
            session: None,
            places: Places::default(),
            pictures: Pictures::default(),
            waiting: VecDeque::new(),
            active: Vec::new(),
            refused: usize::MAX,
            full: false,
            in_flight: VecDeque::new(),
            came: VecDeque::new(),
            chosen: Vec::new(),
            rows: Vec::new(),
            keys: 0,
        }
    }

    /// Adds a request, and returns the key of its sequence.
    pub fn add(&mut self, request: Request) -> usize {
        let key = self.keys;
        self.keys += 1;
        let stretch = self.model.config.rope.beyond.stretch(request.ids.len());
        self.waiting.push_back(Sequence::new(key, request, stretch));
        key
    }

    /// Whether another sequence could run at once.
    pub fn has_room(&self) -> bool {
        self.active.len() + self.waiting.len() < self.parallel
    }

    /// The next token of any sequence. `None` if no sequence may generate another: the caller must end them.
    pub fn next(&mut self) -> Result<Option<(usize, Sampled)>> {
        loop {
            if let Some(came) = self.came.pop_front() {
                return Ok(Some(came));
            }
            self.admit();
            let worked = self.prefill_some()?;
            let stepped = self.decode_some()?;
            if !worked && !stepped && self.in_flight.is_empty() {
                return Ok(None);
            }
            if self.in_flight.len() >= self.depth() || !(worked || stepped) {
                self.take()?;
            }
        }
    }

    /// Reads the pictures of a sequence, and calls `progress` with the finished work and all work.
    pub fn encode_pictures(&mut self, key: usize, progress: &dyn Fn(usize, usize)) -> Result<()> {
        self.admit();
        let Some(index) = self.active.iter().position(|sequence| sequence.key == key) else { return Ok(()) };
        if !self.place(index)? {
            return Ok(());
        }
        let count = self.missing_pictures(index).count();
        for before in 0..count {
            while let Some((done, all)) = self.encode_some(index)? {
                progress(before * all + done, count * all);
                if done == all {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Runs the prompt of a sequence, and calls `progress` with the number of tokens that were submitted and of all
    /// tokens.
    pub fn prefill(&mut self, key: usize, progress: &mut dyn FnMut(usize, usize)) -> Result<()> {
        self.encode_pictures(key, &|_, _| ())?;
        let Some(index) = self.active.iter().position(|sequence| sequence.key == key) else { return Ok(()) };
        let all = self.active[index].request.ids.len();
        while !self.active[index].is_prefilled() {
            progress(self.active[index].held, all);
            if !self.prompt_some(index)? {
                self.take()?;
            }
        }
        progress(all, all);
        Ok(())
    }

    /// Ends a sequence. Other sequences may reuse its positions.
    pub fn end(&mut self, key: usize) {
        self.waiting.retain(|sequence| sequence.key != key);
        self.came.retain(|(other, _)| *other != key);
        let Some(index) = self.active.iter().position(|sequence| sequence.key == key) else { return };
        let sequence = self.active.remove(index);
        self.full = false;
        // Steps that are still in flight count as computed positions too.
        let held =
            if sequence.is_prefilled() { sequence.request.ids.len() + sequence.enqueued - 1 } else { sequence.held };
        self.places.release(key, if sequence.is_prefilled() { &sequence.taken } else { &[] }, held);
        if !sequence.is_prefilled() {
            self.pictures.leave(&sequence.pictures);
        }
    }

    /// The times of a sequence so far.
    pub fn times(&self, key: usize) -> Option<Times> {
        self.active.iter().find(|sequence| sequence.key == key).map(Sequence::times)
    }

    fn depth(&self) -> usize {
        self.session.as_ref().map_or(1, |session| session.depth().max(1))
    }

    /// Admits waiting sequences while there is room.
    fn admit(&mut self) {
        while !self.full
            && self.active.len() < self.parallel
            && let Some(sequence) = self.waiting.pop_front()
        {
            self.active.push(sequence);
        }
    }

    /// Submits a piece of work for the first sequence that does not decode yet. Returns false if all decode, or if a
    /// token must be read first.
    fn prefill_some(&mut self) -> Result<bool> {
        let Some(index) = self.active.iter().position(|sequence| !sequence.is_prefilled()) else { return Ok(false) };
        if !self.place(index)? {
            return Ok(false);
        }
        if self.encode_some(index)?.is_some() {
            return Ok(true);
        }
        self.prompt_some(index)
    }

    /// Finds a place for a sequence, reuses positions of another sequence with the same beginning, and writes the ids.
    /// Returns false if the device has no memory for it while other sequences run: it then waits for one to end.
    fn place(&mut self, index: usize) -> Result<bool> {
        if self.active[index].slot.is_some() {
            return Ok(true);
        }
        let unplaced = self.active.iter().filter(|sequence| sequence.slot.is_none()).map(Sequence::length);
        let more: usize = unplaced.sum::<usize>() - self.active[index].length();
        let each = self.model.image_tokens();
        let sequence = &self.active[index];
        // The device may hold fewer pictures than the next prompts may contain again.
        let most = KEPT_PICTURES.max(2 * self.parallel).min(self.model.engine.pictures());
        let (serials, gone) = self.pictures.take(&sequence.request.images, most);
        gone.into_iter().for_each(|serial| self.places.forget(serial));
        let ids = self.model.picture_ids();
        let token = |&id: &u32| match ids.row(id) {
            Some(row) => Token::Picture { serial: serials[row / each], row: row % each },
            None => Token::Id(id),
        };
        let tokens: Vec<Token> = sequence.request.ids.iter().map(token).collect();
        let (key, length, stretch) = (sequence.key, sequence.length(), sequence.stretch);
        let continues = sequence.request.continues;
        let others = self.active.iter().any(|sequence| sequence.slot.is_some());
        let mut taken = self.places.take(key, length, tokens.clone(), continues, stretch);
        let mut grown = self.grow(self.places.end(), more, others || taken.start > 0)?;
        if !grown && !others {
            // Only places that sequences left are in its way.
            self.places.clear();
            taken = self.places.take(key, length, tokens, continues, stretch);
            grown = self.grow(self.places.end(), more, false)?;
        }
        if !grown {
            self.places.give_back(key, &taken);
            self.pictures.done(&serials);
            self.put_back();
            return Ok(false);
        }

        let session = self.session.as_mut().expect("it has just grown");
        if let Some(from) = taken.copy_from {
            session.copy(from, taken.start, taken.held)?;
        }
        let sequence = &mut self.active[index];
        let device_ids: Vec<u32> = sequence.request.ids[taken.held..]
            .iter()
            .map(|&id| match ids.row(id) {
                Some(row) => ids.id(self.pictures.slot(serials[row / each]) * each + row % each),
                None => id,
            })
            .collect();
        session.set_tokens(taken.start + taken.held, &device_ids)?;
        (sequence.slot, sequence.held, sequence.pictures) = (Some(taken.start), taken.held, serials);
        Ok(true)
    }

    /// Makes room for `needed` positions, and at once for `more` if the device has the memory. If it has none for
    /// `needed`, the result is false where `fewer` may do, else an error.
    fn grow(&mut self, needed: usize, more: usize, fewer: bool) -> Result<bool> {
        if self.session.is_some() && needed <= self.places.capacity {
            return Ok(true);
        }
        for capacity in [needed + more, needed] {
            let last = capacity == needed && !fewer;
            if capacity >= self.refused && !last {
                continue;
            }
            let grown = match &mut self.session {
                Some(session) => session.reserve(capacity),
                None => self.model.engine.session(capacity).map(|session| self.session = Some(session)),
            };
            match grown {
                Ok(()) => {
                    self.places.capacity = capacity;
                    return Ok(true);
                }
                Err(error) if last || error.kind() != ErrorKind::OutOfMemory => return Err(error),
                Err(_) => self.refused = self.refused.min(capacity),
            }
        }
        Ok(false)
    }

    /// Lets the sequences without a place wait until another one ends.
    fn put_back(&mut self) {
        let (placed, others) = std::mem::take(&mut self.active).into_iter().partition(|s| s.slot.is_some());
        self.active = placed;
        let others: Vec<Sequence> = others;
        others.into_iter().rev().for_each(|sequence| self.waiting.push_front(sequence));
        self.full = true;
    }

    /// The pictures of a sequence that are not read yet.
    fn missing_pictures(&self, index: usize) -> impl Iterator<Item = usize> {
        let sequence = &self.active[index];
        sequence.pictures.iter().copied().filter(|&serial| !self.pictures.is_encoded(serial))
    }

    /// Reads a slice of the first missing picture: (done, of all). `None` if no picture is missing.
    fn encode_some(&mut self, index: usize) -> Result<Option<(usize, usize)>> {
        let Some(serial) = self.missing_pictures(index).next() else { return Ok(None) };
        let start = Instant::now();
        let session = self.session.as_mut().expect("a sequence with a place has a session");
        if !self.pictures.is_begun(serial) {
            let first = self.pictures.slot(serial) * self.model.image_tokens();
            session.encode(self.pictures.pixels(serial), first)?;
            self.pictures.begun(serial);
        }
        let (done, all) = session.encode_slice()?;
        if done == all {
            self.pictures.encoded(serial);
        }
        self.active[index].clock.picture(start);
        Ok(Some((done, all)))
    }

    /// Runs a chunk of a prompt. Returns false if a token must be read first.
    fn prompt_some(&mut self, index: usize) -> Result<bool> {
        let depth = self.depth();
        let sequence = &mut self.active[index];
        let (length, slot) = (sequence.request.ids.len(), sequence.slot.expect("a place"));
        let start = sequence.held;
        let end = length.min(start + self.model.engine.chunk());
        if end == length && self.in_flight.len() >= depth {
            return Ok(false);
        }
        sequence.clock.start();
        let ids = self.model.picture_ids();
        let images = sequence.request.ids[start..end].iter().any(|&id| ids.row(id).is_some());
        let rows = sequence.request.sampling.row(slot, start).stretched(sequence.stretch).follow(end - start);
        let want = if end == length { Want::Token } else { Want::Nothing };
        let step = Step { rows: &rows, family: Family::Many, want, logits: sequence.request.logits, images };
        let session = self.session.as_mut().expect("a session");
        if end == length && sequence.request.mask.is_some() {
            session.run_changed(&step, &mut |_, logits| sequence.mask(logits))?;
        } else {
            session.run(&step)?;
        }
        sequence.held = end;
        self.places.hold(sequence.key, end);
        if end == length {
            sequence.enqueued = 1;
            self.in_flight.push_back(vec![sequence.key]);
            self.pictures.done(&sequence.pictures);
        }
        Ok(true)
    }

    /// Runs a step of all sequences that decode. Returns false if none decodes, or if enough steps are in flight.
    fn decode_some(&mut self) -> Result<bool> {
        if self.in_flight.len() >= self.depth() {
            return Ok(false);
        }
        self.rows.clear();
        let mut keys = Vec::new();
        let (mut logits, mut masked) = (false, false);
        for sequence in self.active.iter_mut().filter(|sequence| sequence.decodes()) {
            let position = sequence.request.ids.len() + sequence.enqueued - 1;
            let row = sequence.request.sampling.row(sequence.slot.expect("a place"), position);
            self.rows.push(row.stretched(sequence.stretch));
            keys.push(sequence.key);
            logits |= sequence.request.logits;
            masked |= sequence.request.mask.is_some();
            sequence.enqueued += 1;
        }
        if keys.is_empty() {
            return Ok(false);
        }
        let step = Step { rows: &self.rows, family: Family::Few, want: Want::Token, logits, images: false };
        let session = self.session.as_mut().expect("a session");
        if masked {
            let active = &mut self.active;
            session.run_changed(&step, &mut |row, logits| {
                let sequence = active.iter_mut().find(|sequence| sequence.key == keys[row]);
                sequence.expect("its row is in the step").mask(logits)
            })?;
        } else {
            session.run(&step)?;
        }
        self.in_flight.push_back(keys);
        Ok(true)
    }

    /// Reads the tokens of the oldest step. Those of sequences that ended are dropped.
    fn take(&mut self) -> Result<()> {
        let Some(keys) = self.in_flight.pop_front() else { return Ok(()) };
        self.session.as_mut().expect("a session").sampled(&mut self.chosen)?;
        for (key, sampled) in keys.into_iter().zip(self.chosen.drain(..)) {
            if let Some(sequence) = self.active.iter_mut().find(|sequence| sequence.key == key) {
                sequence.clock.token(sequence.taken.is_empty());
                sequence.taken.push(sampled.id);
                self.came.push_back((key, sampled));
            }
        }
        Ok(())
    }
}

/// The pictures whose rows a session has, or will have. A picture that several prompts contain is read once.
#[derive(Default)]
struct Pictures {
    pictures: Vec<Picture>,
    serials: usize,
}

struct Picture {
    serial: usize,
    /// Its rows are `slot · M ..` of the session's, with M rows a picture.
    slot: usize,
    pixels: Arc<Vec<f32>>,
    state: Encoding,
    /// The number of sequences whose prompts have yet to read it.
    users: usize,
}

#[derive(PartialEq, Eq)]
enum Encoding {
    Not,
    Begun,
    Done,
}

/// Pictures that are kept, because the next prompts may contain them again.
const KEPT_PICTURES: usize = 16;

impl Pictures {
    /// The serials of some pictures, in order, and the serials of pictures that were dropped, so that at most `most`
    /// are kept. Their slots are below `most` unless more are in use.
    fn take(&mut self, images: &[Arc<Vec<f32>>], most: usize) -> (Vec<usize>, Vec<usize>) {
        let (mut serials, mut gone) = (Vec::new(), Vec::new());
        for pixels in images {
            let known = self.pictures.iter_mut().find(|p| Arc::ptr_eq(&p.pixels, pixels) || p.pixels == *pixels);
            if let Some(picture) = known {
                picture.users += 1;
                serials.push(picture.serial);
                continue;
            }
            if self.pictures.len() >= most
                && let Some(oldest) = self.pictures.iter().position(|picture| picture.users == 0)
            {
                gone.push(self.pictures.remove(oldest).serial);
            }
            let slot = (0..).find(|slot| self.pictures.iter().all(|picture| picture.slot != *slot));
            let (slot, serial) = (slot.expect("some number is free"), self.serials);
            self.serials += 1;
            self.pictures.push(Picture { serial, slot, pixels: pixels.clone(), state: Encoding::Not, users: 1 });
            serials.push(serial);
        }
        (serials, gone)
    }

    /// Marks pictures as read by a prompt.
    fn done(&mut self, serials: &[usize]) {
        for &serial in serials {
            self.of_mut(serial).users -= 1;
        }
    }

    /// Marks pictures as no longer needed by a prompt. A picture that is half read is read again from its beginning for
    /// the next prompt.
    fn leave(&mut self, serials: &[usize]) {
        self.done(serials);
        for &serial in serials {
            let picture = self.of_mut(serial);
            if picture.state == Encoding::Begun {
                picture.state = Encoding::Not;
            }
        }
    }

    fn slot(&self, serial: usize) -> usize {
        self.of(serial).slot
    }

    fn pixels(&self, serial: usize) -> &[f32] {
        &self.of(serial).pixels
    }

    fn is_encoded(&self, serial: usize) -> bool {
        self.of(serial).state == Encoding::Done
    }

    fn is_begun(&self, serial: usize) -> bool {
        self.of(serial).state == Encoding::Begun
    }

    /// Marks a picture as being read.
    fn begun(&mut self, serial: usize) {
        self.of_mut(serial).state = Encoding::Begun;
    }

    fn encoded(&mut self, serial: usize) {
        self.of_mut(serial).state = Encoding::Done;
    }

    fn of(&self, serial: usize) -> &Picture {
        self.pictures.iter().find(|picture| picture.serial == serial).expect("a picture in use stays")
    }

    fn of_mut(&mut self, serial: usize) -> &mut Picture {
        self.pictures.iter_mut().find(|picture| picture.serial == serial).expect("a picture in use stays")
    }
}
