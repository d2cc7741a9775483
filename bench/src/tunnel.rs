//! What all tunnels have in common: pve-tunnel on each plane, and its peers.

use std::os::unix::net::UnixStream;

/// Names of pve-tunnel's processes in the results.
pub const CONNECTOR: &str = "connector";
pub const LISTENER: &str = "listener";

/// Processes that carry bytes from one UNIX socket to another.
pub trait Tunnel {
    /// Opens a connection through the tunnel.
    fn connect(&mut self) -> Ends;
    /// Name and PID of each process in the path, the source's process first.
    fn processes(&self) -> Vec<(&str, u32)>;
}

/// The two ends of a connection. The source has connected, and the sink was accepted.
pub struct Ends {
    pub source: UnixStream,
    pub sink: UnixStream,
}

impl Tunnel for Box<dyn Tunnel> {
    fn connect(&mut self) -> Ends {
        (**self).connect()
    }

    fn processes(&self) -> Vec<(&str, u32)> {
        (**self).processes()
    }
}
