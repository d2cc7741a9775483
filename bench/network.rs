//! The network in which figures are taken.

use crate::support::namespace;
use std::thread;

/// Paces nothing. Some machines' default does (BBR), and on loopback that costs more than the bytes.
/// This is the only one that the kernel lets every namespace choose; where nothing gets lost it is as
/// good as cubic.
const CONGESTION_CONTROL: &str = "reno";

/// Does it in a network of its own, with everything that it starts: the machine's settings are left
/// alone. Without the right to make one (root) it is done in the machine's network, as that is.
pub fn within<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let inside = thread::scope(|scope| {
        let inside = scope.spawn(|| {
            match namespace::unshare() {
                Ok(()) => set_up(),
                Err(error) => println!("  in the machine's own network: {error}"),
            }
            work()
        });
        inside.join()
    });
    inside.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn set_up() {
    namespace::run("ip link set lo up");
    std::fs::write(
        "/proc/sys/net/ipv4/tcp_congestion_control",
        CONGESTION_CONTROL,
    )
    .unwrap();
}
