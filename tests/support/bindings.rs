//! The bindings of a plan, computed from the plan alone.

use dunlin::graph::ValueKind;
use dunlin::plan::Plan;
use dunlin::work::layout::{WeightLayout, codes_words, scales_words};
use dunlin::work::{DeviceProfile, Plane, Slot};

/// The buffer of a slot, and the number of bytes that are bound.
pub fn binding(plan: &Plan, slot: &Slot, profile: &DeviceProfile) -> (String, u64) {
    match *slot {
        Slot::Plane { value, chunk, plane } => {
            let (index, _) = plan.groups.places[&value];
            let stored = &plan.groups.stored[index];
            let (rows, dtype) = (stored.rows.iter().sum(), stored.dtype.expect("a matrix"));
            let rows = WeightLayout::new(dtype, rows, stored.cols, profile.max_binding).chunks[chunk].len();
            let words = match plane {
                Plane::Codes => codes_words(dtype, rows, stored.cols),
                Plane::Scales => scales_words(dtype, rows, stored.cols),
            };
            (format!("weight {index}.{chunk}.{plane:?}"), 4 * words as u64)
        }
        Slot::Value(id) => match &plan.graph.value(id).kind {
            ValueKind::Temp | ValueKind::Input(_) => ("arena".into(), plan.places[&id].1),
            ValueKind::State(name) => (name.clone(), plan.graph.ty(id).bytes(profile)),
            ValueKind::Table(name, data) => (name.clone(), 4 * data.len() as u64),
            ValueKind::Weight(names) => (names.join(" + "), 4 * plan.graph.ty(id).count() as u64),
        },
    }
}
