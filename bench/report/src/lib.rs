//! The results of the benchmarks, and the files that are generated from them.
//!
//! The benchmarks (`bench/src`) write the results with this library. `make bench-report` and
//! `make lint` run its program, which does not require that the benchmarks are compiled.
//!
//! A module imports only from modules on lower floors, and `tests/floors.rs` checks this. The
//! highest floor comes first:
//!
//! | module | provides |
//! |---|---|
//! | `files` | all generated files: whether they are current, and their new text |
//! | `distance` | the table of the case `wan` in docs/performance.md |
//! | `markdown` | the other generated blocks of docs/performance.md |
//! | `picture` | `bench/results.svg` and `bench/planes.svg` |
//! | `table` | the table in a terminal |
//! | `group` | one line for many rows: the worst of them |
//! | `results` | `bench/results.json`, the only source of all figures |
//! | `case`, `row` | the names of the cases; the result of one comparison |
//! | `project`, `text` | paths of files; numbers and names as text |

// The callers are programs of the benchmarks: a failed step ends them with a panic, and their names
// need no further description.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::panic)]

pub mod case;
mod distance;
pub mod files;
mod group;
mod markdown;
mod picture;
mod project;
mod results;
mod row;
pub mod table;
pub mod text;

pub use results::Results;
pub use row::{Cost, Costs, Goal, Row, STOCK, Spread, Title};
