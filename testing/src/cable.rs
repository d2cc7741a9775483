//! Two network namespaces, one for the source node and one for the target node, and a veth link
//! between them. The link can drop every packet.

use crate::namespace::{NamespaceThread, add_addresses, run};
use crate::seam::{NegotiatedTunnel, Seam};
use crate::{listener::Listener, seam};
use serde_json::{Value, json};
use std::net::IpAddr;

/// The addresses of the source node and of the target node: IPv4 and IPv6.
pub const SOURCE_ADDRESSES: [&str; 2] = ["10.77.0.1", "fd77::1"];
pub const TARGET_ADDRESSES: [&str; 2] = ["10.77.0.2", "fd77::2"];

/// The IPv4 address of the source after a change.
const OTHER_SOURCE_ADDRESS: &str = "10.77.0.3";

/// An address in the network of the link that neither node has, in each family.
pub const UNUSED_ADDRESSES: [&str; 2] = ["10.77.0.9", "fd77::9"];

const SOURCE_MAC: &str = "02:00:00:00:77:01";
const TARGET_MAC: &str = "02:00:00:00:77:02";
const UNUSED_MAC: &str = "02:00:00:00:77:ff";

const JUMBO_FRAMES: &str = "ip link set mig0 mtu 9000 gso_max_size 9000";

/// The link. The thread that creates it must be in a network namespace of its own, which becomes
/// the source node. Both interfaces are named mig0.
#[derive(Clone)]
pub struct Cable {
    target: NamespaceThread,
}

impl Cable {
    pub fn new() -> Self {
        let target = NamespaceThread::new();
        let thread = target.thread();
        run(&format!(
            "ip link add mig0 address {SOURCE_MAC} type veth peer name mig0 address {TARGET_MAC} netns {thread}"
        ));
        let cable = Self { target };
        run("ip link set mig0 up");
        cable.on_target(|| {
            run("ip link set mig0 up");
            add_link_addresses(TARGET_ADDRESSES);
        });
        add_link_addresses(SOURCE_ADDRESSES);
        cable.restore();
        cable
    }

    /// Runs a job in the target's namespace and returns its result. Threads and programs that the
    /// job starts stay in that namespace.
    pub fn on_target<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        self.target.execute(job)
    }

    /// Drops every packet of both directions from now on, without an error at either node: the
    /// packets go to a MAC address that no interface has.
    pub fn cut(&self) {
        self.set_neighbours(UNUSED_MAC, UNUSED_MAC);
    }

    /// Delivers packets again.
    pub fn restore(&self) {
        self.set_neighbours(TARGET_MAC, SOURCE_MAC);
    }

    /// Makes both nodes send packets of up to 9000 bytes. Without its own limit, the kernel would pass
    /// larger ones over the link in one piece, whatever the MTU at the other end is. To be called
    /// before there is a connection.
    pub fn enable_jumbo_frames(&self) {
        run(JUMBO_FRAMES);
        self.on_target(|| run(JUMBO_FRAMES));
    }

    /// Replaces the source's IPv4 address by another one. Packets of connections from the earlier one are
    /// dropped without an error.
    pub fn change_source_address(&self) {
        // Otherwise, the kernel removes both.
        std::fs::write("/proc/sys/net/ipv4/conf/mig0/promote_secondaries", "1").unwrap();
        add_addresses("mig0", &[&format!("{OTHER_SOURCE_ADDRESS}/24")]);
        self.on_target(|| {
            run(&format!(
                "ip neigh replace {OTHER_SOURCE_ADDRESS} lladdr {SOURCE_MAC} dev mig0 nud permanent"
            ));
        });
        run(&format!("ip addr del {}/24 dev mig0", SOURCE_ADDRESSES[0]));
    }

    /// Drops every packet to the target above 1500 bytes from now on, without an error at either node.
    /// The target still announces segments of 8960 bytes, as if a switch dropped the packets.
    pub fn drop_large_packets_to_target(&self) {
        self.on_target(|| drop_large_packets(TARGET_ADDRESSES[0]));
    }

    /// The same for packets to the source.
    pub fn drop_large_packets_to_source(&self) {
        drop_large_packets(SOURCE_ADDRESSES[0]);
    }

    fn set_neighbours(&self, target_mac: &'static str, source_mac: &'static str) {
        set_neighbour(TARGET_ADDRESSES, target_mac);
        self.on_target(move || set_neighbour(SOURCE_ADDRESSES, source_mac));
    }

    /// A seam whose listener is on the target node. The control plane does not use the link.
    pub fn seam(&self) -> Seam {
        let cable = self.clone();
        Seam::with_listeners(move |options| cable.on_target(move || Listener::start(options)))
    }

    /// A tunnel after its negotiation, whose direct connections use the link.
    pub fn tunnel(&self, plane: &str, dead_peer_timeout: u64) -> NegotiatedTunnel {
        self.tunnel_with_lanes(plane, dead_peer_timeout, 1)
    }

    /// The same, with so many lanes for a stream.
    pub fn tunnel_with_lanes(
        &self,
        plane: &str,
        dead_peer_timeout: u64,
        lanes: u16,
    ) -> NegotiatedTunnel {
        let fields = json!({
            "dead_peer_timeout": dead_peer_timeout, "lanes": lanes, "first_lanes": lanes
        });
        NegotiatedTunnel::on_plane(plane, self.seam(), &plane_request(plane, &fields))
    }
}

/// Drops every packet to these addresses, without an ICMP error.
pub fn drop_packets_to(addresses: [&str; 2]) {
    set_neighbour(addresses, UNUSED_MAC);
}

fn drop_large_packets(own_address: &str) {
    run("ip link set mig0 mtu 1500");
    run(&format!(
        "ip route replace 10.77.0.0/24 dev mig0 src {own_address} advmss 8960"
    ));
}

fn add_link_addresses([v4, v6]: [&str; 2]) {
    add_addresses("mig0", &[&format!("{v4}/24"), &format!("{v6}/64")]);
}

fn set_neighbour(addresses: [&str; 2], mac: &str) {
    for address in addresses {
        run(&format!(
            "ip neigh replace {address} lladdr {mac} dev mig0 nud permanent"
        ));
    }
}

/// The data of the control command `direct` for this link, with these fields added or replaced.
pub fn plane_request(plane: &str, fields: &Value) -> Value {
    let kind = match plane {
        "tls" => "secure",
        _ => "insecure",
    };
    let network = "10.77.0.0/24";
    let mut all = json!({
        "migration_network": network, "network": network, "source_network": network,
    });
    for (name, value) in fields.as_object().unwrap() {
        all[name] = value.clone();
    }
    seam::plane_request_with(kind, &all)
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}
