//! What an engine makes once and keeps: the plans of passes, and a vision half that may be dropped.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Result;
use crate::models::Pass;
use crate::plan::Plan;
use crate::work::Family;

/// The largest number of passes with kept data. Prompts have passes of many lengths, which would fill the memory.
const MOST_KEPT: usize = 32;

/// Data kept for each pass. If there are too many passes, those of prompts are dropped and those of decoding stay.
pub struct PerPass<T>(HashMap<Pass, T>);

impl<T> Default for PerPass<T> {
    fn default() -> Self {
        PerPass(HashMap::new())
    }
}

impl<T> PerPass<T> {
    pub fn get(&self, pass: &Pass) -> Option<&T> {
        self.0.get(pass)
    }

    pub fn insert(&mut self, pass: Pass, made: T) {
        if self.0.len() >= MOST_KEPT {
            self.0.retain(|pass, _| pass.family == Family::Few);
        }
        self.0.insert(pass, made);
    }

    /// Drops the data of the passes for which `keep` is false.
    #[cfg(feature = "gpu")]
    pub fn retain(&mut self, keep: impl Fn(&Pass) -> bool) {
        self.0.retain(|pass, _| keep(pass));
    }
}

/// The plans of a model: each is made when its pass is first needed.
pub struct Plans {
    make: Box<dyn Fn(Pass) -> Result<Plan> + Send + Sync>,
    kept: Mutex<PerPass<Arc<Plan>>>,
}

impl Plans {
    pub fn new(make: impl Fn(Pass) -> Result<Plan> + Send + Sync + 'static) -> Self {
        Plans { make: Box::new(make), kept: Mutex::default() }
    }

    pub fn get(&self, pass: Pass) -> Result<Arc<Plan>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(plan) = kept.get(&pass) {
            return Ok(plan.clone());
        }
        let plan = Arc::new((self.make)(pass)?);
        kept.insert(pass, plan.clone());
        Ok(plan)
    }
}

/// A part of an engine that may be dropped while the engine stays.
pub struct Releasable<T>(Mutex<Option<Arc<T>>>);

impl<T> Releasable<T> {
    pub fn new(part: Option<T>) -> Self {
        Releasable(Mutex::new(part.map(Arc::new)))
    }

    /// `None` if there never was one, and after its release.
    pub fn get(&self) -> Option<Arc<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Drops the part. Its memory is freed when no caller of [`Releasable::get`] holds it any more.
    pub fn release(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
