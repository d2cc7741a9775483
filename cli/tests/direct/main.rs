//! Direct connections: a connector, a listener, and the seam between them.
//!
//! The crate belongs to the package of the command, because cargo builds a package's binaries
//! before it runs the package's integration tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod admission;
mod api_lanes;
mod backpressure;
mod compression;
mod cut;
mod dial;
mod dial_namespace;
mod end_to_end;
mod heal;
mod heartbeat;
mod import;
mod kill;
mod lanes;
mod limits;
mod list;
mod listener;
mod log;
mod memory;
mod mtu;
mod order;
mod progress;
mod target;
mod tuning;
mod tuning_link;
mod versions;
mod windows;

#[test]
#[ignore = "a process that other tests start"]
fn connector_process() {
    testing::role::connector_process();
}

#[test]
#[ignore = "a process that other tests start"]
fn listener_process() {
    testing::role::listener_process();
}

#[test]
#[ignore = "a process that other tests start"]
fn worker_process() {
    testing::role::worker_process();
}
