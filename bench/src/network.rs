//! The network that everything is measured in: loopback, in a namespace of this program's own.

use std::fs;
use testing::namespace::{run, unshare};

/// BBR, which some systems have as the default, paces what it sends with timers, which on loopback
/// costs more than the sending itself. Reno is what every kernel grants to every namespace, and where
/// nothing is lost there is no difference between it and CUBIC.
const CONGESTION_CONTROL: &str = "reno";

/// Leaves the system's network, as root, for one of which the settings are known and nobody else's.
/// To be called while this program has one thread: those that it starts later, and the programs,
/// come along.
pub fn leave_for_own() {
    if let Err(error) = unshare() {
        println!("network: the system's, with its own congestion control: {error}");
        return;
    }
    run("ip link set lo up");
    let setting = "/proc/sys/net/ipv4/tcp_congestion_control";
    fs::write(setting, CONGESTION_CONTROL).unwrap();
}
