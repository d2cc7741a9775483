//! Functions that depend on the kernel: relays between sockets, ports, addresses and routes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod guard_namespace;
mod network_namespace;
mod port;
mod relay;
mod relay_half_close;
mod relay_process;
mod relay_splice;
mod relay_splice_end;
mod reservations;

/// The relay process: `testing::relay::process` starts this executable with the name of this test.
#[test]
fn relay_process() {
    testing::relay::serve();
}
