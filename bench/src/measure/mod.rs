//! Contests between pve-tunnel and its peers, and their results.
//!
//! | module | provides |
//! |---|---|
//! | `text` | numbers and names as text |
//! | `clocks` | rates, and the CPU time of processes |
//! | `row` | the result of one comparison |
//! | `contest` | contenders that take turns |

mod clocks;
mod contest;
mod row;
pub mod text;

pub use clocks::{Clocks, GIB, rate};
pub use contest::{Contender, Contest, Effort, Sample};
pub use row::{Cost, Costs, Goal, Row, Rows, Spread, Title};
