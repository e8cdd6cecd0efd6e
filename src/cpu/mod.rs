//! What the CPU does faster than the plain loops that say what is meant. All SIMD of the program is here.

pub mod dot;
