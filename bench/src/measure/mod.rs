//! Contests between pve-tunnel and its peers, and their results.
//!
//! | module | provides |
//! |---|---|
//! | `clocks` | rates, and the CPU time of processes |
//! | `contest` | contenders that take turns |
//! | `rows` | the rows of a case, printed when they are added |

mod clocks;
mod contest;
mod rows;

pub use bench_report::{Goal, Row, STOCK, Spread, Title};
pub use clocks::{Clocks, GIB, rate};
pub use contest::{Contender, Contest, Effort, Sample};
pub use rows::Rows;
