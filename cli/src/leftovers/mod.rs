//! `leftovers`: what interrupted migrations may have left on this node, with the commands that
//! remove it. Removes nothing itself.
//!
//! | file | content |
//! |---|---|
//! | `facts` | what was found on the node: plain data |
//! | `parse` | the formats of Proxmox VE and of the kernel |
//! | `collect` | reads files, and runs `pvesm` and `pvesh` |
//! | `decide` | what of the facts is a leftover, and the advice: a pure function |
//! | `report` | the output for people |
//!
//! Advice that removes something in use is worse than none. So a guest is never reported while a
//! task is running for it, and tasks are read twice, before and after the locks.

mod collect;
mod decide;
mod facts;
mod parse;
mod report;

pub use collect::{CollectError, collect};
pub use decide::{InProgress, Kind, Leftover, Leftovers, Remedy, decide};
pub use facts::{EndedTask, Facts, Guest, GuestKind, Process, Role, RunningTask, Socket, Volume};
