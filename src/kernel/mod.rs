//! The vocabulary of GPU work, as plain data.
