//! How the QEMU of a source reaches that of a target.

use crate::measure::Clocks;
use crate::peer::node::Node;
use crate::qemu::Qemu;
use crate::tunnel::Tunnel;
use serde_json::{Value, json};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use testing::seam::NegotiatedTunnel;

/// How the source's QEMU reaches the target's.
pub enum Transport {
    /// Through a TCP connection of their own.
    Bare,
    /// Through UNIX sockets at the ends of a tunnel.
    Direct(Box<NegotiatedTunnel>),
    Websocket(Box<Node>),
}

impl Transport {
    /// The address on which the target's QEMU listens, and the one to which the source's QEMU
    /// connects (QMP's SocketAddress).
    pub(super) fn addresses(&mut self, directory: &Path) -> (Value, Value) {
        match self {
            Self::Bare => {
                // The port stays free: no other program uses this network namespace.
                let free = TcpListener::bind("127.0.0.1:0").unwrap();
                let port = free.local_addr().unwrap().port().to_string();
                let address = json!({ "type": "inet", "host": "127.0.0.1", "port": port });
                (address.clone(), address)
            }
            Self::Direct(tunnel) => {
                let forward = |remote: &Path| {
                    let remote = remote.to_str().unwrap();
                    tunnel.connector.forward(&tunnel.target, remote)
                };
                unix_addresses(directory, forward)
            }
            Self::Websocket(node) => unix_addresses(directory, |remote| node.forward(remote)),
        }
    }

    /// The clocks of all processes in the path.
    pub(super) fn clocks(&self, source: &Qemu, target: &Qemu) -> Clocks {
        let mut processes = match self {
            Self::Bare => vec![],
            Self::Direct(tunnel) => tunnel.processes(),
            Self::Websocket(node) => node.processes(),
        };
        processes.push(("QEMU source", source.pid()));
        processes.push(("QEMU target", target.pid()));
        Clocks::new(processes)
    }
}

/// A socket of the target, and the source's socket that is forwarded to it.
fn unix_addresses(directory: &Path, forward: impl FnOnce(&Path) -> PathBuf) -> (Value, Value) {
    let remote = directory.join("remote.sock");
    let local = forward(&remote);
    let [remote, local] = [remote, local].map(|path| json!({ "type": "unix", "path": path }));
    (remote, local)
}
