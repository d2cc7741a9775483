//! The connector: the command `pve-tunnel connect`, with a scripted target.
//!
//! The crate belongs to the package of the command, because cargo builds a package's binaries
//! before it runs the package's integration tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod certificates;
mod control;
mod data;
mod end;
mod forward;
mod in_process;
mod ping;
mod probe;
mod progress;
mod protocol;
mod record;
mod side_by_side;
mod stop;
mod terminal;
mod tls;
