//! The programs that ours are measured against, or with.

pub mod node;
pub mod websocat;
