//! `pve-tunnel leftovers`: the decisions as tables, and what is collected on a node that is a
//! directory tree with fakes of `pvesm` and `pvesh`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod collect;
mod decide;
mod node;
