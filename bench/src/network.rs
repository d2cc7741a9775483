//! The network for all measurements, in namespaces of the benchmark's own: loopback, and an emulated
//! link.

use std::{fs, panic, thread};
use testing::link::Link;
use testing::namespace::{run, unshare};

/// Some systems use BBR by default. BBR paces packets with timers, which on loopback costs more
/// than sending them. The kernel allows Reno in every network namespace. Without packet loss, Reno
/// and CUBIC do not differ.
const CONGESTION_CONTROL: &str = "reno";

/// Moves this process to a network namespace of its own, which has known settings and no other
/// traffic. Without root, the process stays in the system's network and reports that.
///
/// Must be called while the process has one thread: threads and programs that it starts later
/// inherit the namespace.
pub fn enter_own_namespace() {
    if let Err(error) = unshare() {
        crate::output::line(format_args!(
            "network: the system's network and congestion control are used: {error}"
        ));
        return;
    }
    run("ip link set lo up");
    let setting = "/proc/sys/net/ipv4/tcp_congestion_control";
    fs::write(setting, CONGESTION_CONTROL).unwrap();
}

/// Runs `work` with a link of its own, in a thread that is the link's source. Fails if this user may
/// not create network namespaces and TUN devices.
pub fn with_link(work: impl FnOnce(&Link) -> Result<(), String> + Send) -> Result<(), String> {
    let source = || {
        unshare().map_err(|error| format!("needs root for network namespaces: {error}"))?;
        run("ip link set lo up");
        let link = Link::new().map_err(|error| format!("needs TUN devices: {error}"))?;
        work(&link)
    };
    thread::scope(|scope| scope.spawn(source).join())
        .unwrap_or_else(|panic| panic::resume_unwind(panic))
}
