//! Where the time of a model goes: [`Report`] gathers what a session measured, and the other files show it. `dunlin
//! profile` writes what they return.

mod page;
mod report;
mod roofline;
mod table;
mod text;
mod trace;

pub use page::page;
pub use report::{Line, Report, Subject, Total};
pub use roofline::roofline;
pub use table::table;
pub use trace::trace;
