//! Switching pve-tunnel on and off on a node: the steps, their effect on files and diversions, and
//! what `status` reports.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod node_tree;
mod status;
mod steps;
mod summary;
mod switch;
