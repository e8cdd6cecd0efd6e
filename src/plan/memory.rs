//! Lifetimes → offsets in one arena: temporaries that are never alive together share bytes.

use std::ops::Range;

/// A temporary: nodes `alive` need its `bytes`.
#[derive(Clone, Debug)]
pub struct Lifetime {
    pub alive: Range<usize>,
    pub bytes: u64,
}

/// Offsets, multiples of `alignment`, and the size of the arena. First fit, in order of first use.
pub fn place(lifetimes: &[Lifetime], alignment: u64) -> (Vec<u64>, u64) {
    let mut order: Vec<usize> = (0..lifetimes.len()).collect();
    order.sort_by_key(|&i| lifetimes[i].alive.start);
    let mut offsets = vec![0; lifetimes.len()];
    let mut placed: Vec<usize> = Vec::new();
    let mut size = 0;
    for i in order {
        let wanted = &lifetimes[i];
        let mut taken: Vec<Range<u64>> = placed
            .iter()
            .filter(|&&j| lifetimes[j].alive.start < wanted.alive.end && wanted.alive.start < lifetimes[j].alive.end)
            .map(|&j| offsets[j]..offsets[j] + lifetimes[j].bytes)
            .collect();
        taken.sort_by_key(|range| range.start);
        let mut offset: u64 = 0;
        for range in taken {
            if offset + wanted.bytes <= range.start {
                break;
            }
            offset = offset.max(range.end.next_multiple_of(alignment));
        }
        offsets[i] = offset;
        size = size.max(offset + wanted.bytes);
        placed.push(i);
    }
    (offsets, size.next_multiple_of(alignment))
}
